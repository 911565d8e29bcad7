package meta

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/patchbay-cni/patchbay/internal/cniresult"
)

// A Made is what results and the network-status tell of an attachment.
type Made struct {
	Network      string // namespace/name; "" if no NetworkAttachmentDefinition made it
	Config       string // the configuration's name, for what no NetworkAttachmentDefinition made
	Interface    string // "" for a chain that has none of its own
	Result       *types100.Result
	DefaultRoute *[]netip.Addr
	Device       *nad.DeviceInfo
}

// A NetworkStatus is one entry of the network-status annotation, specification 5.
type NetworkStatus struct {
	Name         string          `json:"name"`
	Interface    string          `json:"interface,omitempty"`
	IPs          []string        `json:"ips,omitempty"`
	MAC          string          `json:"mac,omitempty"`
	MTU          int             `json:"mtu,omitempty"`
	Default      bool            `json:"default"`
	DNS          *types.DNS      `json:"dns,omitempty"`
	DefaultRoute *[]netip.Addr   `json:"default-route,omitempty"`
	DeviceInfo   *nad.DeviceInfo `json:"device-info,omitempty"`
}

// Status makes the network-status of a pod: an entry for each attachment, in order, exactly one of
// them the default.
func Status(made []Made) []NetworkStatus {
	list := make([]NetworkStatus, 0, len(made))
	for i, m := range made {
		s := NetworkStatus{Name: cmp.Or(m.Network, m.Config), Default: i == 0, DefaultRoute: m.DefaultRoute, DeviceInfo: m.Device}
		if m.Result != nil {
			s.fill(m.Result)
		}
		s.Interface = cmp.Or(s.Interface, m.Interface)
		list = append(list, s)
	}
	return list
}

// fill takes interface and hardware address from the first sandbox interface of the result, and
// the addresses on it; failing those, the first address that has no interface.
func (s *NetworkStatus) fill(res *types100.Result) {
	first := slices.IndexFunc(res.Interfaces, func(nic *types100.Interface) bool { return nic.Sandbox != "" })
	if first >= 0 {
		nic := res.Interfaces[first]
		s.Interface, s.MAC, s.MTU = nic.Name, nic.Mac, nic.Mtu
	}
	for _, ip := range res.IPs {
		if ip.Interface != nil && *ip.Interface == first {
			s.IPs = append(s.IPs, ip.Address.IP.String())
		}
	}
	if i := slices.IndexFunc(res.IPs, func(ip *types100.IPConfig) bool { return ip.Interface == nil }); i >= 0 && len(s.IPs) == 0 {
		s.IPs = []string{res.IPs[i].Address.IP.String()}
	}
	if !res.DNS.IsEmpty() {
		s.DNS = &res.DNS
	}
}

// Result is what the runtime is answered: the cluster network's result, or the first attachment's,
// in the version it speaks.
func Result(made []Made, version string) (types.Result, error) {
	var res types100.Result
	if len(made) > 0 && made[0].Result != nil {
		res = *made[0].Result
	}
	return cniresult.As(&res, version)
}
