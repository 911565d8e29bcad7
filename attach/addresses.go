package attach

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/node"
)

// ownerOf is the pod of this node, of another sandbox, that has an address on a network.
func (e *Engine) ownerOf(network string, addr netip.Addr, containerID string) string {
	for _, s := range e.Sandboxes() {
		for _, a := range s.Attachments {
			if s.ContainerID == containerID || a.Spec.networkName() != network || a.Status.Result == nil {
				continue
			}
			if slices.ContainsFunc(a.Status.Result.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(addr.AsSlice()) }) {
				return s.Namespace + "/" + s.Pod + " " + a.Spec.Interface
			}
		}
	}
	return ""
}

// static gives the requested addresses as an IPAM plugin's result, for a network without IPAM. Of other
// nodes' pods nothing is known.
func (m *making) static(network string, requested []ipam.Request) (*types100.Result, error) {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, r := range requested {
		if r.Bits == 0 {
			return nil, ipam.Invalid("ips: network %s has no \"ipam\", so %s needs a prefix length, such as %s/24", network, r.Addr, r.Addr)
		}
		if !r.Addr.IsGlobalUnicast() && !r.Addr.IsLinkLocalUnicast() {
			return nil, ipam.Invalid("ips: %s is not an address that an interface can have", r.Addr)
		}
		if has := m.e.ownerOf(network, r.Addr, m.sandbox.ContainerID); has != "" {
			return nil, fmt.Errorf("requested address %s of network %s: %w by pod %s", r.Addr, network, ipam.ErrTaken, has)
		}
		res.IPs = append(res.IPs, &types100.IPConfig{Address: net.IPNet{IP: r.Addr.AsSlice(), Mask: net.CIDRMask(r.Bits, r.Addr.BitLen())}})
	}
	return res, nil
}

// Addresses gives a reservation as an IPAM plugin's result.
func Addresses(r *node.Reservation) *types100.Result {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: r.Pool.DNS}
	for i, a := range r.Addrs {
		res.IPs = append(res.IPs, &types100.IPConfig{
			Address: net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())},
			Gateway: r.Gateways[i].AsSlice(),
		})
	}
	for _, route := range r.Pool.Routes {
		res.Routes = append(res.Routes, route.Copy())
	}
	return res
}
