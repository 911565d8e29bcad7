package attack

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// record is a sandbox's record as etcd has it, and its key.
func (n *node) record(s *sandbox.Sandbox) (key, whole string, fields map[string]any) {
	n.t.Helper()
	key = "/patchbay/v1/sandboxes/n1/" + s.ContainerID
	whole = strings.TrimSpace(n.etcdctl("get", "--print-value-only", key))
	if err := json.Unmarshal([]byte(whole), &fields); err != nil {
		n.t.Fatal(err)
	}
	return key, whole, fields
}

// forge writes a record that the node has not written.
func (n *node) forge(key string, fields map[string]any) {
	n.t.Helper()
	delete(fields, "signature")
	b, err := json.Marshal(fields)
	if err != nil {
		n.t.Fatal(err)
	}
	n.etcdctl("put", key, string(b))
}

// asTheReleaseBefore writes the records of pods and the node as the release before has them.
func (n *node) asTheReleaseBefore(pods ...*sandbox.Sandbox) {
	n.t.Helper()
	for _, s := range pods {
		key, _, r := n.record(s)
		delete(r, "version")
		delete(r, "written")
		n.forge(key, r)
	}
	boot := strings.TrimSpace(testnode.Sh(n.t, "cat", "/proc/sys/kernel/random/boot_id"))
	n.etcdctl("put", "/patchbay/v1/nodes/n1", `{"node":"n1","bootID":"`+boot+`","version":"before","bridges":{}}`)
}

// The release before did not sign its records. Those of pods with a cluster network or a default network, which the
// configuration gives to pods of every namespace, were refused.
func TestRecordsOfTheReleaseBeforeWithNetworksForAllPodsAreTaken(t *testing.T) {
	n := newNode(t, "meta.clusterNetwork=kube-system/sys", "meta.defaultNetworks=[net/every]", "meta.allowDefaultNetworkOverride=[default]")
	for _, network := range []string{"kube-system/sys", "kube-system/chosen", "net/every"} {
		namespace, name, _ := strings.Cut(network, "/")
		n.Write(t, name+".yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: "+name+", namespace: "+namespace+
			`}`+"\nspec: {config: '"+`{"cniVersion": "1.0.0", "name": "`+name+`", "type": "patchbay-ovs", "network": "data"}`+"'}\n")
	}
	a := n.Run(t, "a", "data")
	b := n.pod("b", "data")
	b.Annotations["v1.multus-cni.io/default-network"] = "kube-system/chosen"
	if _, err := n.Runtime.Add(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	n.asTheReleaseBefore(a, b)
	n.Start(t)
	if ok, why := n.healthy("records"); !ok {
		t.Error(why)
	}
	n.Check(t, a)
	n.Check(t, b)
	if err := n.Runtime.Del(context.Background(), b); err != nil {
		t.Error(err)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// The node went back to the release before for a while, within one boot, and a pod has ended meanwhile: of that the
// mirror knew nothing, and the node was suspended.
func TestTheReleaseBeforeMayHaveRunMeanwhile(t *testing.T) {
	n := newNode(t)
	a, b := n.Run(t, "a", "vlan"), n.Run(t, "b", "data")
	key, _, r := n.record(a)
	port := r["attachments"].([]any)[0].(map[string]any)["status"].(map[string]any)["port"].(string)
	n.Daemon.Stop()
	testnode.Sh(t, "ip", "link", "del", port)
	testnode.Sh(t, "ovs-vsctl", "--db="+n.OVS.DB, "del-port", port)
	n.etcdctl("del", key)
	n.etcdctl("del", "/patchbay/v1/pods/default/a")
	n.asTheReleaseBefore(b)
	n.Start(t)
	n.resumed()
	if ok, why := n.healthy("records"); !ok {
		t.Error(why)
	}
	n.Check(t, b)
	n.Run(t, "c", "data")
	n.AssertClean(t)
}
