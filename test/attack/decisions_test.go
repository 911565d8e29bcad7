package attack

import (
	"strings"
	"testing"
)

// What a newer release has written is not written over, whatever an operator says.
func TestANewerReleasesRecordsAreNotWrittenOver(t *testing.T) {
	for _, how := range []string{"--from-node", "--accept"} {
		t.Run(how, func(t *testing.T) {
			n := newNode(t)
			s := n.Run(t, "a", "data")
			n.Daemon.Stop()
			key := "/patchbay/v1/sandboxes/n1/" + s.ContainerID
			whole := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key))
			n.etcdctl("put", "/patchbay/v1/version", "999")
			n.etcdctl("put", key, `{"version":999,"later":true}`)
			n.Launch(t)
			n.suspended()
			before := n.etcdctl("get", "--prefix", "/patchbay/v1/")
			if out, err := n.patchctl("recover", how); err == nil || !strings.Contains(out, "999") {
				t.Errorf("%v: %s", err, out)
			}
			if now := n.etcdctl("get", "--prefix", "/patchbay/v1/"); now != before {
				t.Errorf("etcd has\n%s\nand had\n%s", now, before)
			}
			n.etcdctl("put", key, whole)
			n.etcdctl("put", "/patchbay/v1/version", "2")
			n.resumed()
			n.Check(t, s)
		})
	}
}

// A subnet that was the node's once, and of which it has no address in use, is not taken back from an empty etcd: it
// may be another node's since.
func TestASubnetWithoutAddressesIsNotWrittenBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	n.Run(t, "b", "headed")
	if err := n.Remove("b"); err != nil {
		t.Fatal(err)
	}
	n.emptyEtcd()
	n.decide("--from-node")
	if left := strings.TrimSpace(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/10.81.0.0-16")); left != "" {
		t.Errorf("it has written back %s", left)
	}
	n.Run(t, "c", "data,headed")
}
