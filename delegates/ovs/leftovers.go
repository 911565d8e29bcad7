package ovs

import (
	"context"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
)

// Leftovers implements delegates.Collector for ports, links and limits. A port and a limit tell their owner. A link without a port
// is compared with the names of the owners' links.
func (d *Delegate) Leftovers(ctx context.Context, accounted func(delegates.Owner) bool, owners func() []delegates.Owner) ([]string, error) {
	c, err := d.db.Client(ctx)
	if err != nil {
		return nil, err
	}
	links, err := hostEnds()
	if err != nil {
		return nil, err
	}
	ports, err := vswitch.Rows(ctx, c, isOurs)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var names []string
	for _, p := range ports {
		known[p.Name] = true
		if !accounted(delegates.Owner{ContainerID: p.ExternalIDs[idSandbox], Interface: p.ExternalIDs[idIf]}) {
			names = append(names, p.Name)
		}
	}
	limits, err := vswitch.Rows(ctx, c, func(q *vswitch.QoS) bool { return q.ExternalIDs[idSandbox] != "" })
	if err != nil {
		return nil, err
	}
	for _, q := range limits {
		name := limitOf(&q)
		if !known[name] && !accounted(delegates.Owner{ContainerID: q.ExternalIDs[idSandbox], Interface: q.ExternalIDs[idIf]}) {
			known[name] = true
			names = append(names, name)
		}
	}
	if owners != nil {
		for _, o := range owners() {
			known[HostName(o.ContainerID, o.Interface)] = true
		}
		names = append(names, slices.DeleteFunc(links, func(l string) bool { return known[l] })...)
	}
	slices.Sort(names)
	return names, nil
}

// RemoveLeftovers removes ports, their limits, and links. It leaves out names that HostName can't have made: they are
// other delegates'.
func (d *Delegate) RemoveLeftovers(ctx context.Context, names []string) error {
	if err := failpoint.Hit("ovs-leftovers-remove"); err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !hostNamePattern.MatchString(n) })
	return d.removePlugs(ctx, names, names, func(p *vswitch.Port) bool { return p.ExternalIDs[idSandbox] != "" })
}

// removePlugs removes the ports for which owns returns true, then the links. If it fails on ports it leaves the
// links.
func (d *Delegate) removePlugs(ctx context.Context, ports, links []string, owns func(*vswitch.Port) bool) error {
	if len(ports) > 0 {
		if err := d.removePorts(ctx, ports, owns); err != nil {
			return err
		}
	}
	return d.links.remove(links)
}
