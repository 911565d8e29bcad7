package delqueue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

func call(id string) Call {
	return Call{Plugin: "patchbay", Request: cniwire.Request{Command: "DEL", ContainerID: id}}
}

func TestCallsComeOutInOrderOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	for _, id := range []string{"a", "b", "c"} {
		if err := Put(dir, call(id)); err != nil {
			t.Fatal(err)
		}
	}
	waiting, err := Waiting(dir)
	if err != nil || len(waiting) != 3 {
		t.Fatalf("%+v, %v", waiting, err)
	}
	for i, id := range []string{"a", "b", "c"} {
		if waiting[i].Request.ContainerID != id {
			t.Errorf("call %d is of %s, want %s", i, waiting[i].Request.ContainerID, id)
		}
	}
	for _, e := range []Entry{waiting[0], waiting[2], waiting[2]} {
		if err := e.Done(); err != nil {
			t.Error(err)
		}
	}
	if left, err := Waiting(dir); len(left) != 1 || err != nil || left[0].Request.ContainerID != "b" {
		t.Errorf("%+v left, %v: what is not done must stay", left, err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestAFullQueueSaysSo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	for range Max {
		if err := Put(dir, call("a")); err != nil {
			t.Fatal(err)
		}
	}
	if err := Put(dir, call("a")); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

func TestADamagedFileIsSetAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	if err := Put(dir, call("a")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	waiting, err := Waiting(dir)
	if len(waiting) != 1 || err == nil || !strings.Contains(err.Error(), "0.json is damaged") {
		t.Errorf("%+v, %v", waiting, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "0.json.bad")); err != nil {
		t.Error(err)
	}
}

// A plugin that is stopped while it queues a call, by a debugger or a freezer, must not hold the others.
func TestALockThatIsKeptHoldsNobodyForEver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	put := make(chan error, 1)
	go func() { put <- Put(dir, call("a")) }()
	select {
	case err := <-put:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the call is not queued")
	}
	if n, err := Len(dir); n != 1 || err != nil {
		t.Errorf("%d calls are queued, %v", n, err)
	}
}
