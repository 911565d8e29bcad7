package delqueue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/bound"
)

// F10: the file of a queued DEL. Whatever is in it, the other DELs are done, and it is done, too, or set aside
// as it is, by its name.
func FuzzF10QueuedDEL(f *testing.F) {
	for _, s := range []string{`{"plugin":"patchbay","request":{"command":"DEL","containerID":"a","config":{"name":"a"}}}`, "{", "", "null", "[]", `{"request":{"config":` + strings.Repeat("[", 100) + "}}", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := filepath.Join(t.TempDir(), "q")
		if err := Put(dir, call("whole")); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "0.json")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		var waiting []Entry
		var err error
		bound.Check(t, func() { waiting, err = Waiting(dir) })
		if n := len(waiting); n == 0 || waiting[n-1].Request.ContainerID != "whole" {
			t.Fatalf("%q costs the other DEL: %+v, %v", file, waiting, err)
		}
		if len(waiting) == 2 {
			if err := waiting[0].Done(); err != nil {
				t.Error(err)
			}
			return
		}
		kept, readErr := os.ReadFile(path + ".bad")
		if err == nil || !strings.Contains(err.Error(), path) || readErr != nil || string(kept) != string(file) {
			t.Errorf("%q: %v; set aside: %q, %v", file, err, kept, readErr)
		}
	})
}
