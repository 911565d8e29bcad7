// Package ovs is the native Open vSwitch delegate: it joins a pod to a bridge with a veth pair,
// made and configured through netlink, and a port, made through OVSDB. Nothing is executed.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/errgroup"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs/bridge"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Options are the delegate's part of the daemon's configuration.
type Options struct {
	Node    string
	Bridges map[string]bridge.Declared // by role
}

// A Delegate makes attachments on Open vSwitch.
type Delegate struct {
	db    *vswitch.DB
	opts  Options
	log   *slog.Logger
	links *links
	macs  *macs
	after sync.WaitGroup // work that goes on after a call has been answered
}

// New returns the delegate; run it with Run.
func New(db *vswitch.DB, opts Options, log *slog.Logger) *Delegate {
	db.Register(bridge.Reconciler(opts.Bridges, log))
	return &Delegate{db: db, opts: opts, log: log, links: newLinks(), macs: &macs{adding: map[*plan]bool{}, made: map[string]holder{}}}
}

// Run keeps the connection to Open vSwitch and the configured bridges until the context ends.
func (d *Delegate) Run(ctx context.Context) {
	d.after.Go(func() { d.runPurge(ctx) })
	d.db.Run(ctx)
	d.after.Wait()
	d.links.after.Wait()
}

// Connected reports whether Open vSwitch can be reached now.
func (d *Delegate) Connected() bool { return d.db.Connected() }

// Unsettled says which bridges are not as they are declared.
func (d *Delegate) Unsettled() error { return d.db.Unsettled() }

// Lost returns a channel of sandboxes, by container ID, that have lost a port; "" stands for all.
func (d *Delegate) Lost() <-chan string { return d.db.Lost() }

// Await waits for Open vSwitch and reports whether it is there.
func (d *Delegate) Await(ctx context.Context, wait time.Duration) bool { return d.db.Await(ctx, wait) }

// Handles reports whether a plugin type is this delegate's.
func (d *Delegate) Handles(typ string) bool { return typ == Type || typ == ForeignType }

