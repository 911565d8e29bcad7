package attack

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// All pods of a node ended while the daemon was away, as at a drain of the node, and the switch is away as well when it
// starts: it serves, and ends them all once the switch is back.
func TestAFullQueueHoldsNoStart(t *testing.T) {
	n := newNode(t)
	pods := append(n.many(128, "a", "data"), n.many(128, "b", "control")...)
	if err := errors.Join(each(pods, n.add)...); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	if err := errors.Join(each(pods, n.Runtime.Del)...); err != nil {
		t.Fatalf("DELs without a daemon: %v", err)
	}
	n.OVS.StopServer()
	begin := time.Now()
	n.Start(t)
	t.Logf("ready after %s", time.Since(begin))
	if want := fmt.Sprintf("\npatchbay_del_queue %d\n", len(pods)); !strings.Contains(n.Metrics(t), want) {
		t.Errorf("not all %d wait", len(pods))
	}
	n.OVS.StartServer(t)
	begin = time.Now()
	n.quiet()
	n.AwaitQueue(t)
	t.Logf("%d DELs were done %s after the switch was back", len(pods), time.Since(begin))
}
