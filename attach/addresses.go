package attach

import (
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/ipam"
)

// HolderOf implements ipam.Holders.
func (e *Engine) HolderOf(network string, addr netip.Addr, containerID string) string {
	return e.podWith(containerID, func(a Attachment) bool {
		return a.Spec.networkName() == network && a.has(addr)
	})
}

// has reports whether the attachment has an address, or, as long as it is being made, asks for it.
func (a *Attachment) has(addr netip.Addr) bool {
	if a.Status.Result == nil {
		return a.Status.Phase == Pending && slices.ContainsFunc(a.Spec.Requests.IPs, func(r ipam.Request) bool { return r.Addr == addr })
	}
	return slices.ContainsFunc(a.Status.Result.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(addr.AsSlice()) })
}

// UserOf implements ipam.Holders.
func (e *Engine) UserOf(ipamClaim, containerID string) string {
	return e.podWith(containerID, func(a Attachment) bool { return a.Spec.IPAMClaim == ipamClaim })
}

// podWith names the pod, and its interface, that has an attachment for which is holds, or is being given it by a
// call that began before the sandbox's own, in another sandbox than that of the container ID; "" if none has.
func (e *Engine) podWith(containerID string, is func(Attachment) bool) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	own := e.sandboxes[containerID]
	for id, slot := range e.sandboxes {
		if id == containerID {
			continue
		}
		all := []*Sandbox{slot.record}
		if own == nil || own.making == nil || slot.begun < own.begun {
			all = append(all, slot.making)
		}
		for _, s := range all {
			if s == nil {
				continue
			}
			if i := slices.IndexFunc(s.Attachments, is); i >= 0 {
				return s.Namespace + "/" + s.Pod + " " + s.Attachments[i].Spec.Interface
			}
		}
	}
	return ""
}
