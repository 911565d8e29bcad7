package ovs

import (
	"context"
	"slices"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
)

// foreignOwner is the value of external_ids:owner on the ports that ovs-cni has made.
const foreignOwner = "ovs-cni.network.kubevirt.io"

// runPurge removes what ovs-cni has left on the node, whenever an interface turns out to be in error
// and after each DEL: who took its place does what it did itself at each call.
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
	var rows []vswitch.Port
	if err := c.WhereCache(foreign).List(ctx, &rows); err != nil {
		return err
	}
	var names []string
	for _, p := range rows {
		var ifs []vswitch.Interface
		if err := c.WhereCache(func(i *vswitch.Interface) bool { return slices.Contains(p.Interfaces, i.UUID) }).List(ctx, &ifs); err != nil {
			return err
		}
		if len(ifs) == 0 || slices.ContainsFunc(ifs, func(i vswitch.Interface) bool { return !lost(&i) }) {
			continue
		}
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return nil
	}
	if err := d.ports.del(ctx, names, foreign); err != nil {
		return err
	}
	d.log.Info("ports that ovs-cni has left are removed: their interfaces are in error and gone from the node", "ports", names)
	return nil
}

// foreign reports whether a port is ovs-cni's. What has a mark of ours, too, is not.
func foreign(p *vswitch.Port) bool {
	return p.ExternalIDs["owner"] == foreignOwner && p.ExternalIDs[idSandbox] == ""
}

// lost reports whether an interface is gone for good, by two witnesses: ovs-vswitchd can't have it,
// and the node has no link of its name.
func lost(i *vswitch.Interface) bool { return i.Failed() && noLink(i.Name) }
