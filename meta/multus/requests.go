package multus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/meta"
)

// These are the IPAM plugins that honour or ignore requested addresses, and the plugins that honour or ignore
// a requested hardware address. If a request is ignored, Multus starts the pod; here it fails.
var (
	honourIPs = []string{"patchbay-ipam", "static", "host-local"}
	ignoreIPs = []string{"whereabouts", "dhcp"}
	honourMAC = []string{"patchbay-ovs", "ovs", "macvlan", "bridge", "sriov", "tuning"}
	ignoreMAC = []string{"ptp", "ipvlan", "vlan", "host-device"}
)

// checkRequests judges what a pod asks of one of its networks.
func checkRequests(object string, w meta.Wanted) []Finding {
	var findings []Finding
	types := w.Config.Types()
	if slices.Contains(types, onDisk) {
		return nil
	}
	judge := func(key, who string, grade Grade) {
		what := fmt.Sprintf("asks network %s for %q, and %s ignores requests: Multus starts the pod with what it gets, here it fails", w.Network, key, who)
		if grade == Changes {
			what = fmt.Sprintf("asks network %s for %q: if %s ignores that, the pod fails; Multus starts it with what it gets", w.Network, key, who)
		}
		findings = append(findings, Finding{object, grade, what})
	}
	head := w.Config.Plugins[0]
	if len(w.Requests.IPs) > 0 {
		switch {
		case slices.Contains(honourIPs, head.IPAMType), head.IPAM == nil && slices.Contains(native, head.Type):
		case head.IPAM == nil:
			judge("ips", "plugin "+head.Type+", which has no \"ipam\",", Fails)
		case slices.Contains(ignoreIPs, head.IPAMType):
			judge("ips", "its IPAM "+head.IPAMType, Fails)
		default:
			judge("ips", "its IPAM "+head.IPAMType, Changes)
		}
	}
	if w.Requests.MAC != nil && !slices.ContainsFunc(types, func(t string) bool { return slices.Contains(honourMAC, t) }) {
		grade := Changes
		if !slices.ContainsFunc(types, func(t string) bool { return !slices.Contains(ignoreMAC, t) }) {
			grade = Fails
		}
		judge("mac", "plugin "+strings.Join(types, ", "), grade)
	}
	return findings
}
