package link

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Change takes from the interface the routes and addresses that it has by an earlier result and not by
// its own, and gives it those that it lacks. What the workload added is left alone.
func (n NIC) Change(earlier *types100.Result) error {
	h, l, err := n.open()
	if err != nil {
		return err
	}
	defer h.Close()
	before := NIC{Name: n.Name, Result: earlier}
	for _, r := range earlier.Routes {
		same := func(o *types.Route) bool {
			return o.Dst.String() == r.Dst.String() && n.gateway(o).Equal(before.gateway(r))
		}
		if slices.ContainsFunc(n.Result.Routes, same) {
			continue
		}
		if err := h.RouteDel(before.route(l.Attrs().Index, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s from %s: %w", r.Dst.String(), n.Name, err)
		}
	}
	for _, ip := range before.ips() {
		same := func(o *types100.IPConfig) bool { return o.Address.String() == ip.Address.String() }
		if slices.ContainsFunc(n.ips(), same) {
			continue
		}
		if err := h.AddrDel(l, &netlink.Addr{IPNet: &ip.Address}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", ip.Address.String(), n.Name, err)
		}
	}
	return n.Apply()
}
