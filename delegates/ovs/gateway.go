package ovs

import (
	"fmt"
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/link"
)

// gateways are the addresses that the bridge's own port is to have, if the configuration says so.
func (c *conf) gateways(res *types100.Result) (all []*net.IPNet) {
	if !c.IsGateway && !c.IsDefaultGateway {
		return nil
	}
	for _, ip := range res.IPs {
		if ip.Gateway != nil {
			all = append(all, &net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask})
		}
	}
	return all
}

// makeGateway gives the gateway's addresses to the bridge's own port, and sets that up.
func makeGateway(bridge string, c *conf, res *types100.Result) error {
	if !c.IsGateway && !c.IsDefaultGateway {
		return nil
	}
	l, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s as gateway: %w", bridge, err)
	}
	for _, gw := range c.gateways(res) {
		addr := &netlink.Addr{IPNet: gw}
		if gw.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(l, addr); err != nil {
			return fmt.Errorf("give gateway %s to bridge %s: %w", gw.IP, bridge, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// mendGateway makes the bridge the gateway again that it was, if it has been made anew since, and returns what it
// lacked.
func mendGateway(bridge string, c *conf, res *types100.Result) (lost, err error) {
	want := c.gateways(res)
	if len(want) == 0 {
		return nil, nil
	}
	l, err := link.Find(bridge)
	if l == nil {
		return nil, err // it is not made yet
	}
	have, err := link.Addresses(&netlink.Handle{}, l)
	if err != nil {
		return nil, err
	}
	for _, gw := range want {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(gw.IP) }) {
			lost = fmt.Errorf("bridge %s has lost the gateway's address %s", bridge, gw.IP)
		}
	}
	if lost == nil && l.Attrs().Flags&net.FlagUp == 0 {
		lost = fmt.Errorf("bridge %s, which is a gateway, is down", bridge)
	}
	if lost == nil {
		return nil, nil
	}
	return lost, makeGateway(bridge, c, res)
}
