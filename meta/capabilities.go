package meta

import (
	"net"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/ipam"
)

// A capability is a request of a selection element, with the name of its capability argument (CNI
// CONVENTIONS.md).
type capability struct{ key, name string }

// requests are the element's requests; it is valid.
func (s *Selection) requests() (delegates.Requests, []capability) {
	r := delegates.Requests{Bandwidth: s.Bandwidth, Others: map[string]any{}}
	var cs []capability
	asked := func(is bool, key, name string, value any) {
		if !is {
			return
		}
		cs = append(cs, capability{key, name})
		if value != nil {
			r.Others[name] = value
		}
	}
	for _, ip := range s.IPs {
		if want, err := ipam.ParseRequest(ip); err == nil {
			r.IPs = append(r.IPs, want)
		}
	}
	r.MAC, _ = net.ParseMAC(s.MAC)
	asked(len(r.IPs) > 0, "ips", "ips", nil)
	asked(len(r.MAC) > 0, "mac", "mac", nil)
	asked(s.InfinibandGUID != "", "infiniband-guid", "infinibandGUID", s.InfinibandGUID)
	asked(len(s.PortMappings) > 0, "portMappings", "portMappings", s.PortMappings)
	asked(s.Bandwidth != nil, "bandwidth", "bandwidth", nil)
	asked(s.DeviceID != "", "deviceID", "deviceID", s.DeviceID)
	return r, cs
}

// inArgs reports whether a request is handed to plugins in CNI_ARGS besides its capability: IP and
// MAC, which static, host-local, macvlan and others honour (CNI CONVENTIONS.md).
func inArgs(capability string) bool { return capability == "ips" || capability == "mac" }
