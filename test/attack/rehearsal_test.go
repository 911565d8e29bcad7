package attack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// With gc.dryRun what would be collected is told, and kept: a pod that is gone, what has no record, what the
// runtime no longer knows and what a DEL has left.
func TestARehearsalRemovesNothing(t *testing.T) {
	n := newNode(t, "gc.dryRun=true")
	n.Run(t, "forgotten", "data")
	stray := n.Run(t, "stray", "data")
	gone := n.Run(t, "gone", "data")
	n.Run(t, "failing", "good")
	n.set("faildel")
	if err := n.Remove("failing"); err == nil {
		t.Fatal("the DEL does not fail")
	}
	n.unset("faildel")
	n.Daemon.Stop()
	n.etcdctl("del", "/patchbay/v1/sandboxes/n1/"+stray.ContainerID)
	n.forget()
	remove(t, n.Dir+"/state/mirror") // else etcd would be one that has lost what this node has written
	ports, claims, dels := len(n.OVS.Ports(t)), len(n.claimKeys()), strings.Count(n.calls(), "DEL ")
	n.Start(t)
	testnode.Sh(t, "ip", "netns", "del", strings.TrimPrefix(gone.Netns, "/run/netns/"))
	// Not by libcni, which would call DEL for what is not valid: nothing is wrong with those.
	if e := n.shim("patchbay", `{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "socket": "`+n.CNI+`",
 "cni.dev/valid-attachments": [{"containerID": "`+gone.ContainerID+`", "ifname": "eth0"}]}`, "CNI_COMMAND=GC"); e != nil {
		t.Error(e)
	}
	for _, text := range []string{"sandbox is gone and was never deleted: gc.dryRun keeps it", "the runtime no longer knows this sandbox: gc.dryRun keeps it",
		"ports, links and addresses have no record: gc.dryRun keeps them", "an interrupted or failed call has left interfaces: gc.dryRun keeps them"} {
		testnode.Eventually(t, "the log says: "+text, func() bool { return n.logged(text) })
	}
	if have := len(n.claimKeys()); have != claims {
		t.Errorf("%d addresses are claimed, there were %d", have, claims)
	}
	if have := strings.Count(n.calls(), "DEL "); have != dels {
		t.Errorf("plugins were called %d times for a DEL, %d times before", have, dels)
	}
	if have := len(n.OVS.Ports(t)); have != ports {
		t.Errorf("%d ports, there were %d", have, ports)
	}
	n.Set = append(n.Set, "gc.dryRun=false")
	n.Daemon.Stop()
	n.Start(t)
	testnode.Eventually(t, "the pod that is gone is collected in earnest", func() bool { return n.logged("never deleted: collected") })
}

// With gc.dryRun a GC of patchbay-ipam, called as a plugin of its own, frees nothing either.
func TestARehearsalFreesNoAddressOfPatchbayIPAM(t *testing.T) {
	n := newNode(t, "gc.dryRun=true")
	plain := `{"cniVersion": "1.1.0", "name": "plain", "type": "patchbay-ipam", "socket": "` + n.CNI + `", "cni.dev/valid-attachments": [],
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`
	if e := n.shim("patchbay-ipam", plain, "CNI_COMMAND=ADD", "CNI_CONTAINERID=other", "CNI_NETNS="+testnode.Netns(t, "other"), "CNI_IFNAME=net1"); e != nil {
		t.Fatal(e)
	}
	if e := n.shim("patchbay-ipam", plain, "CNI_COMMAND=GC"); e != nil {
		t.Error(e)
	}
	if claims := n.claims("10.80.0.0-16"); len(claims) != 1 {
		t.Errorf("the address was freed: %+v", claims)
	}
	if !n.logged("the runtime no longer knows this address: gc.dryRun keeps it") {
		t.Error("the log does not tell of the address")
	}
}

// logged reports whether the daemon's log has a text.
func (n *node) logged(text string) bool {
	n.t.Helper()
	log, err := os.ReadFile(filepath.Join(n.Dir, "patchbayd.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Contains(string(log), text)
}

// claimKeys are the keys of all claims.
func (n *node) claimKeys() []string {
	n.t.Helper()
	return strings.Fields(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/"))
}
