// Package link compares an interface of a pod with the CNI result that describes it, and gives it what it
// lacks, inside the pod's namespace. It also finds links, and lists them and what they have without gaps, in
// any namespace.
package link

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A NIC is an interface of a pod and the CNI result that describes it.
type NIC struct {
	Name   string
	Result *types100.Result
	// AnyRoutes says that routes are not compared: later plugins of a chain may have moved them.
	AnyRoutes bool
}

// Check returns an error that says what the interface lacks.
func (n NIC) Check() error {
	h, link, err := n.open()
	if err != nil {
		return err
	}
	defer h.Close()
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("interface %s is down in the pod", n.Name)
	}
	if want, have := n.MAC(), link.Attrs().HardwareAddr.String(); want != "" && want != have {
		return fmt.Errorf("interface %s has hardware address %s, not %s", n.Name, have, want)
	}
	return n.lacks(h, link)
}

// Mend gives the interface the addresses and routes that it has lost, if it is as we left it: of that name and
// hardware address, up, in no bond or bridge. Whoever has changed that has taken the interface over, and may have
// taken an address off it on purpose. index is the interface's, 0 if it is not known. Mend returns what was lost,
// and why that can't be mended.
func (n NIC) Mend(index int) (lost, err error) {
	if n.index() < 0 {
		return nil, nil // a plugin that leaves no interface in the pod
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByName(n.Name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		lost, err = n.renamedOrLost(index)
		return lost, errors.Join(lost, err)
	case err != nil:
		return nil, err
	case !n.untouched(l, index):
		return nil, nil
	}
	if lost = n.lacks(h, l); lost == nil {
		return nil, nil
	}
	return lost, cmp.Or(n.address(h, l), n.route(h, l))
}

// untouched reports whether a link is the interface as we left it.
func (n NIC) untouched(l netlink.Link, index int) bool {
	a, mac := l.Attrs(), n.MAC()
	return a.RawFlags&unix.IFF_UP != 0 && a.MasterIndex == 0 && (mac == "" || mac == a.HardwareAddr.String()) && (index == 0 || index == a.Index)
}

// renamedOrLost tells an interface that has another name now from one that is gone.
func (n NIC) renamedOrLost(index int) (lost, err error) {
	if index != 0 {
		return nil, nil // the host's end tells that it is there
	}
	links, err := Links()
	if err != nil {
		return nil, err
	}
	if mac := n.MAC(); mac != "" && slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().HardwareAddr.String() == mac }) {
		return nil, nil
	}
	return fmt.Errorf("interface %s is missing in the pod", n.Name), nil
}

// lacks says which address or route the interface lacks.
func (n NIC) lacks(h *netlink.Handle, link netlink.Link) error {
	addrs, err := Addresses(h, link)
	if err != nil {
		return err
	}
	for _, ip := range n.ips() {
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return have.IPNet.String() == ip.Address.String() }) {
			return fmt.Errorf("interface %s has lost address %s", n.Name, ip.Address.String())
		}
	}
	if n.AnyRoutes {
		return nil
	}
	routes, err := Routes(h, link)
	if err != nil {
		return err
	}
	for _, r := range n.Result.Routes {
		if !has(routes, r) {
			return fmt.Errorf("interface %s has lost the route to %s", n.Name, r.Dst.String())
		}
	}
	return nil
}

// Apply gives the interface the addresses it lacks, sets it up, and adds the routes it lacks. A missing
// interface is an error.
func (n NIC) Apply() error {
	h, link, err := n.open()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := n.address(h, link); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", n.Name, err)
	}
	return n.route(h, link)
}

// address gives the interface its addresses.
func (n NIC) address(h *netlink.Handle, link netlink.Link) error {
	for _, ip := range n.ips() {
		if err := n.addAddress(h, link, ip); err != nil {
			return err
		}
	}
	return nil
}

// route adds the routes that the interface lacks.
func (n NIC) route(h *netlink.Handle, link netlink.Link) error {
	if n.AnyRoutes || len(n.Result.Routes) == 0 {
		return nil
	}
	have, err := Routes(h, link)
	if err != nil {
		return err
	}
	for _, r := range n.Result.Routes {
		if has(have, r) {
			continue
		}
		if err := addRoute(h, n.asRoute(link.Attrs().Index, r)); err != nil {
			return fmt.Errorf("add route %s via %v to %s: %w", r.Dst.String(), n.Gateway(r), n.Name, err)
		}
	}
	return nil
}

// addRoute adds a route behind those that lead to the same by other interfaces, as those of a pod that is on one network
// twice: the first one is used. A second default route is refused: whose it is is asked for.
func addRoute(h *netlink.Handle, r *netlink.Route) error {
	if ones, _ := r.Dst.Mask.Size(); ones == 0 {
		return h.RouteAdd(r)
	}
	return h.RouteAppend(r)
}

