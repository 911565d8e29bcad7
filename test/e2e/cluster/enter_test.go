package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestEnterKeepsTheWorkingDirectory runs the script against namespaces as the cluster's are: a
// process outside, and one of them inside that has namespaces of its own, as a node has.
func TestEnterKeepsTheWorkingDirectory(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "node")
	sleep := exec.Command("unshare", "-m", "-n", "-p", "-f", "--mount-proc", "sh", "-c",
		"unshare -m -n -u -p -f --mount-proc sleep 600 & until set -- $(cat /proc/$!/task/*/children) && [ $# = 1 ]; do :; done; echo $1 >"+pidFile+"; wait")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		children, _ := os.ReadFile("/proc/" + strconv.Itoa(sleep.Process.Pid) + "/task/" + strconv.Itoa(sleep.Process.Pid) + "/children")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(children))); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // process 1 of the namespace: all in it go with it
			}
		}
		_ = sleep.Wait()
	})
	var node int
	for deadline := time.Now().Add(20 * time.Second); node == 0; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(pidFile)
		node, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		if time.Now().After(deadline) {
			t.Fatal("no namespace came up")
		}
	}
	dir := filepath.Join(t.TempDir(), "with a space")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "enter")
	if err := os.WriteFile(script, []byte(enterScript(strconv.Itoa(sleep.Process.Pid), "/root-of-nodes", map[string]int{"n1": node})), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(script, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, args := range [][]string{{"pwd"}, {"n1", "pwd"}} {
		if got := run(args...); got != dir {
			t.Errorf("%v: in %q, want %q", args, got, dir)
		}
	}
	if got := run("n1", "sh", "-c", `echo "$1" "$PATH"`, "x", "two words"); !strings.HasPrefix(got, "two words /root-of-nodes/bin:") {
		t.Error(got)
	}
	if outside, inside := run("readlink", "/proc/self/ns/net"), run("n1", "readlink", "/proc/self/ns/net"); outside == inside {
		t.Errorf("both in %s", outside)
	}
	// Where the directory is not there, the command runs all the same.
	run("mount", "-t", "tmpfs", "none", filepath.Dir(dir))
	run("pwd")
}
