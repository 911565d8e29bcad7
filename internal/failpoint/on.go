//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// armed is what the points do in this process. It is as the file says that PATCHBAY_FAILPOINTS_FILE
// names, now, and as PATCHBAY_FAILPOINTS says if there is no such file. PATCHBAY_FAILPOINTS_TRACE names a
// file to which each point adds its name.
var armed struct {
	sync.Mutex
	text string
	hits map[string]int // since the text is what it is
}

// action returns what a point is to do, "" for nothing. Both texts are "name=kill|panic|error|sleep(50ms)",
// with entries separated by commas, semicolons or lines. kill@3 is done by the third hit and no other.
func action(name string) string {
	armed.Lock()
	defer armed.Unlock()
	text := os.Getenv("PATCHBAY_FAILPOINTS")
	if b, err := os.ReadFile(os.Getenv("PATCHBAY_FAILPOINTS_FILE")); err == nil {
		text = string(b)
	}
	if text != armed.text || armed.hits == nil {
		armed.text, armed.hits = text, map[string]int{}
	}
	armed.hits[name]++
	for _, e := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(",;\n", r) }) {
		point, do, _ := strings.Cut(strings.TrimSpace(e), "=")
		do, at, counted := strings.Cut(do, "@")
		if point == name && (!counted || at == strconv.Itoa(armed.hits[name])) {
			return do
		}
	}
	return ""
}

// Hit does what is to be done at the point: kill the process, panic, sleep, or return an error.
func Hit(name string) error {
	if file := os.Getenv("PATCHBAY_FAILPOINTS_TRACE"); file != "" {
		trace(file, name)
	}
	switch do := action(name); {
	case do == "":
		return nil
	case do == "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case do == "panic":
		panic("failpoint " + name)
	case do == "error":
		return fmt.Errorf("failpoint %s", name)
	case strings.HasPrefix(do, "sleep("):
		d, err := time.ParseDuration(strings.TrimSuffix(strings.TrimPrefix(do, "sleep("), ")"))
		if err != nil {
			return fmt.Errorf("failpoint %s: %w", name, err)
		}
		time.Sleep(d)
		return nil
	default:
		return fmt.Errorf("failpoint %s: unknown action %q", name, do)
	}
}

// trace adds the point to the file, which a test that reads it while it is written sees whole lines of.
func trace(file, name string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(name + "\n"); err != nil {
		panic(err)
	}
}
