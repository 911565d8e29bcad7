package ovs

import (
	"context"
	"slices"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// foreignOwner is the value of external_ids:owner on the ports that ovs-cni has made.
const foreignOwner = "ovs-cni.network.kubevirt.io"

// runPurge removes ports that ovs-cni has left on the node, whenever an interface turns out to be in error and
// after each DEL. ovs-cni itself would do so at each of its calls.
func (d *Delegate) runPurge(ctx context.Context) {
	for {
		select {
		case <-d.db.Failing():
		case <-ctx.Done():
			return
		}
		if err := d.purge(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("ports that ovs-cni has left are not removed; they are tried again at the next DEL", "error", err)
		}
	}
}

func (d *Delegate) purge(ctx context.Context) error {
	c, err := d.db.Client(ctx)
	if err != nil {
		return err
	}
	ports, err := vswitch.Rows(ctx, c, isForeign)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range ports {
		ifs, err := vswitch.Rows(ctx, c, func(i *vswitch.Interface) bool { return slices.Contains(p.Interfaces, i.UUID) })
		if err != nil {
			return err
		}
		if len(ifs) > 0 && !slices.ContainsFunc(ifs, isAlive) {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := d.removePorts(ctx, names, isForeign); err != nil {
		return err
	}
	d.log.Info("ports that ovs-cni has left are removed: their interfaces are in error and gone from the node", "ports", names)
	return nil
}

// isForeign reports whether a port is ovs-cni's, and has no mark of ours.
func isForeign(p *vswitch.Port) bool {
	return p.ExternalIDs["owner"] == foreignOwner && p.ExternalIDs[idSandbox] == ""
}

// isAlive reports whether an interface may still be of use. It is not if ovs-vswitchd can't open it and the node
// has no link of its name.
func isAlive(i vswitch.Interface) bool { return !i.Failed() || !link.IsGone(i.Name) }
