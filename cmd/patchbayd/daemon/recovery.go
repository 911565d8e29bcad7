package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
)

// recoveryWait is how long calls wait for Open vSwitch, and for the recovery of sandboxes that are not theirs.
const recoveryWait = 3 * time.Second

// loadPause is between two attempts to read the records: an answer that they are no good comes at once.
const loadPause = 500 * time.Millisecond

func (d *Daemon) recovery() Task {
	done := make(chan struct{})
	serve := sync.OnceFunc(func() { close(done) })
	return Task{Name: "recovery", Ready: closed(done), Run: func(ctx context.Context) error { return d.recover(ctx, serve) }}
}

// recover reads the records and makes the node as they say. It calls serve as soon as the daemon may serve: only
// an etcd that can't be read keeps it from that. What can't be mended now, GC tries again, and without Open
// vSwitch recovery goes on once it is back.
func (d *Daemon) recover(ctx context.Context, serve func()) error {
	var lost bool
	for {
		var err error
		if lost, err = d.load(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, etcd.ErrSuspended) { // which the guard has said
			d.log.Error("records can't be read yet", "error", err)
			if !fault.Of(err).Passes() {
				return err
			}
		}
		select { // nothing tells when they can be
		case <-time.After(loadPause):
		case <-ctx.Done():
		}
	}
	early := time.AfterFunc(recoveryWait, serve)
	defer early.Stop()
	for told := false; !d.native.Await(ctx, recoveryWait); told = true {
		if ctx.Err() != nil {
			return nil
		}
		if !told {
			d.log.Error("Open vSwitch is away: serving without it, recovery follows once it is back", "db", d.cfg.OVS.DB)
		}
	}
	d.restore(ctx, lost)
	serve()
	return nil
}

// load reads the node's records and reports whether there are some missing.
func (d *Daemon) load(ctx context.Context) (lost bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := failpoint.Hit("boot-load"); err != nil {
		return false, err
	}
	if err := d.guard.Verify(ctx); err != nil {
		return false, err
	}
	if err := d.store.Take(ctx); err != nil {
		return false, err
	}
	if err := d.ledger.Open(ctx); err != nil {
		return false, err
	}
	if err := d.engine.Load(ctx); err != nil {
		return false, err
	}
	// Until it is known which interfaces have no record, the node says that records may be lost.
	if lost, err = d.store.Lost(ctx); err != nil {
		return false, err
	}
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
		if err := d.register(ctx, false); err != nil {
			d.log.Error("the node's record is not written", "error", err)
		}
	}
}

// register writes the node's record.
func (d *Daemon) register(ctx context.Context, lost bool) error {
	return d.store.Register(ctx, d.self(lost))
}

// self is the node's record.
func (d *Daemon) self(lost bool) store.Node {
	bridges := map[string]string{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = b.Name
	}
	return store.Node{Node: d.cfg.Node, BootID: d.boot, Version: d.version, Bridges: bridges, RecordsLost: lost, Layout: ledger.Layout, Daemon: d.guard.Daemon()}
}
