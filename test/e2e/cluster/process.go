package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A Process is a server of the cluster.
type Process struct {
	cmd    *exec.Cmd
	log    string
	done   chan struct{}
	onNode bool // cmd is nsenter, which has forked
}

func start(log string, env []string, name string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Kill ends the process at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.Kill()
	}
}

// Freeze stops the server where it is, until Thaw.
func (p *Process) Freeze() error {
	pid := p.server()
	if pid == 0 {
		return fmt.Errorf("%s has ended", p.cmd)
	}
	return syscall.Kill(pid, syscall.SIGSTOP)
}

// Thaw lets a frozen server go on; nsenter stops with it.
func (p *Process) Thaw() error {
	pid := p.server()
	if pid == 0 {
		return fmt.Errorf("%s has ended", p.cmd)
	}
	return errors.Join(syscall.Kill(pid, syscall.SIGCONT), p.cmd.Process.Signal(syscall.SIGCONT))
}

// server is the server's own process.
func (p *Process) server() int {
	if p.onNode {
		return child(p.Pid())
	}
	return p.Pid()
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Pid returns the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

func (p *Process) tail() string {
	b, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// await polls for what nothing can announce: that another program's server answers.
func await(what string, p *Process, limit time.Duration, ok func() bool) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s: the process ended:\n%s", what, p.tail())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s:\n%s", what, limit, p.tail())
		}
	}
}

// command runs a command and returns its output; a failure has the output in it.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
