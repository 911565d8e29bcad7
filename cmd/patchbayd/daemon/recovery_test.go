package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// stored are records in memory; fails makes the next write fail.
type stored struct {
	all   map[string]*attach.Sandbox
	fails error
}

func (s *stored) Load(context.Context) (all []*attach.Sandbox, unreadable []string, err error) {
	for _, r := range s.all {
		all = append(all, r)
	}
	return all, nil, nil
}

func (s *stored) Save(_ context.Context, r *attach.Sandbox, _ txn.Txn) error {
	if s.fails == nil {
		s.all[r.ContainerID] = r
	}
	return s.fails
}

func (s *stored) Remove(_ context.Context, r *attach.Sandbox, _ txn.Txn) error {
	if s.fails == nil {
		delete(s.all, r.ContainerID)
	}
	return s.fails
}

func TestTheFileIsThereAsLongAsThereAreRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state") // nothing has made it yet
	file := filepath.Join(dir, "recorded")
	etcd := &stored{all: map[string]*attach.Sandbox{}}
	n := noteRecords(etcd, file, "boot", slog.New(slog.DiscardHandler))
	expect := func(when string, want bool) {
		t.Helper()
		if n.had() != want {
			t.Errorf("%s: the file says %v", when, n.had())
		}
	}
	try := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Error(err)
		}
	}
	ctx, one, two := t.Context(), &attach.Sandbox{ContainerID: "1"}, &attach.Sandbox{ContainerID: "2"}
	expect("at the first start", false)
	etcd.fails = txn.ErrConflict
	try(n.Save(ctx, one, nil), txn.ErrConflict)
	expect("after a record that was refused", false)
	etcd.fails = nil
	try(n.Save(ctx, one, nil), nil)
	expect("after the first record", true)
	try(n.Save(ctx, one, nil), nil)
	try(n.Save(ctx, two, nil), nil)
	try(n.Remove(ctx, one, nil), nil)
	expect("with one record left", true)
	etcd.fails = txn.ErrUnavailable
	try(n.Remove(ctx, two, nil), txn.ErrUnavailable)
	expect("as the last record could not be removed", true)
	etcd.fails = nil

	n = noteRecords(etcd, file, "boot", slog.New(slog.DiscardHandler))
	_, _, err := n.Load(ctx)
	try(err, nil)
	try(n.Remove(ctx, two, nil), nil)
	expect("after the last record, by the next daemon", false)

	try(n.Save(ctx, one, nil), nil)
	etcd.all = map[string]*attach.Sandbox{}
	n = noteRecords(etcd, file, "boot", slog.New(slog.DiscardHandler))
	_, _, err = n.Load(ctx)
	try(err, nil)
	expect("when etcd has lost the records", true)
	n.settle()
	expect("when nothing was lost by that", false)
	if err := os.WriteFile(file, []byte("an earlier boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("after a reboot", false)
}

func TestTheFileIsWrittenWithTheNextRecordIfItCouldNotBe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	n := noteRecords(&stored{all: map[string]*attach.Sandbox{}}, filepath.Join(dir, "recorded"), "boot", slog.New(slog.DiscardHandler))
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file where the directory is to be
		t.Fatal(err)
	}
	for i, id := range []string{"1", "2"} {
		if err := n.Save(t.Context(), &attach.Sandbox{ContainerID: id}, nil); err != nil {
			t.Fatal(err)
		}
		if n.had() != (i == 1) {
			t.Errorf("after record %s: the file says %v", id, n.had())
		}
		_ = os.Remove(dir)
	}
}
