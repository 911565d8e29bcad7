package testnode

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is a server that a test started.
type Process struct {
	cmd  *exec.Cmd
	Log  string
	done chan struct{}
}

// Start starts a process with its output in the log file.
func Start(t testing.TB, log string, env []string, name string, args ...string) *Process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s (is it installed? make deps): %v", name, err)
	}
	p := &Process{cmd: cmd, Log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p
}

// Pid returns the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode returns how a process that is done ended.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, waits, and kills it when it doesn't.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.Kill()
	}
}

// Bin returns the directory of the project's binaries for tests: $PATCHBAY_TEST_BIN, as the
// Makefile sets it, or a fresh build.
var Bin = sync.OnceValue(func() string {
	dir := os.Getenv("PATCHBAY_TEST_BIN")
	if dir == "" {
		dir = "/run/bin"
		build("testbin", dir)
	}
	return dir
})

// OvsCNI returns the directory of ovs-cni's own plugins for mirrors, made as those of Bin are.
var OvsCNI = sync.OnceValue(func() string {
	if os.Getenv("PATCHBAY_TEST_BIN") == "" {
		build("peers", Bin())
	}
	return filepath.Join(Bin(), "ovs-cni")
})

func build(target, dir string) {
	_, self, _, _ := runtime.Caller(0)
	cmd := exec.Command("make", "-s", "-C", filepath.Join(filepath.Dir(self), "../.."), target, "TESTBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		panic("make " + target + ": " + err.Error() + "\n" + string(out))
	}
}
