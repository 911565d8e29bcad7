package exec

import (
	"fmt"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// keep puts back the addresses that a plugin left out of its result although the interface has them, with their
// routes and DNS. A plugin is to pass on what it does not change (CNI 1.1.0, "Chained Plugin Behavior"), but
// ovs-cni's plugins for mirrors pass on the interfaces alone.
func keep(s delegates.Sandbox, ifName string, prev, res *types100.Result) error {
	if prev == nil || len(prev.IPs) == 0 || len(res.IPs) > 0 || s.Netns == nil {
		return nil
	}
	var have []netlink.Addr
	err := s.Netns.Do(func() error {
		l, err := link.Find(ifName)
		if l == nil {
			return err // gone, with its addresses
		}
		have, err = link.Addresses(&netlink.Handle{}, l)
		return err
	})
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", ifName, err)
	}
	for _, ip := range prev.IPs {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(ip.Address.IP) }) {
			continue
		}
		ip = ip.Copy()
		ip.Interface = nil
		own := func(nic *types100.Interface) bool { return nic.Name == ifName && nic.Sandbox != "" }
		if i := slices.IndexFunc(res.Interfaces, own); i >= 0 {
			ip.Interface = types100.Int(i)
		}
		res.IPs = append(res.IPs, ip)
	}
	if len(res.IPs) > 0 && len(res.Routes) == 0 {
		res.Routes = prev.Routes
	}
	if len(res.IPs) > 0 && res.DNS.IsEmpty() {
		res.DNS = prev.DNS
	}
	return nil
}
