package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stage tells how far inside the process is; group is the name of the cluster's cgroups.
const (
	stage = "PATCHBAY_E2E_STAGE"
	group = "PATCHBAY_E2E_CGROUP"
)

// Enter runs fn in network, mount and process namespaces of its own, as a process of its own, and
// returns its exit code: whatever fn starts, mounts or makes is gone when it returns, except cgroups,
// which are removed.
func Enter(fn func() int) int {
	switch os.Getenv(stage) {
	case "inside":
		return fn()
	case "init":
		if err := mounts(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		return initProcess()
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: a cluster of real nodes needs root")
		return 1
	}
	name := fmt.Sprintf("patchbay-e2e-%d", os.Getpid())
	defer removeCgroups(name)
	cmd := self("init", group+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	return run(cmd)
}

func self(next string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), env...), stage+"="+next)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// run runs a command, passes signals on to it, and returns its exit code.
func run(cmd *exec.Cmd) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return max(exit.ExitCode(), 1)
			}
			if err != nil {
				return 1
			}
			return 0
		}
	}
}

// initProcess is process 1 of the namespace: it starts the real one, and waits for every orphan
// that is left to it.
func initProcess() int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := os.Setenv(stage, "inside"); err != nil {
		return 1
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = child.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return 1
		}
		if pid == child.Pid {
			if status.Signaled() {
				return 1
			}
			return status.ExitStatus()
		}
	}
}

// Dir is where everything of the cluster is: a file system in memory that goes with the namespace.
const Dir = "/mnt"

func mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"tmpfs", Dir}, {"tmpfs", "/run"}} {
		if err := unix.Mount("none", m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// cgroups returns the cgroup of a name in every hierarchy: one with cgroup v2, several with v1.
func cgroups(name string) []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup/" + name}
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for i, d := range dirs {
		dirs[i] = filepath.Join(filepath.Dir(d), name)
	}
	return dirs
}

// makeCgroups makes them; kubelet wants its root to exist in every hierarchy of v1, cpuset filled in.
func makeCgroups(name string) error {
	for _, dir := range cgroups(name) {
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				above, err := os.ReadFile(filepath.Join(filepath.Dir(d), f))
				if err != nil || !strings.Contains(d, "/cpuset/") {
					continue
				}
				if err := os.WriteFile(filepath.Join(d, f), above, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeCgroups removes a tree of cgroups that no process is in any more.
func removeCgroups(name string) {
	for _, root := range cgroups(name) {
		var dirs []string
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil {
				fmt.Fprintln(os.Stderr, "e2e: cgroup is left:", err)
			}
		}
	}
}

// WriteEnter writes a script by which a user outside runs a command inside: next to the control
// plane, or, with a node's name before it, on that node.
func (c *Cluster) WriteEnter(path string) error {
	// The process that has process 1 of the namespace as its child, as it is known outside.
	outside, err := os.ReadFile(filepath.Join(filepath.Dir(path), "pid"))
	if err != nil {
		return err
	}
	nodes := map[string]int{}
	for _, n := range c.Nodes {
		nodes[n.Name] = int(n.pid.Load())
	}
	return os.WriteFile(path, []byte(enterScript(strings.TrimSpace(string(outside)), c.Root, nodes)), 0o755)
}

// enterScript keeps the caller's working directory where it is there inside, too: a mount namespace
// is entered at its root.
func enterScript(outside, root string, nodes map[string]int) string {
	const stay = `sh -c 'cd "$0" 2>/dev/null; exec "$@"' "$PWD" "$@"`
	script := "#!/bin/sh\n# Runs a command in the test cluster: enter [n1|n2] COMMAND...\n" +
		"init=$(cat /proc/" + outside + "/task/*/children)\ninit=${init%% *}\n" +
		"inside=\"nsenter -t $init -m -n -p --\"\ncase $1 in\n"
	for _, n := range slices.Sorted(maps.Keys(nodes)) {
		script += fmt.Sprintf("%s) shift; exec $inside nsenter -t %d -m -n -u -p -- env PATH=%s/bin:$PATH %s ;;\n", n, nodes[n], root, stay)
	}
	return script + "*) exec $inside " + stay + " ;;\nesac\n"
}
