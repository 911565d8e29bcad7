package ovs

import (
	"context"
	"slices"
)

// An Owner is the sandbox and interface that a port says it belongs to.
type Owner struct {
	ContainerID string
	Interface   string
}

// Leftovers returns the names of our ports and links that no attachment in known accounts for. Whose a
// link is its port tells; one without a port is judged by its name. Both are asked after what is there
// was looked up, so that what is made meanwhile is none.
func (d *Delegate) Leftovers(ctx context.Context, known func(Owner) bool, knownName func(string) bool) ([]string, error) {
	c, err := d.db.client(ctx)
	if err != nil {
		return nil, err
	}
	links, err := ours()
	if err != nil {
		return nil, err
	}
	var ports []port
	err = c.WhereCache(func(p *port) bool {
		id, ok := p.ExternalIDs[idSandbox]
		return ok && HostName(id, p.ExternalIDs[idIf]) == p.Name
	}).List(ctx, &ports)
	if err != nil {
		return nil, err
	}
	accounted := map[string]bool{}
	var names []string
	for _, p := range ports {
		if accounted[p.Name] = known(Owner{p.ExternalIDs[idSandbox], p.ExternalIDs[idIf]}); !accounted[p.Name] {
			names = append(names, p.Name)
		}
	}
	for _, l := range links {
		if !accounted[l] && !knownName(l) {
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
	if err := d.ports.del(ctx, names, func(p *port) bool { return p.ExternalIDs[idSandbox] != "" }); err != nil {
		return err
	}
	return d.links.remove(names)
}
