package node

import (
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Networks without any declared capability, as Multus' users write them: Multus hands ips and mac to
// the plugins in CNI_ARGS.
const undeclared = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan-static}
spec: {config: '{"cniVersion": "0.3.1", "plugins": [{"type": "macvlan", "master": "lan0", "mode": "bridge", "ipam": {"type": "static"}}]}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan-hostlocal}
spec: {config: '{"cniVersion": "0.3.1", "plugins": [{"type": "macvlan", "master": "lan0", "mode": "bridge",
  "ipam": {"type": "host-local", "dataDir": "/run/host-local", "ranges": [[{"subnet": "10.41.0.0/24"}]]}}]}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan-bare}
spec: {config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "lan0", "mode": "bridge"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: ptp}
spec: {config: '{"cniVersion": "1.0.0", "type": "ptp", "ipam": {"type": "host-local", "dataDir": "/run/host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]]}}'}
`

func TestAddressesAreHandedOverWithoutACapability(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "undeclared.yaml", undeclared)
	s := n.Run(t, "a", `[{"name": "macvlan-static", "ips": ["10.1.1.21/24", "fd00:1::21/64"], "mac": "02:00:00:00:00:21"},
		{"name": "macvlan-hostlocal", "ips": ["10.41.0.9"]}, {"name": "macvlan", "ips": ["10.18.0.9/24"]}, {"name": "hostlocal", "ips": ["10.19.0.9/24"]},
		{"name": "vlan", "ips": ["10.43.0.9/16", "fd00:43::9/64"]}]`)
	for nic, want := range map[string][]string{"net1": {"10.1.1.21/24", "fd00:1::21/64"}, "net2": {"10.41.0.9/24"}, "net3": {"10.18.0.9/24"},
		"net4": {"10.19.0.9/24"}, "net5": {"10.43.0.9/16", "fd00:43::9/64"}} {
		out := testnode.Exec(t, s, "ip", "-br", "addr", "show", nic)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s lacks %s: %s", nic, w, out)
			}
		}
	}
	if out := testnode.Exec(t, s, "ip", "link", "show", "net1"); !strings.Contains(out, "02:00:00:00:00:21") {
		t.Error(out)
	}
	n.Check(t, s)
	if _, err := n.TryRun("b", `[{"name": "vlan", "ips": ["10.43.0.9/16"]}]`); err == nil || !strings.Contains(err.Error(), "requested address 10.43.0.9 of network default/vlan: address is taken by pod default/a net5") {
		t.Errorf("one address, two pods: %v", err)
	}
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.AssertEmpty(t)
}

func aRequestThatNobodyHonours(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "undeclared.yaml", undeclared)
	for _, c := range []struct{ name, networks, want string }{
		{"ips without IPAM", `[{"name": "macvlan-bare", "ips": ["10.1.1.21/24"]}]`, `network default/macvlan-bare (plugins macvlan) does not honour "ips": 10.1.1.21/24 was requested, and none was given`},
		{"another length", `[{"name": "macvlan-hostlocal", "ips": ["10.41.0.9/8"]}]`, "10.41.0.9/8 was requested, and 10.41.0.9/24 was given"},
		{"another length, our IPAM", `[{"name": "macvlan", "ips": ["10.18.0.9/8"]}]`, "ask for 10.18.0.9/24"},
		{"another length, native", `[{"name": "data", "ips": ["10.12.0.9/8"]}]`, "ask for 10.12.0.9/24"},
		{"mac", `[{"name": "ptp", "mac": "02:00:00:00:00:21"}]`, `network default/ptp (plugins ptp) does not honour "mac": 02:00:00:00:00:21 was requested`},
		{"native without IPAM and without a length", `[{"name": "vlan", "ips": ["10.43.0.9"]}]`, `network default/vlan has no "ipam", so 10.43.0.9 needs a prefix length, such as 10.43.0.9/24`},
		{"native without IPAM, no unicast address", `[{"name": "vlan", "ips": ["224.0.0.1/24"]}]`, "224.0.0.1 is not an address that an interface can have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := n.TryRun("a", c.networks); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nlacks %q", err, c.want)
			}
			n.AssertEmpty(t)
		})
	}
}

func TestNetworksWithOverlappingRangesAreRefused(t *testing.T) {
	n := testnode.Standard(t)
	const nad = "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: wide}\nspec: {config: '" +
		`{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "control", "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/8", "subnetLen": 24}}` + "'}\n"
	n.Write(t, "wide.yaml", nad)
	n.Run(t, "a", "data")
	if _, err := n.TryRun("b", "wide"); err == nil || !strings.Contains(err.Error(), "pool 10.0.0.0-8 (10.0.0.0/8 in subnets of /24) overlaps pool 10.12.0.0-16") {
		t.Error(err)
	}
	n.AssertClean(t)
}
