package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// queueDel puts a pod's DEL into the queue, as the plugin does while the daemon does not answer.
func (n *node) queueDel(s *sandbox.Sandbox) {
	n.t.Helper()
	config, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay"})
	if err != nil {
		n.t.Fatal(err)
	}
	err = delqueue.Put(n.Dir+"/state/del-queue", delqueue.Call{Plugin: "patchbay", Request: cniwire.Request{Command: "DEL",
		ContainerID: s.ContainerID, Netns: s.Netns, IfName: "eth0", Path: testnode.Bin(), Config: config}})
	if err != nil {
		n.t.Fatal(err)
	}
}

// A DEL that waits in the queue is done by the sandbox's next ADD. The queue, when it comes to it, must not do it
// again: it would unmake what that ADD has made.
func TestAQueuedDELThatAnAddHasDoneIsNotDoneAgain(t *testing.T) {
	const drainers = 16 // of the queue
	n := newNode(t, "meta.delegateTimeout=60s", "meta.delegateLimit=32", "gc.interval=1h")
	var hanging []*sandbox.Sandbox
	for i := range drainers {
		hanging = append(hanging, n.Run(t, fmt.Sprintf("hanging%d", i), "good"))
	}
	web := n.Run(t, "web", "data")
	n.set("slowdel")
	defer n.unset("slowdel")
	for _, s := range hanging {
		n.queueDel(s)
	}
	testnode.Eventually(t, "the queue is busy", func() bool { return strings.Count(n.calls(), "DEL good") == drainers })
	n.queueDel(web)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := n.Runtime.Add(ctx, web); err != nil {
		t.Fatal(err)
	}
	n.unset("slowdel")
	n.AwaitQueue(t)
	testnode.Eventually(t, "no call is under way", func() bool {
		l, err := n.Client.Sandboxes(ctx)
		return err == nil && len(l) <= 1
	})
	n.Check(t, web)
}
