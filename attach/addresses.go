package attach

import (
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// HolderOf implements ipam.Holders.
func (e *Engine) HolderOf(network string, addr netip.Addr, containerID string) string {
	return e.podWith(containerID, func(a Attachment) bool {
		return a.Spec.networkName() == network && a.Status.Result != nil &&
			slices.ContainsFunc(a.Status.Result.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(addr.AsSlice()) })
	})
}

// UserOf implements ipam.Holders.
func (e *Engine) UserOf(ipamClaim, containerID string) string {
	return e.podWith(containerID, func(a Attachment) bool { return a.Spec.IPAMClaim == ipamClaim })
}

// podWith names the pod, and its interface, that has an attachment for which is holds, in another sandbox
// than that of the container ID; "" if none has.
func (e *Engine) podWith(containerID string, is func(Attachment) bool) string {
	for _, s := range e.Sandboxes() {
		if i := slices.IndexFunc(s.Attachments, is); i >= 0 && s.ContainerID != containerID {
			return s.Namespace + "/" + s.Pod + " " + s.Attachments[i].Spec.Interface
		}
	}
	return ""
}
