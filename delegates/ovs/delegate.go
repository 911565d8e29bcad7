// Package ovs is the native Open vSwitch delegate: it joins a pod to a bridge with a veth pair,
// made and configured through netlink, and a port, made through OVSDB. Nothing is executed.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	ports *ports
	links *links
	after sync.WaitGroup // what goes on when a call has been answered
}

// New returns the delegate; run it with Run.
func New(db *vswitch.DB, opts Options, log *slog.Logger) *Delegate {
	db.Register("bridges", bridge.Reconciler(opts.Bridges, log))
	return &Delegate{db: db, opts: opts, log: log, ports: &ports{db: db}, links: newLinks()}
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

// Handles reports whether a plugin type is this delegate's.
func (d *Delegate) Handles(pluginType string) bool {
	return pluginType == Type || pluginType == ForeignType
}

// Add makes all the attachments at once: the links one after another, as the kernel does, and the
// ports of all of them in one transaction, while the pod's ends are configured.
func (d *Delegate) Add(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	plans := make([]*plan, len(as))
	for i, a := range as {
		var err error
		if plans[i], err = d.plan(ctx, s, a); err != nil {
			return fmt.Errorf("%s: %w", a.Interface, err)
		}
	}
	specs := make([]portSpec, len(plans))
	for i, p := range plans {
		specs[i] = p.port
	}
	if err := d.ports.closed(ctx, specs); err != nil {
		return err
	}
	for _, p := range plans {
		p.a.Tried = true
		if err := d.links.create(p.port.name, p.a.Interface, p.mac, p.conf.MTU, s.Netns); err != nil {
			if errors.Is(err, errExists) {
				return types.NewError(cniwire.ErrRefused, err.Error(), "choose another \"interface\" name")
			}
			return err
		}
	}
	if err := failpoint.Hit(failpoint.OvsLinkCreated); err != nil {
		return err
	}
	announcers := make([]*announcer, len(plans))
	defer d.closeLater(announcers)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.ports.add(gctx, specs) })
	g.Go(func() error {
		err := s.Netns.Do(func() (err error) {
			for i, p := range plans {
				side := podSide{ifName: p.a.Interface, result: p.result, checksumOff: p.userspace, egressRate: uint64(p.conf.QoS.EgressRate)}
				if announcers[i], err = configure(side); err != nil {
					return err
				}
			}
			return nil
		})
		return errors.Join(err, failpoint.Hit(failpoint.OvsLinkConfigured))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for i, p := range plans {
		if announcers[i] != nil {
			announcers[i].announce(p.result.IPs)
		}
		if err := d.gateway(p); err != nil {
			return err
		}
		p.a.Result, p.a.Bridge, p.a.Port = p.result, p.port.bridge, p.port.name
	}
	return nil
}

func (d *Delegate) closeLater(as []*announcer) {
	d.after.Go(func() {
		for _, a := range as {
			if a != nil {
				a.close()
			}
		}
	})
}

// Del removes ports and links; it needs neither the configuration nor the pod's namespace. Both go
// at once: the kernel takes its 20 ms for the links while ovsdb-server commits.
func (d *Delegate) Del(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) []error {
	names := make([]string, len(as))
	for i, a := range as {
		names[i] = HostName(s.ContainerID, a.Interface)
	}
	var g errgroup.Group
	g.Go(func() error {
		return d.ports.del(ctx, names, func(p *vswitch.Port) bool { return p.ExternalIDs[idSandbox] == s.ContainerID })
	})
	g.Go(func() error {
		return errors.Join(d.links.remove(names), failpoint.Hit(failpoint.OvsLinkDeleted))
	})
	defer d.db.LookForErrors()
	return slices.Repeat([]error{g.Wait()}, len(as))
}

// Status fails with 51 when Open vSwitch is away, and with 50 when this node lacks the bridge.
func (d *Delegate) Status(ctx context.Context, list *cniconf.List) error {
	if !d.db.Connected() {
		return types.NewError(cniwire.ErrLimitedConnection, "Open vSwitch does not answer at "+d.db.Endpoint(), "")
	}
	if len(list.Plugins) == 0 {
		return nil
	}
	c, err := parseNetwork(list)
	if err != nil {
		return err
	}
	if err := d.checkSocket(c); err != nil {
		return err
	}
	if _, _, err := d.bridgeOf(ctx, c); err != nil {
		return types.NewError(cniwire.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}

// A plan is everything about one attachment that is settled before anything is made.
type plan struct {
	a         *delegates.Attachment
	conf      *conf
	mac       net.HardwareAddr
	port      portSpec
	result    *types100.Result
	userspace bool // the bridge's datapath is netdev
}

func (d *Delegate) plan(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment) (*plan, error) {
	c, err := parseConf(a, delegates.CNIArgs(s, a))
	if err != nil {
		return nil, err
	}
	if err := d.checkSocket(c); err != nil {
		return nil, err
	}
	br, datapath, err := d.bridgeOf(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &plan{a: a, conf: c, userspace: datapath == "netdev"}
	host := HostName(s.ContainerID, a.Interface)
	p.result = assemble(a, c)
	p.mac = chooseMAC(c, p.result, host)
	p.result.Interfaces = []*types100.Interface{
		{Name: host, Mac: hostMAC(host).String(), Mtu: c.MTU},
		{Name: a.Interface, Mac: p.mac.String(), Mtu: c.MTU, Sandbox: s.NetnsPath},
	}
	p.port = portSpec{name: host, bridge: br, ovnPort: c.Args.CNI.OvnPort, tag: c.VLAN, trunks: c.trunks, ofportRequest: c.OfportRequest, maxRate: uint64(c.QoS.IngressRate),
		ifType: c.InterfaceType, externalIDs: externalIDs(s, a, p), portIDs: foreignIDs(s, a)}
	return p, nil
}

// assemble makes the attachment's result of what IPAM gave.
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

// chooseMAC: what was asked for, else made from the first address, else from the port's name.
func chooseMAC(c *conf, res *types100.Result, host string) net.HardwareAddr {
	if c.hwaddr != nil {
		return c.hwaddr
	}
	if len(res.IPs) > 0 {
		if a, ok := toAddr(res.IPs[0].Address.IP); ok {
			return ipam.MAC(a)
		}
	}
	mac := hostMAC(host)
	mac[0] = 0x0a
	return mac
}

func externalIDs(s delegates.Sandbox, a *delegates.Attachment, p *plan) map[string]string {
	var ips []string
	for _, ip := range p.result.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	ids := map[string]string{
		idSandbox: s.ContainerID, idIf: a.Interface, idPod: s.Namespace + "/" + s.Pod, idUID: s.UID, idNetwork: a.Network,
		"iface-id": s.Namespace + "_" + s.Pod + "_" + a.Interface, "attached-mac": p.mac.String(), "ip-addresses": strings.Join(ips, ","),
	}
	if port := p.conf.Args.CNI.OvnPort; port != "" {
		ids["iface-id"] = port // OVN binds its logical port of that name
	}
	return ids
}

// foreignIDs are what ovs-cni writes on its ports, for whatever finds a pod's port by them. Its mark
// "owner" is not among them: its plugins for mirrors go by the port's name, and where ovs-cni runs
// beside us it removes every port so marked whose interface is in error. Ours are the engine's.
func foreignIDs(s delegates.Sandbox, a *delegates.Attachment) map[string]string {
	return map[string]string{"contIface": a.Interface, "contNetns": s.NetnsPath, "contPodUid": s.UID}
}

// Await waits for Open vSwitch and reports whether it is there, with the configured bridges.
func (d *Delegate) Await(ctx context.Context, wait time.Duration) bool {
	return d.db.Await(ctx, wait)
}