// Add makes all the attachments at once: the links one after another, as the kernel makes them in turn, then
// all ports in one transaction, and meanwhile it configures the pod's ends.
func (d *Delegate) Add(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	plans := make([]*plan, len(as))
	if err := failpoint.Hit("ovs-add"); err != nil {
		return err
	}
	for i, a := range as {
		var err error
		if plans[i], err = d.plan(ctx, s, a); err != nil {
			return fmt.Errorf("%s: %w", a.Interface, err)
		}
	}
	if err := d.awaitClosed(ctx, plans); err != nil {
		return err
	}
	for _, p := range plans {
		p.a.Tried = true
		if err := d.links.create(p, s.Netns); err != nil {
			return err
		}
	}
	if err := failpoint.Hit("ovs-link-created"); err != nil {
		return err
	}
	defer d.after.Go(func() {
		for _, p := range plans {
			p.announcer.close()
		}
	})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.addPorts(gctx, plans) })
	g.Go(func() error {
		err := s.Netns.Do(func() error {
			for _, p := range plans {
				if err := p.configure(); err != nil {
					return err
				}
			}
			return nil
		})
		return errors.Join(err, failpoint.Hit("ovs-link-configured"))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := failpoint.Hit("ovs-made"); err != nil {
		return err
	}
	for _, p := range plans {
		p.announcer.announce(p.result.IPs)
		if err := makeGateway(p.bridge, p.conf, p.result); err != nil {
			return err
		}
		p.a.Result, p.a.Bridge, p.a.Port = p.result, p.bridge, p.port
	}
	return nil
}

// Del removes ports and links. It needs neither the configuration nor the pod's namespace. It removes both at
// the same time, as the kernel takes 20 ms for the links.
func (d *Delegate) Del(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) []error {
	names := make([]string, len(as))
	if err := failpoint.Hit("ovs-del"); err != nil {
		return slices.Repeat([]error{err}, len(as))
	}
	for i, a := range as {
		names[i] = HostName(s.ContainerID, a.Interface)
	}
	var g errgroup.Group
	g.Go(func() error {
		return d.removePorts(ctx, names, ownedBy(s.ContainerID))
	})
	g.Go(func() error {
		return errors.Join(d.links.remove(names), failpoint.Hit("ovs-link-deleted"))
	})
	defer d.db.LookForErrors()
	err := g.Wait()
	if err == nil {
		d.macs.forget(names)
	}
	return slices.Repeat([]error{err}, len(as))
}

// Status returns CNI error 51 when Open vSwitch is away, and 50 when this node lacks the bridge.
func (d *Delegate) Status(ctx context.Context, list *cniconf.List) error {
	if !d.db.Connected() {
		return types.NewError(cniwire.ErrLimitedConnection, "Open vSwitch does not answer at "+d.db.Endpoint(), "")
	}
	c, err := parseNetwork(list)
	if err != nil {
		return err
	}
	if err := d.checkSocket(c); err != nil {
		return err
	}
	if _, err := d.bridgeOf(ctx, c); err != nil {
		return types.NewError(cniwire.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}

// A plan is everything about one attachment that is settled before anything is made.
type plan struct {
	a         *delegates.Attachment
	conf      *conf
	port      string // the name of the port, and of the link's end in the host
	bridge    string
	userspace bool // the bridge's datapath is netdev
	mac       net.HardwareAddr
	result    *types100.Result
	ids       map[string]string // external_ids of port and interface
	portIDs   map[string]string // further ones of the port alone
	announcer *announcer        // nil before the link is configured, and if there are no addresses
}

func (d *Delegate) plan(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment) (*plan, error) {
	c, err := parseConf(a, delegates.CNIArgs(s, a))
	if err != nil {
		return nil, err
	}
	if err := d.checkSocket(c); err != nil {
		return nil, err
	}
	br, err := d.bridgeOf(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &plan{a: a, conf: c, port: HostName(s.ContainerID, a.Interface), bridge: br.Name, userspace: br.DatapathType == "netdev",
		result: assemble(a, c), portIDs: foreignIDs(s, a)}
	p.mac = chooseMAC(a, c, p.result, p.port)
	p.result.Interfaces = []*types100.Interface{
		{Name: p.port, Mac: hostMAC(p.port).String(), Mtu: c.MTU},
		{Name: a.Interface, Mac: p.mac.String(), Mtu: c.MTU, Sandbox: s.NetnsPath},
	}
	p.ids = externalIDs(s, p)
	return p, nil
}

// assemble makes the attachment's result, without its interfaces, from the addresses that IPAM gave.
func assemble(a *delegates.Attachment, c *conf) *types100.Result {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if a.Addresses != nil {
		for _, ip := range a.Addresses.IPs {
			res.IPs = append(res.IPs, ip.Copy())
		}
		for _, r := range a.Addresses.Routes {
			res.Routes = append(res.Routes, r.Copy())
		}
		res.DNS = *a.Addresses.DNS.Copy()
	}
	for _, ip := range res.IPs {
		ip.Interface = types100.Int(1)
		if c.IsDefaultGateway && ip.Gateway != nil {
			res.Routes = append(res.Routes, &types.Route{Dst: defaultRoute(ip.Address.IP), GW: ip.Gateway})
		}
	}
	return res
}

func defaultRoute(family net.IP) net.IPNet {
	if family.To4() != nil {
		return net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// chooseMAC returns the hardware address that an attachment was made with, else that which was asked for, else one
// made from the first address, else one made from the port's name.
func chooseMAC(a *delegates.Attachment, c *conf, res *types100.Result, host string) net.HardwareAddr {
	if a.Result != nil {
		if made, err := net.ParseMAC(a.NIC().MAC()); err == nil {
			return made
		}
	}
	if c.hwaddr != nil {
		return c.hwaddr
	}
	if len(res.IPs) > 0 {
		if addr, ok := netip.AddrFromSlice(res.IPs[0].Address.IP); ok {
			return ipam.MAC(addr.Unmap())
		}
	}
	mac := hostMAC(host)
	mac[0] = 0x0a
	return mac
}

func externalIDs(s delegates.Sandbox, p *plan) map[string]string {
	var ips []string
	for _, ip := range p.result.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	ids := map[string]string{
		idSandbox: s.ContainerID, idIf: p.a.Interface, idPod: s.Namespace + "/" + s.Pod, idUID: s.UID, idNetwork: p.a.Network,
		"iface-id": s.Namespace + "_" + s.Pod + "_" + p.a.Interface, idMAC: p.mac.String(), "ip-addresses": strings.Join(ips, ","),
	}
	if port := p.conf.Args.CNI.OvnPort; port != "" {
		ids["iface-id"] = port // OVN binds its logical port of that name
	}
	return ids
}

// foreignIDs are what ovs-cni writes on its ports, for programs that find a pod's port by them. ovs-cni's
// mark "owner" is not among them: its plugins for mirrors don't need it, and where ovs-cni runs beside us
// it removes every port with that mark whose interface is in error. Our ports are the engine's to remove.
func foreignIDs(s delegates.Sandbox, a *delegates.Attachment) map[string]string {
	return map[string]string{"contIface": a.Interface, "contNetns": s.NetnsPath, "contPodUid": s.UID}
}
