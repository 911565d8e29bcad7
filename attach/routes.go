package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// applyDefaultRoutes gives the default route to the attachment that asked for it with default-route
// (multi-network specification 4.1.2.1.9) and takes it from the others, in the namespace and in
// their results. Families are kept apart: a gateway of one takes nothing of the other. It returns
// the record as it is then.
func applyDefaultRoutes(d delegates.Sandbox, s *Sandbox) (*Sandbox, error) {
	i := s.chosen()
	if i < 0 {
		return s, nil
	}
	chosen := s.Attachments[i]
	s = s.with() // a copy
	err := inPod(d, func(h *netlink.Handle) error {
		for n := range s.Attachments {
			a := &s.Attachments[n]
			if n == i || a.Status.Result == nil || !a.hasInterface() {
				continue
			}
			if err := displace(h, a, families(chosen)); err != nil {
				return err
			}
		}
		return takeOver(h, &s.Attachments[i])
	})
	return s, err
}

// chosen is the index of the attachment that asked for the default route, -1 if none did.
func (s *Sandbox) chosen() int {
	return slices.IndexFunc(s.Attachments, func(a Attachment) bool { return a.Spec.DefaultRoute != nil && a.Status.Result != nil })
}

// settled is an attachment of the sandbox with the default routes that are its own in its result, which is
// new. Those that would take another's are noted as displaced.
func (s *Sandbox) settled(a Attachment) Attachment {
	i := s.chosen()
	if i < 0 {
		return a
	}
	if s.Attachments[i].Spec.Interface == a.Spec.Interface {
		a.Status.Result = withDefaults(a.Status.Result, *a.Spec.DefaultRoute)
		return a
	}
	families := families(s.Attachments[i])
	a.Status.Displaced = slices.DeleteFunc(slices.Clone(a.Status.Displaced), func(r Route) bool {
		return slices.Contains(families, nl.GetIPFamily(r.Dst.Addr().AsSlice()))
	})
	for _, r := range a.Status.Result.Routes {
		if family := nl.GetIPFamily(r.Dst.IP); isDefault(r.Dst) && slices.Contains(families, family) {
			gw, _ := netip.AddrFromSlice(link.NIC{Name: a.Spec.Interface, Result: a.Status.Result}.Gateway(r))
			a.Status.Displaced = append(a.Status.Displaced, Route{Dst: defaultPrefix(family), GW: gw.Unmap()})
		}
	}
	a.Status.Result = withoutDefaults(a.Status.Result, families)
	return a
}

// inPod calls do in a pod's namespace, with a netlink handle there.
func inPod(d delegates.Sandbox, do func(*netlink.Handle) error) error {
	return d.Netns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return do(h)
	})
}

// families are those of the chosen attachment's gateways; without any, of its addresses.
func families(a Attachment) []int {
	var all []int
	for _, gw := range *a.Spec.DefaultRoute {
		all = append(all, nl.GetIPFamily(gw.AsSlice()))
	}
	if len(all) == 0 {
		for _, ip := range a.Status.Result.IPs {
			all = append(all, nl.GetIPFamily(ip.Address.IP))
		}
	}
	return all
}

// displace takes the default routes of those families from an attachment.
func displace(h *netlink.Handle, a *Attachment, families []int) error {
	if err := failpoint.Hit("routes-displace"); err != nil {
		return err
	}
	a.Status.Result = withoutDefaults(a.Status.Result, families)
	routes, err := defaultRoutes(h, a.Spec.Interface, families)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the default route of %s: %w", a.Spec.Interface, err)
		}
		gw, _ := netip.AddrFromSlice(r.Gw)
		a.Status.Displaced = append(a.Status.Displaced, Route{Dst: defaultPrefix(r.Family), GW: gw.Unmap()})
	}
	return nil
}

// withoutDefaults is a result without default routes and gateways of those families.
func withoutDefaults(had *types100.Result, families []int) *types100.Result {
	res := *had
	res.Routes = slices.DeleteFunc(slices.Clone(res.Routes), func(r *types.Route) bool {
		return isDefault(r.Dst) && slices.Contains(families, nl.GetIPFamily(r.Dst.IP))
	})
	res.IPs = nil
	for _, ip := range had.IPs {
		ip = ip.Copy()
		if slices.Contains(families, nl.GetIPFamily(ip.Address.IP)) {
			ip.Gateway = nil
		}
		res.IPs = append(res.IPs, ip)
	}
	return &res
}

// takeOver gives an attachment the default routes that it asked for.
func takeOver(h *netlink.Handle, a *Attachment) error {
	if err := failpoint.Hit("routes-take-over"); err != nil {
		return err
	}
	for _, gw := range *a.Spec.DefaultRoute {
		if err := addDefault(h, a.Spec.Interface, defaultVia(gw)); err != nil {
			return err
		}
	}
	a.Status.Result = withDefaults(a.Status.Result, *a.Spec.DefaultRoute)
	return nil
}

