package crash

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// calls are the system calls at which the daemon is killed: those by which it changes what is outside of it.
const calls = "setns,sendmsg,sendto,write,fdatasync,fsync,renameat"

// TestKilledAtSystemCalls has strace kill the daemon at the n-th system call of a kind that a thread of it does in an
// operation: between steps that have no failpoint, too.
func TestKilledAtSystemCalls(t *testing.T) {
	names := strings.Split("ADD,ADD that fails,ADD again,DEL,GC,attach,attach that fails,detach", ",")
	c := makeCrash(t, slices.DeleteFunc(slices.Clone(operations), func(op operation) bool { return !slices.Contains(names, op.name) }))
	c.startNode()
	c.begin(func(string) bool { return false })
	most := map[string]map[string]int{} // how often a thread does a call at most, by operation
	for _, op := range c.operations {
		c.try(op, "", func() (over func()) {
			log, detach := c.strace("-e", "trace="+calls)
			return func() { detach(); most[op.name] = countCalls(t, log) }
		})
	}
	killed, trials := 0, 40*max(1, *rounds)
	for range trials {
		op := c.operations[c.rand.IntN(len(c.operations))]
		kinds := slices.Sorted(maps.Keys(most[op.name]))
		call := kinds[c.rand.IntN(len(kinds))]
		n := 1 + c.rand.IntN(1+c.rand.IntN(most[op.name][call])) // a thread does few calls more often than many
		inject := fmt.Sprintf("%s:signal=SIGKILL:when=%d", call, n)
		before := c.Daemon
		c.pair(trial{op: op, name: inject, action: call, trouble: func() func() {
			_, detach := c.strace("-e", "trace="+call, "-e", "inject="+inject)
			return detach
		}})
		if c.Daemon != before {
			killed++
		}
	}
	fmt.Printf("killed in %d of %d operations\n", killed, trials)
	if killed < trials/5 { // threads share the calls otherwise each time
		t.Errorf("killed in %d of %d operations only", killed, trials)
	}
	c.report()
}

// strace attaches strace to the daemon, but not to the plugins that it executes, until detach is called.
func (c *crash) strace(args ...string) (log string, detach func()) {
	c.t.Helper()
	log = filepath.Join(c.dir, "strace")
	_ = os.Remove(log)
	pid := strconv.Itoa(c.Daemon.Pid())
	p := testnode.Start(c.t, log+".err", nil, "strace", append([]string{"-f", "-b", "execve", "-o", log, "-p", pid}, args...)...)
	testnode.Eventually(c.t, "strace has attached", func() bool {
		threads, _ := filepath.Glob("/proc/" + pid + "/task/*/status")
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(f string) bool {
			b, err := os.ReadFile(f)
			return err == nil && strings.Contains(string(b), "TracerPid:\t0\n")
		})
	})
	return log, p.Kill // asked to end while the daemon is dying, it would wait for its threads in the wrong order, for ever
}

// countCalls returns how often a thread has done each call at most.
func countCalls(t *testing.T, log string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	most, byThread := map[string]int{}, map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\d+) +(\w+)\(`).FindAllStringSubmatch(string(b), -1) {
		byThread[m[0]]++
		most[m[2]] = max(most[m[2]], byThread[m[0]])
	}
	return most
}
