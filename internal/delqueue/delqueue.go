// Package delqueue keeps the DELs that could not reach the daemon: one fsynced file a call, in a
// directory of their own. The shim puts in what the daemon does not answer, the daemon what it can't do yet.
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
const DefaultDir = "/var/lib/patchbay/" + Name

// Name is that of every queue's directory.
const Name = "del-queue"

// Max is how many calls the queue holds.
const Max = 256

// ErrFull says that the queue holds Max calls.
var ErrFull = fault.New(fault.RetryLater, "the queue of DELs is full")

// A Call is one queued DEL.
type Call struct {
	Plugin  string          `json:"plugin"`
	Request cniwire.Request `json:"request"`
}

// Put queues a call. When it returns, the call is on disk.
func Put(dir string, c Call) error {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	names, err := list(dir, waiting)
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
	return write(dir, fmt.Sprintf("%020d-%d%s", time.Now().UnixNano(), os.Getpid(), waiting), b)
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

// An Entry is a call that waits in a queue.
type Entry struct {
	Call
	Name string // of its file
	dir  string
}

// Waiting returns the queued calls, oldest first. A file that does not parse is set aside and
// reported; the other calls are returned all the same.
func Waiting(dir string) ([]Entry, error) {
	names, err := list(dir, waiting)
	if err != nil {
		return nil, err
	}
	var all []Entry
	var errs []error
	for _, n := range names {
		e, path := Entry{Name: n, dir: dir}, filepath.Join(dir, n)
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // done meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			if err := json.Unmarshal(b, &e.Call); err != nil {
				errs = append(errs, e.SetAside(err))
				continue
			}
			all = append(all, e)
		}
	}
	return all, errors.Join(errs...)
}

// bad ends the names of files that are set aside.
const bad = ".bad"

// SetAside takes a call that can never be done out of its queue, and keeps its file for people to look at. The error
// says so, and why it can't be done.
func (e Entry) SetAside(why error) error {
	path := filepath.Join(e.dir, e.Name)
	return errors.Join(fmt.Errorf("queued DEL %s is damaged or invalid, and set aside as %s: %w", path, e.Name+bad, why), os.Rename(path, path+bad))
}

// Bad returns the names of the files that were set aside.
func Bad(dir string) ([]string, error) { return list(dir, bad) }

// Waits reports whether the call is still in its queue.
func (e Entry) Waits() (bool, error) {
	_, err := os.Stat(filepath.Join(e.dir, e.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Done takes the call out of its queue. It may be done twice.
func (e Entry) Done() error {
	if err := os.Remove(filepath.Join(e.dir, e.Name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(e.dir)
}

// Len returns how many calls are queued.
func Len(dir string) (int, error) {
	names, err := list(dir, waiting)
	return len(names), err
}

// waiting ends the names of the queued calls' files.
const waiting = ".json"

// list returns the names of files with an ending, oldest first: os.ReadDir sorts.
func list(dir, ending string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ending) && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// lockWait bounds how long a call waits for others that are being queued.
const lockWait = 2 * time.Second

// lock keeps others from queueing meanwhile. One that takes too long may have been stopped: the lock is for Max alone,
// and holds nobody up for ever.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockWait / 200) { // flock has no bound of its own
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || errors.Is(err, syscall.EWOULDBLOCK) && time.Now().After(deadline) {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
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
