package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// notedRecords are records with a file beside them, which is there as long as etcd has records of this
// node's sandboxes: where it says so and etcd has none, etcd has lost them. The file names the boot, as
// no sandbox outlives one. It is written before the call that made the first record is answered.
type notedRecords struct {
	attach.Records
	file, boot string
	log        *slog.Logger

	mu    sync.Mutex
	known map[string]bool // container IDs
	noted bool            // what was last written down: that there are records
}

func noteRecords(r attach.Records, file, boot string, log *slog.Logger) *notedRecords {
	return &notedRecords{Records: r, file: file, boot: boot, log: log, known: map[string]bool{}}
}

// had reports whether the file says that there are records.
func (n *notedRecords) had() bool {
	b, err := os.ReadFile(n.file)
	return err == nil && string(b) == n.boot
}

// Load implements attach.Records. That there are none is not noted: they may be lost.
func (n *notedRecords) Load(ctx context.Context) ([]*attach.Sandbox, []string, error) {
	all, unreadable, err := n.Records.Load(ctx)
	for _, s := range all {
		n.note(s, true)
	}
	return all, unreadable, err
}

// Save implements attach.Records.
func (n *notedRecords) Save(ctx context.Context, s *attach.Sandbox, with txn.Txn) error {
	if err := n.Records.Save(ctx, s, with); err != nil {
		return err
	}
	n.note(s, true)
	return nil
}

// Remove implements attach.Records.
func (n *notedRecords) Remove(ctx context.Context, s *attach.Sandbox, with txn.Txn) error {
	if err := n.Records.Remove(ctx, s, with); err != nil {
		return err
	}
	n.note(s, false)
	return nil
}

// note notes that a sandbox has a record, or none, and writes the first and the last of them down. What
// could not be written is tried again with the next.
func (n *notedRecords) note(s *attach.Sandbox, has bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if has {
		n.known[s.ContainerID] = true
	} else {
		delete(n.known, s.ContainerID)
	}
	if n.noted != (len(n.known) > 0) {
		n.write()
	}
}

// settle writes down whether there are records, once it is known that none are lost.
func (n *notedRecords) settle() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.write()
}

func (n *notedRecords) write() {
	var err error
	if len(n.known) > 0 {
		if err = os.MkdirAll(filepath.Dir(n.file), 0o700); err == nil {
			err = os.WriteFile(n.file, []byte(n.boot), 0o600)
		}
	} else if err = os.Remove(n.file); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		n.log.Error("whether there are records is not noted", "error", err)
		return
	}
	n.noted = len(n.known) > 0
}