// Change takes from the interface the routes and addresses that are in an earlier result but not in its own, and
// gives it those that it lacks. What the workload added it leaves alone.
func (n NIC) Change(earlier *types100.Result) error {
	h, l, err := n.open()
	if err != nil {
		return err
	}
	defer h.Close()
	before := NIC{Name: n.Name, Result: earlier}
	for _, r := range earlier.Routes {
		same := func(o *types.Route) bool {
			return o.Dst.String() == r.Dst.String() && n.Gateway(o).Equal(before.Gateway(r))
		}
		if slices.ContainsFunc(n.Result.Routes, same) {
			continue
		}
		if err := h.RouteDel(before.asRoute(l.Attrs().Index, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s from %s: %w", r.Dst.String(), n.Name, err)
		}
	}
	had, err := Addresses(h, l)
	if err != nil {
		return err
	}
	for _, ip := range before.ips() {
		same := func(o *types100.IPConfig) bool { return o.Address.String() == ip.Address.String() }
		if slices.ContainsFunc(n.ips(), same) {
			continue
		}
		if err := h.AddrDel(l, &netlink.Addr{IPNet: &ip.Address}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", ip.Address.String(), n.Name, err)
		}
		had = slices.DeleteFunc(had, func(a netlink.Addr) bool { return a.IPNet.String() == ip.Address.String() })
	}
	have, err := Addresses(h, l)
	if err != nil {
		return err
	}
	for _, a := range had { // the kernel takes the others of a subnet away with the first
		if slices.ContainsFunc(have, func(now netlink.Addr) bool { return now.IPNet.String() == a.IPNet.String() }) {
			continue
		}
		if err := h.AddrReplace(l, &a); err != nil {
			return fmt.Errorf("give address %s back to %s: %w", a.IPNet, n.Name, err)
		}
	}
	return n.Apply()
}

// open finds the interface. The caller closes the handle.
func (n NIC) open() (*netlink.Handle, netlink.Link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, err
	}
	link, err := h.LinkByName(n.Name)
	if err != nil {
		h.Close()
		return nil, nil, fmt.Errorf("interface %s is missing in the pod: %w", n.Name, err)
	}
	return h, link, nil
}

func (n NIC) addAddress(h *netlink.Handle, link netlink.Link, ip *types100.IPConfig) error {
	addr := &netlink.Addr{IPNet: &ip.Address}
	if ip.Address.IP.To4() == nil {
		if err := enableIPv6(n.Name); err != nil {
			return err
		}
		// IPAM gives an address one owner. Duplicate address detection would only delay its use by a second.
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", ip.Address.String(), n.Name, err)
	}
	return nil
}

// enableIPv6 writes only if it must: in a container /proc/sys may be read-only.
func enableIPv6(ifName string) error {
	path := "/proc/sys/net/ipv6/conf/" + ifName + "/disable_ipv6"
	if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == "0" {
		return nil
	}
	if err := os.WriteFile(path, []byte("0"), 0); err != nil {
		return fmt.Errorf("switch IPv6 on on %s: %w", ifName, err)
	}
	return nil
}

// has reports whether a route is among those of the interface. They are the main table's: routes of other tables
// are taken to be there.
func has(have []netlink.Route, r *types.Route) bool {
	return r.Table != nil || slices.ContainsFunc(have, func(h netlink.Route) bool { return h.Dst != nil && h.Dst.String() == r.Dst.String() })
}

// asRoute returns a result's route (CNI 1.1.0, section 5) as the kernel wants it.
func (n NIC) asRoute(index int, r *types.Route) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Dst: &r.Dst, Gw: n.Gateway(r), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if out.Gw == nil {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Scope != nil {
		out.Scope = netlink.Scope(*r.Scope)
	}
	return out
}

// Gateway returns the route's own gateway, else that of an address of its family. A route to the link has none.
func (n NIC) Gateway(r *types.Route) net.IP {
	if r.GW != nil || r.Scope != nil && netlink.Scope(*r.Scope) >= netlink.SCOPE_LINK {
		return r.GW
	}
	var gw net.IP
	for _, ip := range n.ips() {
		if (ip.Address.IP.To4() == nil) == (r.Dst.IP.To4() == nil) && ip.Gateway != nil {
			gw = ip.Gateway
		}
	}
	return gw
}

// index returns the interface's place in the result, -1 if it is not there.
func (n NIC) index() int {
	return slices.IndexFunc(n.Result.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" && i.Name == n.Name })
}

// MAC returns the interface's hardware address by the result, "" if that does not tell.
func (n NIC) MAC() string {
	if i := n.index(); i >= 0 {
		return n.Result.Interfaces[i].Mac
	}
	return ""
}

// ips returns the result's addresses that are on the interface.
func (n NIC) ips() []*types100.IPConfig {
	own := n.index()
	return slices.DeleteFunc(slices.Clone(n.Result.IPs), func(ip *types100.IPConfig) bool {
		return own < 0 || ip.Interface == nil || *ip.Interface != own
	})
}
