package attack

import (
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A node is removed from the cluster; another one lists its subnets and gives them back.
func TestSubnetsOfARemovedNodeAreGivenBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	const gone = "/patchbay/v1/ipam/10.12.0.0-16/subnets/10.12.7.0/24"
	n.etcdctl("put", gone, `{"node":"gone"}`)
	n.etcdctl("put", "/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.7.0/24/10.12.7.9", `{"node":"gone","containerID":"c","ifname":"net1","pod":"default/lost"}`)
	if out, err := n.patchctl("ipam", "subnets"); err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), "10.12.0.0-16 10.12.7.0/24 gone 1") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := n.patchctl("ipam", "subnets", "release", "--node", "n1"); err == nil || !strings.Contains(out, "its node is there") {
		t.Errorf("of a node that is there: %s", out)
	}
	if out, err := n.patchctl("ipam", "subnets", "release", "10.12.7.0/24"); err == nil || !strings.Contains(out, "pod default/lost") {
		t.Errorf("in use: %s", out)
	}
	if out, err := n.patchctl("ipam", "subnets", "release"); err == nil || !strings.Contains(out, "--node") {
		t.Errorf("of nobody: %s", out)
	}
	if out, err := n.patchctl("ipam", "subnets", "release", "--node", "gone", "--force"); err != nil || !strings.Contains(out, "subnet 10.12.7.0/24 of pool 10.12.0.0-16 is free") {
		t.Errorf("%v: %s", err, out)
	}
	if left := n.etcdctl("get", "--prefix", "--keys-only", gone); strings.TrimSpace(left) != "" {
		t.Errorf("%s is left", left)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// In a cluster a daemon that is up gives back what nodes that are gone had, as long as nothing of it is in use.
func TestSubnetsOfNodesThatAreGoneAreGivenBackByThemselves(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.Put(testnode.NodesAt, testnode.Object{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"namespace": "v1", "name": "asleep"}}, "")
	n := clusterNode(t, a)
	a.NAD("data", `{"cniVersion": "1.1.0", "name": "data", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24}}`)
	a.Pod("a", "u")
	s := n.pod("a", "data")
	testnode.Eventually(t, "the pod is added", func() bool { return n.add(t.Context(), s) == nil })
	key := func(subnet string) string { return "/patchbay/v1/ipam/10.12.0.0-16/subnets/" + subnet }
	n.etcdctl("put", key("10.12.6.0/24"), `{"node":"asleep"}`)
	n.etcdctl("put", key("10.12.8.0/24"), `{"node":"used"}`)
	n.etcdctl("put", "/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.8.0/24/10.12.8.9", `{"node":"used","containerID":"c","ifname":"net1"}`)
	n.etcdctl("put", key("10.12.9.0/24"), `{"node":"up"}`)
	n.etcdctl("put", "/patchbay/v1/live/up", "{}")
	n.etcdctl("put", key("10.12.7.0/24"), `{"node":"gone"}`)
	left := func() string {
		return strings.Join(strings.Fields(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/10.12.0.0-16/subnets/")), " ")
	}
	testnode.Eventually(t, "the subnet of the node that is gone is free", func() bool { return !strings.Contains(left(), "10.12.7.0/24") })
	for _, subnet := range []string{"10.12.0.0/24", "10.12.6.0/24", "10.12.8.0/24", "10.12.9.0/24"} {
		if !strings.Contains(left(), subnet) {
			t.Errorf("%s is given back, too: %s", subnet, left())
		}
	}
	if err := n.Runtime.Del(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// etcd allows 128 operations in a transaction by default, and all of a pod's addresses are claimed in one.
func TestAPodWithSixtyAddressesFitsIntoOneTransaction(t *testing.T) {
	n := newNode(t)
	var ips []string
	for i := range 60 {
		ips = append(ips, fmt.Sprintf("%q", fmt.Sprint("10.12.0.", 10+i)))
	}
	s := n.Run(t, "a", `[{"name": "data", "ips": [`+strings.Join(ips, ", ")+`]}]`)
	if have := strings.Count(testnode.Exec(t, s, "ip", "-o", "-4", "addr", "show", "net1"), "10.12.0."); have < 60 {
		t.Errorf("%d addresses", have)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// A pod has lost its address a moment ago, and patchbayd is killed: the next pod is not given it at once.
func TestAFreedAddressRestsOverAKill(t *testing.T) {
	n := newNode(t)
	n.nad("five", `{"cniVersion": "1.1.0", "name": "five", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/29", "subnetLen": 29}}`)
	pods := []string{"a", "b", "c", "d", "e"}
	for _, pod := range pods {
		n.Run(t, pod, "five")
	}
	if err := n.Remove("e"); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Kill()
	n.Start(t)
	if _, err := n.TryRun("f", "five"); err == nil || !strings.Contains(err.Error(), "no free address") || !strings.Contains(err.Error(), "resting after release 1") {
		t.Errorf("the address was given out again at once: %v", err)
	}
}
