package attack

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// The pod's end can't be configured while the port's transaction is on its way to Open vSwitch: the port is
// not left behind.
func TestAnADDThatFailsInThePodLeavesNoPort(t *testing.T) {
	n := newNode(t)
	n.nad("astray", `{"cniVersion": "1.1.0", "name": "astray", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.97.0.0/16", "subnetLen": 24, "cooldown": "0s", "routes": [{"dst": "10.99.0.0/16", "gw": "192.0.2.1"}]}}`)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 10 {
				s := n.pod(fmt.Sprintf("c%dx%d", i, k), "astray")
				if _, err := n.Runtime.Add(ctx, s); err == nil {
					t.Error("a route was added whose gateway is nowhere")
				}
			}
		})
	}
	wg.Wait()
	n.AssertEmpty(t)
}
