package ovs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/containernetworking/cni/pkg/types"
)

// A Bridge is how a role's bridge is to be on this node.
type Bridge struct {
	Name         string
	Uplinks      []string
	DatapathType string // auto, system or netdev
	Controllers  []string
	Protocols    []string
	FailMode     string
}

// ensureBridges creates or adopts the configured bridges. On a bridge that was there it adds what
// is missing and sets what the configuration says; ports that it does not know it leaves alone.
func (d *Delegate) ensureBridges(ctx context.Context, c client.Client) error {
	roles := make([]string, 0, len(d.opts.Bridges))
	for role := range d.opts.Bridges {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	for _, role := range roles {
		b := d.opts.Bridges[role]
		if err := d.ensureBridge(ctx, c, b); err != nil {
			return fmt.Errorf("bridge %s of role %q: %w", b.Name, role, err)
		}
	}
	return nil
}

func (d *Delegate) ensureBridge(ctx context.Context, c client.Client, want Bridge) error {
	ops, made, err := bridgeOps(ctx, c, want)
	if err != nil || len(ops) == 0 {
		return err
	}
	if _, err := transact(ctx, c, ops); err != nil {
		return err
	}
	d.log.Info("bridge set up", "bridge", want.Name, "created", made, "uplinks", want.Uplinks)
	return nil
}

func bridgeOps(ctx context.Context, c client.Client, want Bridge) (ops []ovsdb.Operation, made bool, err error) {
	add := func(more []ovsdb.Operation, e error) {
		ops, err = append(ops, more...), errors.Join(err, e)
	}
	row := &bridge{Name: want.Name}
	getErr := c.Get(ctx, row)
	made = errors.Is(getErr, client.ErrNotFound)
	if getErr != nil && !made {
		return nil, false, getErr
	}
	target := *row
	target.Protocols = want.Protocols
	target.FailMode = &want.FailMode
	if want.FailMode == "" {
		target.FailMode = row.FailMode
	}
	if len(want.Protocols) == 0 {
		target.Protocols = row.Protocols
	}
	controllers, rows, err := controllerRows(ctx, c, want, row)
	if err != nil {
		return nil, made, err
	}
	target.Controller = controllers
	add(create(c, rows...))
	if made {
		target.UUID = "bridge"
		target.DatapathType = datapathType(want.DatapathType)
		target.ExternalIDs = map[string]string{"patchbay": "created"}
		local := &iface{UUID: "localif", Name: want.Name, Type: "internal"}
		localPort := &port{UUID: "localport", Name: want.Name, Interfaces: []string{local.UUID}}
		target.Ports = []string{localPort.UUID}
		add(create(c, local, localPort, &target))
		root := &openvSwitch{}
		add(c.WhereCache(func(*openvSwitch) bool { return true }).Mutate(root, model.Mutation{Field: &root.Bridges, Mutator: ovsdb.MutateOperationInsert, Value: []string{target.UUID}}))
	} else if changed(row, &target) {
		add(c.Where(row).Update(&target, &target.Protocols, &target.FailMode, &target.Controller))
	}
	for n, uplink := range want.Uplinks {
		more, upErr := uplinkOps(ctx, c, row, uplink, n, made)
		add(more, upErr)
	}
	return ops, made, err
}

func changed(a, b *bridge) bool {
	mode := func(r *bridge) string {
		if r.FailMode == nil {
			return ""
		}
		return *r.FailMode
	}
	return !slices.Equal(a.Protocols, b.Protocols) || mode(a) != mode(b) || !slices.Equal(a.Controller, b.Controller)
}

// controllerRows returns the bridge's controllers, as UUIDs, and the rows to be made for them. The
// rows that are right stay, so that a connected controller is not cut off.
func controllerRows(ctx context.Context, c client.Client, want Bridge, row *bridge) (uuids []string, rows []model.Model, err error) {
	if len(want.Controllers) == 0 {
		return row.Controller, nil, nil
	}
	var have []controller
	if err := c.WhereCache(func(t *controller) bool { return slices.Contains(row.Controller, t.UUID) }).List(ctx, &have); err != nil {
		return nil, nil, err
	}
	for n, target := range want.Controllers {
		if i := slices.IndexFunc(have, func(t controller) bool { return t.Target == target }); i >= 0 {
			uuids = append(uuids, have[i].UUID)
			continue
		}
		t := &controller{UUID: fmt.Sprintf("controller%d", n), Target: target}
		uuids, rows = append(uuids, t.UUID), append(rows, t)
	}
	return uuids, rows, nil
}

func uplinkOps(ctx context.Context, c client.Client, br *bridge, name string, n int, made bool) ([]ovsdb.Operation, error) {
	have := &port{Name: name}
	switch err := c.Get(ctx, have); {
	case err == nil && slices.Contains(br.Ports, have.UUID):
		return nil, nil
	case err == nil:
		return nil, fmt.Errorf("uplink %s is a port of another bridge", name)
	case !errors.Is(err, client.ErrNotFound):
		return nil, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set uplink %s up: %w", name, err)
	}
	i := &iface{UUID: fmt.Sprintf("uplinkif%d", n), Name: name}
	p := &port{UUID: fmt.Sprintf("uplinkport%d", n), Name: name, Interfaces: []string{i.UUID}, ExternalIDs: map[string]string{"patchbay": "uplink"}}
	ops, err := create(c, i, p)
	if err != nil {
		return nil, err
	}
	to := *br
	where := c.Where(&to)
	if made {
		// The bridge is a row of this very transaction: found by name.
		where = c.WhereAll(&to, model.Condition{Field: &to.Name, Function: ovsdb.ConditionEqual, Value: br.Name})
	}
	more, err := where.Mutate(&to, model.Mutation{Field: &to.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{p.UUID}})
	return append(ops, more...), err
}

// datapathType resolves auto: the kernel's datapath where the kernel has it.
func datapathType(want string) string {
	if want != "" && want != "auto" {
		return want
	}
	if _, err := netlink.GenlFamilyGet("ovs_datapath"); err == nil {
		return "system"
	}
	return "netdev"
}

// bridgeOf returns the name and datapath type of the bridge that a configuration means.
func (d *Delegate) bridgeOf(ctx context.Context, conf *conf) (name, datapath string, err error) {
	name = conf.Bridge
	if name == "" {
		b, ok := d.opts.Bridges[conf.Network]
		if !ok {
			return "", "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("no bridge for role %q on node %s", conf.Network, d.opts.Node), "give it one under ovs.bridges in the daemon's configuration")
		}
		name = b.Name
	}
	c, err := d.db.client(ctx)
	if err != nil {
		return "", "", err
	}
	row := &bridge{Name: name}
	if err := c.Get(ctx, row); err != nil {
		return "", "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("bridge %q does not exist on node %s", name, d.opts.Node), "name a role of ovs.bridges with \"network\", or create the bridge")
	}
	return name, row.DatapathType, nil
}