func defaultVia(gw netip.Addr) Route {
	return Route{Dst: defaultPrefix(nl.GetIPFamily(gw.AsSlice())), GW: gw}
}

// withDefaults is a result with default routes by the gateways, in place of those of their families.
func withDefaults(had *types100.Result, gateways []netip.Addr) *types100.Result {
	res := *had
	for _, gw := range gateways {
		taken := defaultVia(gw).inResult()
		others := slices.DeleteFunc(slices.Clone(res.Routes), func(o *types.Route) bool { return o.Dst.String() == taken.Dst.String() })
		res.Routes = append(others, taken)
	}
	return &res
}

// returnDefaultRoutes gives default routes back that gave way to an attachment which is gone, and returns
// the record as it is then. A pod that ends needs none.
func (e *Engine) returnDefaultRoutes(d delegates.Sandbox, s *Sandbox) *Sandbox {
	chosen := slices.ContainsFunc(s.Attachments, func(a Attachment) bool { return a.Spec.DefaultRoute != nil })
	if d.Netns == nil || s.Ending || s.displaced() == 0 || chosen {
		return s
	}
	s = s.with()
	err := inPod(d, func(h *netlink.Handle) error {
		var errs []error // one is no reason to leave the others without
		for i := range s.Attachments {
			errs = append(errs, giveBack(h, &s.Attachments[i]))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		e.logger(s).Warn("default route is not restored", "error", err)
	}
	return s
}

// displaced is how many default routes have given way.
func (s *Sandbox) displaced() (n int) {
	for _, a := range s.Attachments {
		n += len(a.Status.Displaced)
	}
	return n
}

// giveBack gives an attachment the default routes back that have given way. One that the workload has renamed, or set
// down, is left as it is, for when mending finds it up again.
func giveBack(h *netlink.Handle, a *Attachment) error {
	for len(a.Status.Displaced) > 0 {
		l, err := h.LinkByName(a.Spec.Interface)
		if errors.As(err, &netlink.LinkNotFoundError{}) || err == nil && l.Attrs().RawFlags&unix.IFF_UP == 0 {
			return nil
		}
		r := a.Status.Displaced[0]
		if err := addDefault(h, a.Spec.Interface, r); err != nil {
			return err
		}
		res := *a.Status.Result
		res.Routes = append(slices.Clone(res.Routes), r.inResult())
		a.Status.Result, a.Status.Displaced = &res, a.Status.Displaced[1:]
	}
	return nil
}

// restoreDefaultRoutes gives the attachments that were there before their default routes back, if the attempt
// that is rolled back may have taken them: its record, which would tell, was not written.
func (m *making) restoreDefaultRoutes() {
	if m.sandbox.Netns == nil || !slices.ContainsFunc(m.parts, func(p *part) bool { return p.Spec.DefaultRoute != nil }) {
		return
	}
	err := inPod(m.sandbox, func(h *netlink.Handle) error {
		var errs []error // one that the workload has renamed is no reason to leave the others without
		for _, a := range m.before.Attachments {
			if a.Status.Phase != Ready || a.Status.Result == nil || !a.hasInterface() {
				continue
			}
			nic := link.NIC{Name: a.Spec.Interface, Result: a.Status.Result}
			for _, r := range a.Status.Result.Routes {
				if !isDefault(r.Dst) {
					continue
				}
				gw, _ := netip.AddrFromSlice(nic.Gateway(r))
				errs = append(errs, addDefault(h, a.Spec.Interface, defaultVia(gw.Unmap())))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		m.e.logger(m.before).Warn("default route is not restored", "error", err)
	}
}

// inResult is the route as a CNI result has it.
func (r Route) inResult() *types.Route {
	return &types.Route{Dst: net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())}, GW: r.GW.AsSlice()}
}

func addDefault(h *netlink.Handle, ifName string, r Route) error {
	link, err := h.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", ifName, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &r.inResult().Dst, Gw: r.GW.AsSlice()}
	if err := h.RouteReplace(route); errors.Is(err, unix.ENETUNREACH) {
		return types.NewError(cniwire.ErrRefused, fmt.Sprintf("default route via %s on %s: the interface has no address in a subnet with that gateway", r.GW, ifName), "")
	} else if err != nil {
		return fmt.Errorf("default route via %s on %s: %w", r.GW, ifName, err)
	}
	return nil
}

// defaultRoutes are the interface's default routes of those families: none if the workload has given it another
// name.
func defaultRoutes(h *netlink.Handle, ifName string, families []int) ([]netlink.Route, error) {
	l, err := h.LinkByName(ifName)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s in the pod: %w", ifName, err)
	}
	routes, err := link.Routes(h, l)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Dst != nil && !isDefault(*r.Dst) || !slices.Contains(families, r.Family)
	}), nil
}

func isDefault(n net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}

func defaultPrefix(family int) netip.Prefix {
	if family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
