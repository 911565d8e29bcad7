package testnode

import (
	"net"
	"testing"
)

// Networks are NADs that most tests use.
const Networks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: data}
spec:
  config: '{"cniVersion": "1.1.0", "name": "data", "type": "patchbay-ovs", "network": "data",
    "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: control}
spec:
  config: '{"cniVersion": "1.1.0", "name": "control", "type": "patchbay-ovs", "network": "control",
    "ipam": {"type": "patchbay-ipam", "networks": ["10.13.0.0/16", "fd00:13::/48"], "subnetLen": 24, "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: vlan}
spec:
  config: '{"cniVersion": "1.1.0", "name": "vlan", "type": "patchbay-ovs", "network": "data", "vlan": 100, "mtu": 1450}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: trunk}
spec:
  config: '{"cniVersion": "1.1.0", "name": "trunk", "type": "patchbay-ovs", "network": "data", "vlan": 5, "trunk": [{"id": 20}, {"minID": 30, "maxID": 32}]}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: limited}
spec:
  config: '{"cniVersion": "1.1.0", "name": "limited", "type": "patchbay-ovs", "network": "control",
    "qos": {"ingressRate": "20M", "egressRate": "20M"},
    "ipam": {"type": "patchbay-ipam", "network": "10.16.0.0/16", "subnetLen": 24}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: other, namespace: lab}
spec:
  config: '{"cniVersion": "1.1.0", "name": "other", "type": "patchbay-ovs", "network": "data"}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: nobridge}
spec:
  config: '{"cniVersion": "1.1.0", "name": "nobridge", "type": "patchbay-ovs", "network": "storage"}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: vlan5000}
spec:
  config: '{"cniVersion": "1.1.0", "name": "vlan5000", "type": "patchbay-ovs", "network": "data", "vlan": 5000}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: bridge}
spec:
  config: '{"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "bridge", "bridge": "lbr0", "capabilities": {"ips": true},
    "ipam": {"type": "patchbay-ipam", "network": "10.17.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan}
spec:
  config: '{"cniVersion": "1.0.0", "name": "macvlan", "plugins": [{"type": "macvlan", "master": "lan0", "mode": "bridge",
    "ipam": {"type": "patchbay-ipam", "network": "10.18.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: hostlocal}
spec:
  config: '{"cniVersion": "1.0.0", "name": "hostlocal", "type": "patchbay-ovs", "network": "data",
    "ipam": {"type": "host-local", "dataDir": "/run/host-local", "ranges": [[{"subnet": "10.19.0.0/24"}]]}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: chained}
spec:
  config: '{"cniVersion": "1.0.0", "name": "chained", "plugins": [
    {"type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}},
    {"type": "tuning", "mtu": 1300}]}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: tiny}
spec:
  config: '{"cniVersion": "1.1.0", "name": "tiny", "type": "patchbay-ovs", "network": "data",
    "ipam": {"type": "patchbay-ipam", "network": "10.20.0.0/29", "subnetLen": 29, "exclude": ["10.20.0.4/30"], "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: missing}
spec:
  config: '{"cniVersion": "1.0.0", "name": "missing", "type": "no-such-plugin"}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fails}
spec:
  config: '{"cniVersion": "1.0.0", "name": "fails", "type": "macvlan", "master": "nonexistent0", "ipam": {"type": "patchbay-ipam", "network": "10.21.0.0/16", "subnetLen": 24, "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: itself}
spec:
  config: '{"cniVersion": "1.0.0", "name": "itself", "type": "patchbay"}'
`

// Standard starts a node that has Networks.
func Standard(t testing.TB, set ...string) *Node {
	t.Helper()
	Lan(t)
	return New(t, Config{Manifests: map[string]string{"networks.yaml": Networks}, Set: set})
}

// Lan makes lan0, the master of the macvlan networks.
func Lan(t testing.TB) {
	t.Helper()
	if _, err := net.InterfaceByName("lan0"); err != nil {
		Sh(t, "ip", "link", "add", "lan0", "up", "type", "veth", "peer", "name", "lan1")
		Sh(t, "ip", "link", "set", "lan1", "up")
	}
}
