// Package delqueue keeps the DELs that could not reach the daemon: one fsynced file a call, in a
// directory of their own. The shim puts them in, the daemon takes them out before it serves.
package delqueue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// DefaultDir is where the queue is.
const DefaultDir = "/var/lib/patchbay/del-queue"

// Max is how many calls the queue holds.
const Max = 256

// ErrFull says that the queue holds Max calls.
var ErrFull = fault.New(fault.RetryLater, "the queue of DELs is full")

// A Call is one queued DEL.
type Call struct {
	Plugin  string          `json:"plugin"`
	Request cniwire.Request `json:"request"`
}

// Put queues a call, unless retry, which is called under the queue's lock, reports that the call
// was answered after all. The lock closes the gap between a daemon that begins to listen and a
// shim that has just failed to reach it: see Drain.
func Put(dir string, c Call, retry func() bool) error {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if retry() {
		return nil
	}
	names, err := list(dir)
	if err != nil {
		return err
	}
	if len(names) >= Max {
		return fmt.Errorf("%w: %d calls in %s", ErrFull, len(names), dir)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return write(dir, fmt.Sprintf("%020d-%d.json", time.Now().UnixNano(), os.Getpid()), b)
}

func write(dir, name string, b []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, "."+name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// Drain hands the queued calls to do, oldest first, and removes each one that do returns nil for.
// Call it when the socket is open and before it is served: a shim that failed to connect before
// has its file in place, one that comes later connects. A file that does not parse is set aside
// with the ending .bad and reported.
func Drain(dir string, do func(Call) error) (int, error) {
	unlock, err := lock(dir)
	if err != nil {
		return 0, err
	}
	defer unlock()
	names, err := list(dir)
	if err != nil {
		return 0, err
	}
	var errs []error
	done := 0
	for _, n := range names {
		err := drainOne(filepath.Join(dir, n), do)
		if err == nil {
			done++
		}
		errs = append(errs, err)
	}
	return done, errors.Join(append(errs, syncDir(dir))...)
}

func drainOne(path string, do func(Call) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c Call
	if err := json.Unmarshal(b, &c); err != nil {
		return errors.Join(fmt.Errorf("queued DEL %s is damaged, set aside: %w", path, err), os.Rename(path, path+".bad"))
	}
	if err := do(c); err != nil {
		return fmt.Errorf("queued DEL of sandbox %s: %w", c.Request.ContainerID, err)
	}
	return os.Remove(path)
}

// Len returns how many calls are queued.
func Len(dir string) (int, error) {
	names, err := list(dir)
	return len(names), err
}

// list returns the names of the queued calls' files, oldest first: os.ReadDir sorts.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing drops the lock
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
