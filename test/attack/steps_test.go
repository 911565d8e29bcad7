package attack

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// An ADD and a hot attach that fail at any step, with an error or a panic that the server survives, undo
// themselves: the runtime need not call DEL.
func TestWhatFailsAtAnyStepIsUndone(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	live := n.Run(t, "live", "vlan,control")
	for i, point := range strings.Fields("add-begin add-intent-written add-addresses-reserved ovs-link-created ovs-link-configured ovs-port-committed ovs-port-up exec-plugin-ran add-made add-recorded") {
		for _, action := range []string{"error", "panic"} {
			n.Daemon.Stop()
			n.Start(t, "PATCHBAY_FAILPOINTS="+point+"="+action)
			if _, err := n.Runtime.Add(ctx, n.pod(fmt.Sprintf("f%d%s", i, action), "data,control,headed,chain,hostlocal")); err == nil {
				t.Errorf("%s: it did not fail", point)
			}
			for _, network := range []string{"chain", "data"} {
				if !n.Alive(t) {
					break
				}
				if _, err := n.Client.Attach(ctx, "default", "live", client.Request{Network: network, Interface: "hot0"}); err == nil {
					_ = n.Client.Detach(ctx, "default", "live", "hot0") // it does not come to the point
				}
			}
			if !n.Alive(t) { // the point is in a goroutine of its own, and a panic ends the daemon
				n.Start(t)
			}
			n.AssertClean(t)
			n.Check(t, live)
			if l, err := n.Client.Sandboxes(ctx); err != nil || len(l) != 1 || len(l[0].Attachments) != 2 {
				t.Errorf("%+v %v", l, err)
			}
			if t.Failed() {
				t.Fatalf("after %s=%s", point, action)
			}
		}
	}
	if err := n.Remove("live"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
