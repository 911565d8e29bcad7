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

// restore puts back what etcd had when it was backed up.
func (n *node) restore(backup string) {
	n.t.Helper()
	n.etcd.Stop()
	remove(n.t, n.etcd.Data())
	testnode.Sh(n.t, "cp", "-a", backup+"/data", n.etcd.Data())
	n.etcd.Start(n.t)
}

// A decision that is cut off costs no running pod anything.
func TestADecisionIsCutOff(t *testing.T) {
	for _, how := range []string{"--accept", "--from-node"} {
		t.Run(how, func(t *testing.T) {
			n := newNode(t)
			n.Run(t, "first", "data")
			backup := n.backup()
			second := n.Run(t, "second", "data,headed")
			before, had := ifindex(t, second, "net1"), addresses(t, second)
			n.Daemon.Stop()
			n.restore(backup)
			n.Launch(t, "PATCHBAY_FAILPOINTS=store-register=kill")
			n.suspended()
			_, _ = n.patchctl("recover", how) // it may be killed before it answers
			<-n.Daemon.Done()
			n.Start(t)
			n.resumed()
			n.Vanish(t, n.Run(t, "third", "good").Pod) // all was looked after at least once since
			if now := ifindex(t, second, "net1"); now != before || addresses(t, second) != had {
				t.Errorf("interface %s was %s, %s was %s", now, before, addresses(t, second), had)
			}
		})
	}
}

// An address that was an earlier pod's when etcd was backed up is the running pod's.
func TestAnAddressThatABackupHasAsAnEarlierPods(t *testing.T) {
	n := newNode(t)
	const wanted = `[{"name": "data", "ips": ["10.12.0.77"]}]`
	n.Run(t, "keeps", "data")
	n.Run(t, "old", wanted)
	backup := n.backup()
	if err := n.Remove("old"); err != nil {
		t.Fatal(err)
	}
	young := n.Run(t, "young", wanted)
	n.restore(backup)
	for _, p := range n.suspended().Pods {
		if p.Conflict != "" {
			t.Errorf("%s is refused: %s", p.Pod, p.Conflict)
		}
	}
	if out, err := n.patchctl("recover", "--from-node"); err != nil {
		t.Error(err, out)
	}
	n.resumed()
	testnode.Eventually(t, "old is gone", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 2
	})
	if s, err := n.TryRun("third", wanted); err == nil {
		t.Errorf("10.12.0.77 has two owners: %s, %s", addresses(t, s), addresses(t, young))
	}
	n.Check(t, young)
	n.AssertClean(t)
}

// A pod whose namespace can't be seen may run.
func TestAHiddenNamespaceIsWrittenBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data,headed")
	keys := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/")
	n.emptyEtcd()
	n.suspended()
	testnode.Sh(t, "mount", "-t", "tmpfs", "none", "/run/netns")
	out, err := n.patchctl("recover", "--from-node")
	testnode.Sh(t, "umount", "/run/netns")
	if err != nil {
		t.Fatal(err, out)
	}
	n.resumed()
	if have := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/"); have != keys {
		t.Errorf("etcd has\n%s\nand had\n%s", have, keys)
	}
}

// The release before knows no copies: what it deletes is not lost by etcd.
func TestTheReleaseBeforeRanAndDeletedAPod(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	s := n.pod("a", "good")
	if err := n.add(ctx, s); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	// What the release before does: it registers, and the pod's DEL comes.
	n.etcdctl("put", "/patchbay/v1/nodes/n1", `{"node":"n1","bootID":"`+strings.TrimSpace(testnode.Sh(t, "cat", "/proc/sys/kernel/random/boot_id"))+`","version":"0.2.0","bridges":{}}`)
	n.etcdctl("del", "/patchbay/v1/sandboxes/n1/a")
	n.etcdctl("del", "/patchbay/v1/pods/default/a")
	n.Start(t)
	n.Run(t, "b", "data")
	n.AssertClean(t)
}

// A claim that only patchbay-ipam has made, for a runtime without us, is missed as a record is.
func TestAClaimOfAnotherRuntimeIsLost(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	config := `{"cniVersion": "1.0.0", "name": "plain", "type": "bridge", "socket": "` + n.CNI + `",
 "ipam": {"type": "patchbay-ipam", "network": "10.84.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`
	add := func(id string) {
		t.Helper()
		if e := n.shim("patchbay-ipam", config, "CNI_COMMAND=ADD", "CNI_CONTAINERID="+id, "CNI_NETNS="+testnode.Netns(t, id), "CNI_IFNAME=eth0"); e != nil {
			t.Fatal(e)
		}
	}
	add("zero")
	backup := n.backup()
	add("one")
	key := strings.TrimSpace(n.keyOf("one"))
	n.Daemon.Stop()
	n.restore(backup)
	n.Launch(t)
	n.suspended()
	if out, err := n.patchctl("recover", "--from-node"); err != nil {
		t.Error(err, out)
	}
	n.resumed()
	if now := strings.TrimSpace(n.keyOf("one")); now != key {
		t.Errorf("it has %s, and had %s", now, key)
	}
	// What was written back is not taken for what an etcd at a later revision had.
	n.Daemon.Stop()
	n.Start(t)
	add("two")
	if now := strings.TrimSpace(n.keyOf("two")); now == key {
		t.Errorf("one and two have %s", key)
	}
}

// The name of a pod leads to its sandbox, also in an etcd that was written back.
func TestANameIsWrittenBack(t *testing.T) {
	n := newNode(t)
	old, young := n.pod("old", "good"), n.pod("young", "good")
	old.Pod, young.Pod = "p-0", "p-0"
	n.mustAdd(old)
	n.mustAdd(young)
	n.mustDel(old)
	have := n.etcdctl("get", "/patchbay/v1/pods/default/p-0")
	n.emptyEtcd()
	n.decide("--from-node")
	if now := n.etcdctl("get", "/patchbay/v1/pods/default/p-0"); now != have {
		t.Errorf("it is %q and was %q", now, have)
	}
}

// A pool that another node has defined is written back with what this node has of it.
func TestAPoolThatAnotherNodeDefinedIsWrittenBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	spec := "/patchbay/v1/ipam/10.81.0.0-16/spec"
	have := strings.TrimSpace(n.etcdctl("get", "--print-value-only", "/patchbay/v1/ipam/10.12.0.0-16/spec"))
	n.etcdctl("put", spec, strings.ReplaceAll(have, "10.12.", "10.81."))
	n.Run(t, "b", "headed")
	keys := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/")
	n.emptyEtcd()
	n.decide("--from-node")
	if have := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/"); have != keys {
		t.Errorf("etcd has\n%s\nand had\n%s", have, keys)
	}
}
