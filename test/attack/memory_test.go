package attack

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// daemonMemory is what patchbayd may have: half of what its DaemonSet gives it. With the race detector a program takes
// several times as much.
func daemonMemory(t *testing.T) int {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(testnode.Bin(), "patchbayd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return 5 * 128 << 20
		}
	}
	return 128 << 20
}

// confine puts the daemon into a cgroup with so much memory, and returns what reads a number of the cgroup.
func (n *node) confine(limit int) (read func(v1, v2 string) int) {
	n.t.Helper()
	root, limitFile := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, limitFile)); err != nil {
		root, limitFile = "/sys/fs/cgroup", "memory.max"
		_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0o600) // it may be there already
	}
	dir := filepath.Join(root, fmt.Sprintf("patchbay-test-%d", n.Daemon.Pid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		n.Daemon.Stop()
		testnode.Eventually(n.t, "the cgroup is gone", func() bool { return os.Remove(dir) == nil })
	})
	write := func(file string, v int) {
		n.t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(v)), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	write(limitFile, limit)
	write("cgroup.procs", n.Daemon.Pid())
	return func(v1, v2 string) int {
		n.t.Helper()
		file, key, _ := strings.Cut(v1, " ")
		if root == "/sys/fs/cgroup" {
			file, key, _ = strings.Cut(v2, " ")
		}
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			n.t.Fatal(err)
		}
		fields := strings.Fields(string(b))
		v, err := strconv.Atoi(fields[slices.Index(fields, key)+1])
		if err != nil {
			n.t.Fatal(err)
		}
		return v
	}
}

// More pods than a node has come at once, and end at once, with half of the memory that the DaemonSet gives: all are
// answered, and the daemon is not killed.
func TestLine14ManyADDsUnderALimitOfMemory(t *testing.T) {
	n := newNode(t)
	limit := daemonMemory(t)
	read := n.confine(limit)
	pods := n.many(128, "p", "data,control,vlan")
	begin := time.Now()
	added := 0
	for _, err := range each(pods, n.add) {
		if e := (*types.Error)(nil); err == nil {
			added++
		} else if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
			t.Errorf("%.300v", err)
		}
	}
	t.Logf("%d of %d ADDs after %s", added, len(pods), time.Since(begin).Round(time.Millisecond))
	if err := errors.Join(each(pods, n.Runtime.Del)...); err != nil {
		t.Error(err)
	}
	n.quiet()
	select {
	case <-n.Daemon.Done():
		t.Fatal("the daemon has ended")
	default:
	}
	peak := read("memory.max_usage_in_bytes", "memory.peak")
	t.Logf("%d MiB of %d at most", peak>>20, limit>>20)
	if killed := read("memory.oom_control oom_kill", "memory.events oom_kill"); killed > 0 {
		t.Errorf("%d times killed for its memory", killed)
	}
}
