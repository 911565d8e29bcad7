package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// ovsWait is how long recovery waits for Open vSwitch before it lets the daemon serve without.
const ovsWait = 10 * time.Second

func (d *Daemon) recovery() Task {
	done := make(chan struct{})
	serve := sync.OnceFunc(func() { close(done) })
	return Task{Name: "recovery", Ready: closed(done), Run: func(ctx context.Context) error { return d.recover(ctx, serve) }}
}

// recover reads the records and makes the node as they say. It calls serve as soon as the daemon may serve: only
// an etcd that can't be read keeps it from that. What can't be mended now, GC tries again, and without Open
// vSwitch recovery goes on once it is back.
func (d *Daemon) recover(ctx context.Context, serve func()) error {
	hadRecords := d.records.had()
	var lost bool
	for {
		var err error
		if lost, err = d.load(ctx, hadRecords); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		d.log.Error("records can't be read yet", "error", err)
		if !fault.Of(err).Passes() {
			return err
		}
	}
	if !d.native.Await(ctx, ovsWait) {
		d.log.Error("Open vSwitch is away: serving without it, recovery follows once it is back", "db", d.cfg.OVS.DB)
		serve()
		for !d.native.Await(ctx, ovsWait) {
			if ctx.Err() != nil {
				return nil
			}
		}
	}
	d.restore(ctx, lost)
	serve()
	return nil
}

// load reads the node's records and reports whether there are some missing.
func (d *Daemon) load(ctx context.Context, hadRecords bool) (lost bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := failpoint.Hit("boot-load"); err != nil {
		return false, err
	}
	if err := d.engine.Load(ctx); err != nil {
		return false, err
	}
	// Until it is known which interfaces have no record, the node says that records may be lost.
	if lost, err = d.store.Lost(ctx); err != nil {
		return false, err
	}
	lost = lost || hadRecords && len(d.engine.Sandboxes())+len(d.engine.Unreadable()) == 0
	if err := failpoint.Hit("boot-loaded"); err != nil {
		return lost, err
	}
	return lost, d.register(ctx, lost)
}

// restore makes interfaces as they are recorded. The records are no longer lost once no interface lacks one.
func (d *Daemon) restore(ctx context.Context, lost bool) {
	if err := d.engine.Recover(ctx, lost); err != nil {
		d.log.Error("recovery is incomplete; what is left is tried again", "error", err)
		return
	}
	if lost && len(d.engine.Kept()) == 0 {
		d.records.settle()
		if err := d.register(ctx, false); err != nil {
			d.log.Error("the node's record is not written", "error", err)
		}
	}
}

// register writes the node's record.
func (d *Daemon) register(ctx context.Context, lost bool) error {
	bridges := map[string]string{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = b.Name
	}
	return d.store.Register(ctx, store.Node{Node: d.cfg.Node, BootID: d.records.boot, Version: d.version, Bridges: bridges, RecordsLost: lost})
}

// notedRecords are records with a file beside them, which is there as long as etcd has records of this
// node's sandboxes: where it says so and etcd has none, etcd has lost them. The file names the boot, as
// no sandbox outlives one. It is written before the call that made the first record is answered.
type notedRecords struct {
	attach.Records
	file, boot string
	log        *slog.Logger

	mu    sync.Mutex
	known map[string]bool // container IDs
	noted bool            // whether the file says that there are records
}

func noteRecords(r attach.Records, file, boot string, log *slog.Logger) *notedRecords {
	n := &notedRecords{Records: r, file: file, boot: boot, log: log, known: map[string]bool{}}
	n.noted = n.had()
	return n
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
		n.note(func() { n.known[s.ContainerID] = true })
	}
	return all, unreadable, err
}

// Save implements attach.Records.
func (n *notedRecords) Save(ctx context.Context, s *attach.Sandbox, with txn.Txn) error {
	if err := n.Records.Save(ctx, s, with); err != nil {
		return err
	}
	n.note(func() { n.known[s.ContainerID] = true })
	return nil
}

// Remove implements attach.Records.
func (n *notedRecords) Remove(ctx context.Context, s *attach.Sandbox, with txn.Txn) error {
	if err := n.Records.Remove(ctx, s, with); err != nil {
		return err
	}
	n.note(func() { delete(n.known, s.ContainerID) })
	return nil
}

// settle has the file say whether there are records, once it is known that none are lost.
func (n *notedRecords) settle() { n.note(func() {}) }

// note changes what is known of the records, and the file if it says something else then. What could not be
// written is tried again with the next change.
func (n *notedRecords) note(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	has := len(n.known) > 0
	if n.noted == has {
		return
	}
	var err error
	if has {
		err = errors.Join(os.MkdirAll(filepath.Dir(n.file), 0o700), os.WriteFile(n.file, []byte(n.boot), 0o600))
	} else {
		err = os.RemoveAll(n.file) // it may be gone already
	}
	if err != nil {
		n.log.Error("whether there are records is not noted", "error", err)
		return
	}
	n.noted = has
}
