package daemon

import (
	"context"
	"errors"

	"github.com/patchbay-cni/patchbay/ipam"
)

// reclaimEvery is how many intervals of GC there are between two looks for nodes that are gone.
const reclaimEvery = 5

// reclaiming gives back the subnets of nodes that are no longer in the cluster, if no address of them is in use: a
// node must be gone twice in a row. gone is asked for a node whose daemon is not up.
func (d *Daemon) reclaiming(gone func(ctx context.Context, node string) (bool, error)) Task {
	before := map[string]bool{}
	return Task{Name: "subnets", Run: every(reclaimEvery*d.cfg.GC.Interval, func(ctx context.Context) {
		if d.cfg.GC.DryRun || !d.ready.Load() || d.guard.Suspended() != nil {
			return
		}
		now := map[string]bool{}
		err := d.ledger.EachOrphan(ctx, func(o ipam.Orphan) error {
			if _, known := now[o.Node]; !known {
				is, err := gone(ctx, o.Node)
				if err != nil {
					return err
				}
				now[o.Node] = is
			}
			if !now[o.Node] || !before[o.Node] {
				return nil
			}
			switch err := d.ledger.GiveBack(ctx, o.Pool, o.Subnet); {
			case errors.Is(err, ipam.ErrInUse): // patchctl ipam subnets shows it
			case err != nil:
				return err
			default:
				d.log.Warn("the subnet of a node that is gone is given back", "pool", o.Pool, "subnet", o.Subnet, "of", o.Node)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			d.log.Warn("subnets of nodes that are gone can't be given back now", "error", err)
		}
		before = now
	})}
}
