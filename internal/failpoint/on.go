//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// actions is parsed once from PATCHBAY_FAILPOINTS="name=kill|panic|error|sleep(50ms)", entries
// separated by commas or semicolons.
var actions = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, e := range strings.FieldsFunc(os.Getenv("PATCHBAY_FAILPOINTS"), func(r rune) bool { return r == ',' || r == ';' }) {
		if name, action, ok := strings.Cut(strings.TrimSpace(e), "="); ok {
			m[name] = action
		}
	}
	return m
})

// Hit does what PATCHBAY_FAILPOINTS says of the point: kill the process, panic, sleep, or return
// an error.
func Hit(name string) error {
	action := actions()[name]
	switch {
	case action == "":
		return nil
	case action == "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case action == "panic":
		panic("failpoint " + name)
	case action == "error":
		return fmt.Errorf("failpoint %s", name)
	case strings.HasPrefix(action, "sleep("):
		d, err := time.ParseDuration(strings.TrimSuffix(strings.TrimPrefix(action, "sleep("), ")"))
		if err != nil {
			return fmt.Errorf("failpoint %s: %w", name, err)
		}
		time.Sleep(d)
		return nil
	}
	return fmt.Errorf("failpoint %s: unknown action %q", name, action)
}
