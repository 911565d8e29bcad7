package delqueue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

func never() bool { return false }

func call(id string) Call {
	return Call{Plugin: "patchbay", Request: cniwire.Request{Command: "DEL", ContainerID: id}}
}

func TestCallsComeOutInOrderOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	for _, id := range []string{"a", "b", "c"} {
		if err := Put(dir, call(id), never); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	n, err := Drain(dir, func(c Call) error {
		seen = append(seen, c.Request.ContainerID)
		if c.Request.ContainerID == "b" {
			return errors.New("not now")
		}
		return nil
	})
	if n != 2 || err == nil || strings.Join(seen, "") != "abc" {
		t.Errorf("%d, %v, %v", n, err, seen)
	}
	if left, err := Len(dir); left != 1 || err != nil {
		t.Errorf("%d left, %v: what failed must stay", left, err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestADaemonThatIsBackAnswersInstead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	if err := Put(dir, call("a"), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if n, err := Len(dir); n != 0 || err != nil {
		t.Errorf("%d queued, %v", n, err)
	}
}

func TestAFullQueueSaysSo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	for range Max {
		if err := Put(dir, call("a"), never); err != nil {
			t.Fatal(err)
		}
	}
	if err := Put(dir, call("a"), never); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

func TestADamagedFileIsSetAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	if err := Put(dir, call("a"), never); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Drain(dir, func(Call) error { return nil })
	if n != 1 || err == nil || !strings.Contains(err.Error(), "0.json is damaged") {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "0.json.bad")); err != nil {
		t.Error(err)
	}
}
