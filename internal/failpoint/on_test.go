//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAPointDoesWhatTheFileSaysNow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "armed")
	t.Setenv("PATCHBAY_FAILPOINTS_FILE", file)
	t.Setenv("PATCHBAY_FAILPOINTS", "other-point=error")
	arm := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(name string) bool { return Hit(name) != nil }
	if fails("a-point") || !fails("other-point") {
		t.Error("without the file the environment is not what counts")
	}
	arm("a-point=error@2\n")
	if fails("a-point") || !fails("a-point") || fails("a-point") || fails("other-point") {
		t.Error("it is not the second hit, and that alone, that fails")
	}
	arm("a-point=error@1")
	if !fails("a-point") {
		t.Error("hits are not counted anew with another text")
	}
	arm("")
	if fails("a-point") {
		t.Error("it is still armed")
	}
}
