package attack

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// Somebody edits a running pod's record in etcd. The daemon wrote it over, or removed it, without a word.
func TestARecordThatIsEditedWhileThePodRunsIsNotWrittenOver(t *testing.T) {
	n := newNode(t, "gc.interval=1s")
	s := n.Run(t, "a", "data,headed")
	other := n.Run(t, "b", "data,headed")
	key := "/patchbay/v1/sandboxes/n1/" + s.ContainerID
	edited := strings.Replace(strings.TrimSpace(n.etcdctl("get", "--print-value-only", key)), `"node":"n1"`, `"node":"n1","note":"mine"`, 1)
	n.etcdctl("put", key, edited)
	stays := func(when string) {
		t.Helper()
		if have := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key)); have != edited {
			t.Errorf("%s the record is %.300s", when, have)
		}
	}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("attach: %v", err)
	}
	stays("after an attach")
	if len(n.OVS.Ports(t)) != 4 {
		t.Errorf("ports %v", n.OVS.Ports(t))
	}
	if ok, why := n.healthy("records"); ok || !strings.Contains(why, s.ContainerID) {
		t.Errorf("doctor: %s", why)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	stays("after the DEL")
	if len(n.OVS.Ports(t)) != 2 {
		t.Errorf("ports %v", n.OVS.Ports(t))
	}
	if !slices.ContainsFunc(n.claims("10.81.0.0-16"), func(c client.Claim) bool { return c.ContainerID == s.ContainerID }) {
		t.Error("an address that the record accounts for is free")
	}
	n.Check(t, other)
	n.etcdctl("del", key)
	n.Daemon.Stop()
	n.Start(t)
	n.Check(t, other)
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
