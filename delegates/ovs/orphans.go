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

// Leftovers returns the names of our ports and links that no attachment in known accounts for.
func (d *Delegate) Leftovers(ctx context.Context, known func(Owner) bool, knownName func(string) bool) ([]string, error) {
	c, err := d.db.client(ctx)
	if err != nil {
		return nil, err
	}
	var orphans []port
	err = c.WhereCache(func(p *port) bool {
		id, ok := p.ExternalIDs[idSandbox]
		return ok && HostName(id, p.ExternalIDs[idIf]) == p.Name && !known(Owner{id, p.ExternalIDs[idIf]})
	}).List(ctx, &orphans)
	if err != nil {
		return nil, err
	}
	names, err := ours()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, knownName)
	for _, p := range orphans {
		names = append(names, p.Name)
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
