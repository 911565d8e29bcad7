// Package netns opens network namespaces by path, knows them again, and runs code inside them.
//
// A path, and even an inode, is reused for later namespaces. What identifies a namespace is its
// cookie (getsockopt SO_NETNS_COOKIE, Linux 5.14), unique for the life of the kernel, together
// with the boot id.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

var (
	// ErrGone says that there is no network namespace at the path any more.
	ErrGone = fault.New(fault.NotFound, "network namespace is gone")
	// ErrUnmounted is ErrGone where the path is there, and no namespace is mounted on it.
	ErrUnmounted = fmt.Errorf("%w: its path is there, and nothing is mounted on it", ErrGone)
	// ErrOther says that the path leads to another namespace than the one that was meant.
	ErrOther = fault.New(fault.NotFound, "the path leads to another network namespace than the sandbox's")
	// ErrHost says that the path leads to the host's own network namespace.
	ErrHost = fault.New(fault.NotFound, "the path leads to the host's own network namespace")
)

const nsfsMagic = 0x6e736673

// A Handle is an open network namespace. Close it.
type Handle struct {
	f      *os.File
	cookie uint64
}

// Open opens the network namespace at path. It returns ErrGone if there is none, and ErrHost for the namespace that
// the process was started in.
func Open(path string) (*Handle, error) {
	// What is no namespace may wait for somebody who opens it for writing.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s: %w", path, ErrGone)
	case err != nil:
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	h := &Handle{f: os.NewFile(uintptr(fd), path)}
	if err := h.identify(path); err != nil {
		_ = h.f.Close()
		return nil, err
	}
	return h, nil
}

func (h *Handle) identify(path string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(h.Fd(), &fs); err != nil {
		return fmt.Errorf("fstatfs %s: %w", path, err)
	}
	if fs.Type != nsfsMagic {
		// An unmounted bind mount leaves an empty file behind.
		return fmt.Errorf("%s: %w", path, ErrUnmounted)
	}
	kind, err := unix.IoctlRetInt(h.Fd(), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is not a network namespace", path)
	}
	host, err := hostCookie()
	if err != nil {
		return err
	}
	if err := h.Do(func() error {
		h.cookie, err = currentCookie()
		return err
	}); err != nil {
		return fmt.Errorf("identify network namespace %s: %w", path, err)
	}
	if h.cookie == host {
		return fmt.Errorf("%s: %w", path, ErrHost)
	}
	return nil
}

// OpenIdentity opens the namespace at path and returns ErrOther unless it is the one with that cookie.
func OpenIdentity(path string, cookie uint64) (*Handle, error) {
	h, err := Open(path)
	if err != nil {
		return nil, err
	}
	if h.cookie != cookie {
		_ = h.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrOther)
	}
	return h, nil
}

// Fd returns the namespace's file descriptor, valid until Close.
func (h *Handle) Fd() int { return int(h.f.Fd()) }

// Cookie returns the namespace's identity.
func (h *Handle) Cookie() uint64 { return h.cookie }

// Close releases the handle; the namespace itself is not touched.
func (h *Handle) Close() error { return h.f.Close() }

// Do runs fn on a thread inside the namespace. If the thread can't come back from there it dies with its
// goroutine, so that it never serves another one.
func (h *Handle) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- h.enter(fn) }()
	return <-done
}

func (h *Handle) enter(fn func() error) error {
	runtime.LockOSThread()
	back, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		defer back.Close()
		err = unix.Setns(h.Fd(), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = fn()
	if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

func currentCookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("SO_NETNS_COOKIE (needs Linux 5.14): %w", err)
	}
	return cookie, nil
}

// hostCookie is the identity of the namespace the process was started in.
var hostCookie = sync.OnceValues(currentCookie)

// BootID returns the kernel's boot id: cookies of another boot mean nothing.
var BootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
})
