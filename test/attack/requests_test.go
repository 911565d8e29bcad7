package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The zone of an address is free text, and a semicolon in it begins another of CNI_ARGS.
func TestIPsCantNameAnotherPodInCNIArgs(t *testing.T) {
	n := newNode(t)
	if _, err := n.TryRun("a", `[{"name": "good", "ips": ["fe80::1%x;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=victim"]}]`); err == nil {
		t.Error("it was accepted")
	}
	if calls := n.calls(); strings.Contains(calls, "K8S_POD_NAME=victim") {
		t.Errorf("a plugin was told that the pod is another one:\n%s", calls)
	}
}

// The length of an IPv4 address that is written as an IPv6 one is not that of either.
func TestAMappedAddressIsRefusedOrMeantAsWritten(t *testing.T) {
	n := newNode(t)
	s, err := n.TryRun("a", `[{"name": "vlan", "ips": ["::ffff:10.43.0.9/24"]}]`)
	if err != nil {
		t.Log(err)
		if strings.Contains(err.Error(), "does not honour") || strings.Contains(err.Error(), "invalid argument") {
			t.Errorf("the message is not about the address: %v", err)
		}
		return
	}
	t.Cleanup(func() { _ = n.Remove("a") })
	n.Check(t, s)
	n.Daemon.Stop()
	n.Start(t)
	n.Check(t, s)
	if l, err := n.Client.List(context.Background(), client.Filter{}); err != nil || len(l) != 1 || len(l[0].IPs) != 1 || l[0].IPs[0] != "10.43.0.9/24" {
		t.Errorf("%+v, %v", l, err)
	}
	if out := testnode.Exec(t, s, "ip", "-br", "addr", "show", "net1"); strings.Count(out, "10.43.0.9") != 1 || !strings.Contains(out, "10.43.0.9/24") {
		t.Errorf("the pod has %s%s", out, testnode.Exec(t, s, "ip", "route"))
	}
}

// A network of passthru, as for the auxiliary chain, has no interface that could be damaged or could lose
// a route.
func TestANetworkOfPassthruHasNoInterface(t *testing.T) {
	n := newNode(t)
	n.nad("pass", `{"cniVersion": "1.0.0", "name": "pass", "plugins": [{"type": "passthru"}, {"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_filter": "1"}}]}`)
	n.Run(t, "a", "pass")
	n.Daemon.Stop()
	n.Start(t) // which mends what it finds damaged
	if log := n.LogTail(); strings.Contains(log, "interface is damaged") {
		t.Error("what has no interface is taken for damaged")
	}
	if _, err := n.TryRun("b", `[{"name": "pass"}, {"name": "data", "default-route": ["10.12.0.1"]}]`); err != nil {
		t.Errorf("a default route beside it: %v", err)
	} else if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
}
