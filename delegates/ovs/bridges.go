package ovs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
)

// bridgeOf returns the bridge that a configuration means.
func (d *Delegate) bridgeOf(ctx context.Context, conf *conf) (*vswitch.Bridge, error) {
	name := conf.Bridge
	if name == "" {
		b, ok := d.opts.Bridges[conf.Network]
		if !ok {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("no bridge for role %q on node %s", conf.Network, d.opts.Node), "give it one under ovs.bridges in the daemon's configuration")
		}
		name = b.Name
	}
	c, err := d.db.Client(ctx)
	if err != nil {
		return nil, err
	}
	row := &vswitch.Bridge{Name: name}
	if err := c.Get(ctx, row); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("bridge %q does not exist on node %s", name, d.opts.Node), "name a role of ovs.bridges with \"network\", or create the bridge")
	}
	return row, nil
}

// HasPort reports whether any bridge has a port of that name.
func (d *Delegate) HasPort(name string) bool {
	c, _ := d.db.Now()
	return c != nil && c.Get(context.Background(), &vswitch.Port{Name: name}) == nil // from the copy
}

// Bridges returns the names of all bridges that are there, in order, and a channel that is closed when
// they or their uplinks may have changed. Known is false while Open vSwitch is away.
func (d *Delegate) Bridges() (names []string, known bool, changed <-chan struct{}) {
	c, changed := d.db.Now()
	var rows []vswitch.Bridge
	if c == nil || c.List(context.Background(), &rows) != nil { // from the copy
		return nil, false, changed
	}
	for _, b := range rows {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return names, true, changed
}

// BridgeDatapath returns the datapath type of a bridge that is there.
func (d *Delegate) BridgeDatapath(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	row, err := d.bridgeOf(ctx, &conf{Bridge: name})
	if err != nil {
		return "", err
	}
	return row.DatapathType, nil
}
