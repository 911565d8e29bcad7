package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/attach/store"
)

// ovsWait is how long recovery waits for Open vSwitch before it lets the daemon serve without.
const ovsWait = 10 * time.Second

func (d *Daemon) recovery() Task {
	done := make(chan struct{})
	serve := sync.OnceFunc(func() { close(done) })
	return Task{Name: "recovery", Ready: closed(done), Run: func(ctx context.Context) error { return d.recover(ctx, serve) }}
}

// recover brings what is to what is recorded, and calls serve as soon as the daemon may. Only
// records that can't be read from etcd keep it from serving: what can't be mended now, GC tries again,
// and without Open vSwitch recovery goes on once it is back.
func (d *Daemon) recover(ctx context.Context, serve func()) error {
	hadRecords := d.records.had()
	if err := d.engine.Load(ctx); err != nil {
		return err
	}
	// Until it is known which interfaces have no record, the node says that records may be lost.
	lost, err := d.store.Lost(ctx)
	if err != nil {
		return err
	}
	lost = lost || hadRecords && len(d.engine.Sandboxes())+len(d.engine.Unreadable()) == 0
	if err := d.register(ctx, lost); err != nil {
		return err
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
	d.mend(ctx, lost)
	serve()
	return nil
}

func (d *Daemon) mend(ctx context.Context, lost bool) {
	kept, err := d.engine.Recover(ctx, lost)
	if err != nil {
		d.log.Error("recovery is incomplete; what is left is tried again", "error", err)
		return
	}
	if lost && !kept {
		d.records.settle()
		if err := d.register(ctx, false); err != nil {
			d.log.Error("the node's record is not written", "error", err)
		}
	}
}

func (d *Daemon) register(ctx context.Context, lost bool) error {
	bridges := map[string]string{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = b.Name
	}
	return d.store.Register(ctx, store.Node{Node: d.cfg.Node, BootID: d.records.boot, Version: d.version, Bridges: bridges, RecordsLost: lost})
}
