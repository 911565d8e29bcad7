package crash

import (
	"context"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// clusterOperations are those that write to the API server.
var clusterOperations = []operation{
	{"network-status", func(c *crash) {
		c.addKnownPod("control")
		testnode.Eventually(c.t, "the status is written", func() bool { return strings.Contains(c.api.Status(c.s.Pod), "net1") })
	}, func(c *crash) {
		_, _ = c.Client.Attach(context.Background(), "default", c.s.Pod, client.Request{Network: "data", Interface: "hot0"})
		c.await(func() bool { return strings.Contains(c.api.Status(c.s.Pod), "hot0") })
	}, func(c *crash) {
		testnode.Eventually(c.t, "the status is true", func() bool { // the daemon may have ended before it attached
			l, err := c.Client.List(context.Background(), client.Filter{})
			has := slices.ContainsFunc(l, func(a client.Attachment) bool { return a.Interface == "hot0" })
			return err == nil && has == strings.Contains(c.api.Status(c.s.Pod), "hot0")
		})
		c.whole()
	}, false},
	{"Event", func(c *crash) { c.newKnownPod("control,fails") }, func(c *crash) {
		if c.add(); c.addErr == nil {
			c.t.Error("it did not fail")
		}
		c.await(func() bool { return c.api.Told(c.s.Pod)["FailedAttach"] != "" })
	}, func(*crash) {}, false}, // one that gets lost with the daemon is not told again
	{"IPAMClaim", func(c *crash) {
		c.api.Put(testnode.ClaimsAt, testnode.Object{"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim",
			"metadata": map[string]any{"namespace": "default", "name": "keep"}, "spec": map[string]any{"network": "data", "interface": "net1"}}, "")
		c.newKnownPod(`[{"name": "data", "ipam-claim-reference": "keep"}]`)
	}, (*crash).add, func(c *crash) {
		c.del()
		c.add() // the runtime tries again, undisturbed, and brings the pool into use
		if c.addErr != nil {
			c.t.Error(c.addErr)
		}
		c.Check(c.t, c.s)
		c.del()
		c.api.Delete(testnode.ClaimsAt, "keep")
		testnode.Eventually(c.t, "its address is free", func() bool {
			pools, err := c.Client.Pools(context.Background())
			return err == nil && !slices.ContainsFunc(pools, func(p client.Pool) bool { return len(p.Claims) > 0 })
		})
	}, false},
}

// newKnownPod makes the namespace of a pod that the API server has.
func (c *crash) newKnownPod(networks string) {
	newPod(networks)(c)
	c.s.UID = "uid-" + c.s.Pod
	c.api.Pod(c.s.Pod, c.s.UID)
}

// addKnownPod makes such a pod, undisturbed.
func (c *crash) addKnownPod(networks string) {
	c.t.Helper()
	c.newKnownPod(networks)
	if c.add(); c.addErr != nil {
		c.t.Fatal(c.addErr)
	}
}
