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
	err = c.WhereCache(func(p *vswitch.Port) bool {
		id, ok := p.ExternalIDs[idSandbox]
		return ok && HostName(id, p.ExternalIDs[idIf]) == p.Name
	}).List(ctx, &ports)
	if err != nil {
		return nil, err
	}
	accounted := map[string]bool{}
	var names []string
	for _, p := range ports {
		if accounted[p.Name] = known(delegates.Owner{ContainerID: p.ExternalIDs[idSandbox], Interface: p.ExternalIDs[idIf]}); !accounted[p.Name] {
			names = append(names, p.Name)
		}
	}
	if owners == nil {
		links = nil
	} else {
		for _, o := range owners() {
			accounted[HostName(o.ContainerID, o.Interface)] = true
		}
	}
	for _, l := range links {
		if !accounted[l] {
			names = append(names, l)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RemoveLeftovers removes ports and links of ours by name.
func (d *Delegate) RemoveLeftovers(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := d.ports.del(ctx, names, func(p *vswitch.Port) bool { return p.ExternalIDs[idSandbox] != "" }); err != nil {
		return err
	}
	return d.links.remove(names)
}
