package attach

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/node"
)

// foreignIPAM is the IPAM plugin, not ours, that gives a native attachment its addresses; "" if none.
func (e *Engine) foreignIPAM(list *cniconf.List) string {
	typ := ipamType(list.Plugins[0].IPAM)
	if !e.Native.Handles(list.Plugins[0].Type) || typ == ipam.Type {
		return ""
	}
	return typ
}

func ipamType(raw json.RawMessage) string {
	var t struct {
		Type string `json:"type"`
	}
	if raw == nil || json.Unmarshal(raw, &t) != nil {
		return ""
	}
	return t.Type
}

// Requested reads the capability argument ips: addresses with or without a prefix length.
func Requested(raw json.RawMessage) ([]netip.Addr, error) {
	if raw == nil {
		return nil, nil
	}
	var texts []string
	if err := json.Unmarshal(raw, &texts); err != nil {
		return nil, fmt.Errorf("ips: %w", err)
	}
	var addrs []netip.Addr
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if p, perr := netip.ParsePrefix(t); perr == nil {
			a, err = p.Addr(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("ips: %q is neither an address nor an address with a prefix length: %w", t, ipam.ErrInvalid)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
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
