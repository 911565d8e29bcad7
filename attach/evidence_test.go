package attach

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A witness is a runtime that says always the same.
type witness struct {
	ended, asked bool
	err          error
}

func (w witness) Ended(context.Context, string) (ended, asked bool, err error) {
	return w.ended, w.asked, w.err
}

// judged reports whether a sandbox is taken for ended after a time of observations.
func judged(t *testing.T, s *Sandbox, w witness, after time.Duration) (ended bool) {
	t.Helper()
	e, err := New(Options{Runtime: w, GCGrace: time.Minute, UnaskedGrace: 15 * time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	record := *s
	record.BootID = e.bootID
	slot := e.use("c")
	e.put(slot, &record)
	synctest.Test(t, func(t *testing.T) {
		if e.provenGone(t.Context(), &record) {
			t.Error("one observation is enough")
		}
		time.Sleep(after)
		ended = e.provenGone(t.Context(), &record)
	})
	return ended
}

func TestASandboxHasEndedOnlyWithEvidence(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ns")
	place, err := netns.Place(path)
	if err != nil {
		t.Fatal(err)
	}
	gone := &Sandbox{ContainerID: "c", Netns: path, NetnsCookie: 1, NetnsPlace: place}
	silent, confirms, denies, errs := witness{}, witness{ended: true, asked: true}, witness{asked: true}, witness{asked: true, err: errors.New("away")}
	for _, c := range []struct {
		name  string
		w     witness
		after time.Duration
		want  bool
	}{
		{"the runtime confirms it, too early", confirms, 59 * time.Second, false},
		{"the runtime confirms it", confirms, time.Minute, true},
		{"the runtime denies it", denies, time.Hour, false},
		{"the runtime does not answer", errs, time.Hour, false},
		{"nobody can be asked, too early", silent, 14 * time.Minute, false},
		{"nobody can be asked", silent, 15 * time.Minute, true},
	} {
		if ended := judged(t, gone, c.w, c.after); ended != c.want {
			t.Errorf("%s: ended %v, want %v", c.name, ended, c.want)
		}
	}
	elsewhere := *gone
	elsewhere.NetnsPlace = "0:1"
	hidden := *gone
	hidden.Netns = filepath.Join(dir, "none", "ns")
	if judged(t, &elsewhere, confirms, time.Hour) || judged(t, &hidden, confirms, time.Hour) {
		t.Error("a directory that can't be seen is taken for one without namespaces")
	}
}

// /run/netns is unmounted, with all that was mounted in it: the pods live on.
func TestNamespacesThatAreUnmountedWithTheirDirectoryAreNotGone(t *testing.T) {
	one, other := testnode.Netns(t, "ev1"), testnode.Netns(t, "ev2")
	s := &Sandbox{ContainerID: "c", Netns: one}
	h, err := netns.Open(one)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	s.NetnsCookie = h.Cookie()
	if s.NetnsPlace, err = netns.Place(one); err != nil {
		t.Fatal(err)
	}
	confirms := witness{ended: true, asked: true}
	if judged(t, s, confirms, time.Hour) {
		t.Error("a namespace that is there is taken for gone")
	}
	mounted, err := filepath.Glob(filepath.Join(filepath.Dir(one), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range mounted {
		if path != other {
			_ = unix.Unmount(path, unix.MNT_DETACH) // another test's may be gone by now
		}
	}
	if !judged(t, s, confirms, time.Hour) {
		t.Error("one namespace is unmounted, others are not, and it is not taken for gone")
	}
	if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(one); err != nil {
		t.Fatal(err)
	}
	if judged(t, s, confirms, time.Hour) {
		t.Error("all namespaces are unmounted, and they are taken for gone")
	}
}
