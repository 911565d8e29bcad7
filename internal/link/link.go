// Package link compares an interface of a pod with the CNI result that describes it, and restores
// what the kernel has lost of it. Its functions run inside the pod's namespace.
package link

import (
	"fmt"
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A NIC is an interface with what its CNI result says of it.
type NIC struct {
	Name   string
	Result *types100.Result
	// AnyRoutes says that routes are not compared: later plugins of a chain may have moved them.
	AnyRoutes bool
}

// Check returns what the interface lacks.
func (n NIC) Check() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(n.Name)
	if err != nil {
		return fmt.Errorf("interface %s is missing in the pod: %w", n.Name, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("interface %s is down in the pod", n.Name)
	}
	if want := n.mac(); want != "" && link.Attrs().HardwareAddr.String() != want {
		return fmt.Errorf("interface %s has hardware address %s, not %s", n.Name, link.Attrs().HardwareAddr, want)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", n.Name, err)
	}
	for _, ip := range n.ips() {
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return have.IPNet.String() == ip.Address.String() }) {
			return fmt.Errorf("interface %s has lost address %s", n.Name, ip.Address.String())
		}
	}
	if n.AnyRoutes {
		return nil
	}
	routes, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", n.Name, err)
	}
	for _, r := range n.Result.Routes {
		if !slices.ContainsFunc(routes, func(have netlink.Route) bool { return have.Dst != nil && have.Dst.String() == r.Dst.String() }) {
			return fmt.Errorf("interface %s has lost the route to %s", n.Name, r.Dst.String())
		}
	}
	return nil
}

// Restore sets the interface up and adds what it lacks of addresses and routes. A missing interface
// is an error.
func (n NIC) Restore() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(n.Name)
	if err != nil {
		return fmt.Errorf("interface %s is missing in the pod: %w", n.Name, err)
	}
	for _, ip := range n.ips() {
		addr := &netlink.Addr{IPNet: &ip.Address}
		if ip.Address.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", ip.Address.String(), n.Name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", n.Name, err)
	}
	if n.AnyRoutes {
		return nil
	}
	for _, r := range n.Result.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &r.Dst, Gw: n.gateway(r.Dst, r.GW)}
		if route.Gw == nil {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("add route %s to %s: %w", r.Dst.String(), n.Name, err)
		}
	}
	return nil
}

// gateway is the route's own, else that of an address of its family.
func (n NIC) gateway(dst net.IPNet, gw net.IP) net.IP {
	if gw != nil {
		return gw
	}
	for _, ip := range n.ips() {
		if (ip.Address.IP.To4() == nil) == (dst.IP.To4() == nil) && ip.Gateway != nil {
			gw = ip.Gateway
		}
	}
	return gw
}

// index of the interface in the result, -1 if it is not there.
func (n NIC) index() int {
	return slices.IndexFunc(n.Result.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" && i.Name == n.Name })
}

func (n NIC) mac() string {
	if i := n.index(); i >= 0 {
		return n.Result.Interfaces[i].Mac
	}
	return ""
}

// ips are the result's addresses that are on the interface.
func (n NIC) ips() []*types100.IPConfig {
	own := n.index()
	return slices.DeleteFunc(slices.Clone(n.Result.IPs), func(ip *types100.IPConfig) bool {
		return own < 0 || ip.Interface == nil || *ip.Interface != own
	})
}
