package meta

import (
	"net"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/ipam"
)

// requests are what the element, which is valid, asks of the plugins.
func (s *Selection) requests() delegates.Requests {
	r := delegates.Requests{Bandwidth: s.Bandwidth, Others: map[string]any{}}
	r.IPs, _ = ipam.ParseRequests(s.IPs)
	r.MAC, _ = net.ParseMAC(s.MAC)
	if s.InfinibandGUID != "" {
		r.Others["infinibandGUID"] = s.InfinibandGUID
	}
	if len(s.PortMappings) > 0 {
		r.Others["portMappings"] = s.PortMappings
	}
	if s.DeviceID != "" {
		r.Others["deviceID"] = s.DeviceID
	}
	return r
}

// inArgs reports whether a request is handed to plugins in CNI_ARGS besides its capability: IP and
// MAC, which static, host-local, macvlan and others honour (CNI CONVENTIONS.md).
func inArgs(capability string) bool { return capability == "ips" || capability == "mac" }