// gateway gives the bridge's own port the gateway's addresses, if the configuration says so.
func (d *Delegate) gateway(p *plan) error {
	if !p.conf.IsGateway && !p.conf.IsDefaultGateway {
		return nil
	}
	link, err := netlink.LinkByName(p.port.bridge)
	if err != nil {
		return fmt.Errorf("bridge %s as gateway: %w", p.port.bridge, err)
	}
	for _, ip := range p.result.IPs {
		if ip.Gateway == nil {
			continue
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask}}
		if ip.Gateway.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("give gateway %s to bridge %s: %w", ip.Gateway, p.port.bridge, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func toAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// HasPort reports whether any bridge has a port of that name.
func (d *Delegate) HasPort(name string) bool {
	d.db.mu.Lock()
	c := d.db.conn
	d.db.mu.Unlock()
	return c != nil && c.Get(context.Background(), &port{Name: name}) == nil // from its copy
}

// Bridges returns the names of all bridges that are there, in order, and a channel that is closed when
// they or their uplinks may have changed. Known is false while Open vSwitch is away.
func (d *Delegate) Bridges() (names []string, known bool, changed <-chan struct{}) {
	d.db.mu.Lock()
	c, changed := d.db.conn, d.db.bridges
	d.db.mu.Unlock()
	var rows []bridge
	if c == nil || c.List(context.Background(), &rows) != nil { // of its copy
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
	c, err := d.db.client(ctx)
	if err != nil {
		return "", err
	}
	row := &bridge{Name: name}
	if err := c.Get(ctx, row); err != nil {
		return "", fmt.Errorf("bridge %s does not exist", name)
	}
	return row.DatapathType, nil
}
