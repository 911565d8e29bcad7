package attack

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// What is asked of a suspended daemon does not outlive the suspension.
func TestQuestionsWhileItIsSuspended(t *testing.T) {
	n := newNode(t)
	n.nad("wide", `{"cniVersion": "1.0.0", "name": "wide", "plugins": [{"type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.85.0.0/16", "subnetLen": 28, "cooldown": "0s"}}]}`)
	n.Run(t, "a", "data,wide")
	n.Daemon.Stop()
	n.etcd.Stop()
	aside := n.etcd.Data() + ".aside"
	if err := os.Rename(n.etcd.Data(), aside); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.Launch(t)
	n.suspended()
	_, _ = n.Client.Doctor(context.Background())
	_, _ = n.Client.Pools(context.Background())
	n.etcd.Stop()
	remove(t, n.etcd.Data())
	if err := os.Rename(aside, n.etcd.Data()); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.resumed()
	testnode.Eventually(t, "a pod can be added", func() bool { return n.add(context.Background(), n.pod("b", "data,wide")) == nil })
	if subnets := strings.Fields(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/subnets/n1/")); len(subnets) != 2 {
		t.Errorf("it has %v", subnets)
	}
}
