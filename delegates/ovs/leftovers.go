package ovs

import (
	"context"
	"slices"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
)

// Leftovers implements delegates.Collector for ports and links. Whose a link is its port tells; one
// without a port is judged by its name.
func (d *Delegate) Leftovers(ctx context.Context, known func(delegates.Owner) bool, owners func() []delegates.Owner) ([]string, error) {
	c, err := d.db.Client(ctx)
	if err != nil {
		return nil, err
	}
	links, err := ours()
	if err != nil {
		return nil, err
	}
	var ports []vswitch.Port
	if err := c.WhereCache(isOurs).List(ctx, &ports); err != nil {
		return nil, err
	}
	accounted := map[string]bool{}
	var names []string
	for _, p := range ports {
		if accounted[p.Name] = known(delegates.Owner{ContainerID: p.ExternalIDs[idSandbox], Interface: p.ExternalIDs[idIf]}); !accounted[p.Name] {
			names = append(names, p.Name)
		}
	}
	if owners != nil {
		for _, o := range owners() {
			accounted[HostName(o.ContainerID, o.Interface)] = true
		}
		names = append(names, slices.DeleteFunc(links, func(l string) bool { return accounted[l] })...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RemoveLeftovers removes ports and links. Of the names only those count that HostName can have made: the
// others are other delegates'.
func (d *Delegate) RemoveLeftovers(ctx context.Context, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !hostNamePattern.MatchString(n) })
	return d.removePlugs(ctx, names, names, func(p *vswitch.Port) bool { return p.ExternalIDs[idSandbox] != "" })
}

// removePlugs removes the ports that owns approves of, then the links. The links stay if the ports do.
func (d *Delegate) removePlugs(ctx context.Context, ports, links []string, owns func(*vswitch.Port) bool) error {
	if len(ports) > 0 {
		if err := d.ports.del(ctx, ports, owns); err != nil {
			return err
		}
	}
	if len(links) == 0 {
		return nil
	}
	return d.links.remove(links)
}
