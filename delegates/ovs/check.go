package ovs

import (
	"context"
	"fmt"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates"
)

// Check compares port, link, addresses and routes with what Add made.
func (d *Delegate) Check(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	c, err := d.db.client(ctx)
	if err != nil {
		return err
	}
	for _, a := range as {
		if a.Result == nil {
			return fmt.Errorf("%s: no result to check against", a.Interface)
		}
		conf, err := parseConf(a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.Interface, err)
		}
		if err := checkPort(ctx, c, s, a, conf); err != nil {
			return err
		}
		if err := s.Netns.Do(func() error { return checkLink(a, uint64(conf.QoS.EgressRate)) }); err != nil {
			return err
		}
	}
	return nil
}

func checkPort(ctx context.Context, c client.Client, s delegates.Sandbox, a *delegates.Attachment, conf *conf) error {
	name := HostName(s.ContainerID, a.Interface)
	p, i := &port{Name: name}, &iface{Name: name}
	if err := c.Get(ctx, p); err != nil {
		return fmt.Errorf("%s: port %s is missing on Open vSwitch", a.Interface, name)
	}
	if p.ExternalIDs[idSandbox] != s.ContainerID {
		return fmt.Errorf("%s: port %s belongs to sandbox %s", a.Interface, name, p.ExternalIDs[idSandbox])
	}
	if (conf.VLAN == nil) != (p.Tag == nil) || (p.Tag != nil && *p.Tag != *conf.VLAN) || !slices.Equal(conf.trunks, slices.Sorted(slices.Values(p.Trunks))) {
		return fmt.Errorf("%s: port %s has another VLAN than configured", a.Interface, name)
	}
	if rate := uint64(conf.QoS.IngressRate); rate > 0 && !limited(ctx, c, p, rate) {
		return fmt.Errorf("%s: port %s has lost its limit of %d bit/s towards the pod", a.Interface, name, rate)
	}
	if err := c.Get(ctx, i); err != nil || i.Ofport == nil || *i.Ofport < 0 {
		return fmt.Errorf("%s: ovs-vswitchd has not opened port %s", a.Interface, name)
	}
	return nil
}

func limited(ctx context.Context, c client.Client, p *port, rate uint64) bool {
	if p.QoS == nil {
		return false
	}
	q := &qos{UUID: *p.QoS}
	return c.Get(ctx, q) == nil && q.OtherConfig["max-rate"] == fmt.Sprint(rate)
}

// checkLink runs inside the pod's namespace.
func checkLink(a *delegates.Attachment, egressRate uint64) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %s is missing in the pod: %w", a.Interface, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("interface %s is down in the pod", a.Interface)
	}
	if want := podMAC(a.Result); want != "" && link.Attrs().HardwareAddr.String() != want {
		return fmt.Errorf("interface %s has hardware address %s, not %s", a.Interface, link.Attrs().HardwareAddr, want)
	}
	if egressRate > 0 {
		qdiscs, err := h.QdiscList(link)
		if err != nil {
			return fmt.Errorf("list queues of %s: %w", a.Interface, err)
		}
		if !slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "tbf" }) {
			return fmt.Errorf("interface %s has lost its limit of %d bit/s", a.Interface, egressRate)
		}
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", a.Interface, err)
	}
	for _, ip := range a.Result.IPs {
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return have.IPNet.String() == ip.Address.String() }) {
			return fmt.Errorf("interface %s has lost address %s", a.Interface, ip.Address.String())
		}
	}
	routes, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", a.Interface, err)
	}
	for _, r := range a.Result.Routes {
		if !slices.ContainsFunc(routes, func(have netlink.Route) bool { return have.Dst != nil && have.Dst.String() == r.Dst.String() }) {
			return fmt.Errorf("interface %s has lost the route to %s", a.Interface, r.Dst.String())
		}
	}
	return nil
}

func podMAC(res *types100.Result) string {
	for _, i := range res.Interfaces {
		if i.Sandbox != "" {
			return i.Mac
		}
	}
	return ""
}
