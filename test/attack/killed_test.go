package attack

import (
	"fmt"
	"testing"
)

// What is answered is in the node's copy of what etcd has, even if the daemon is killed with the answer: else the copy
// would have the pod as it was before it had its interface.
func TestAPodWhoseDaemonIsKilledWithTheAnswerIsWrittenBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "earlier", "data")
	n.Daemon.Stop()
	n.Start(t, "PATCHBAY_FAILPOINTS=mirror-write=sleep(300ms)") // as on a slow disk
	s := n.Run(t, "a", "data,headed")
	had, ports := addresses(t, s), fmt.Sprint(n.OVS.Ports(t))
	n.Daemon.Kill()
	n.emptyEtcd()
	n.Launch(t)
	n.decide("--from-node")
	if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
		t.Errorf("ports %s, there were %s", have, ports)
	}
	if have := addresses(t, s); have != had {
		t.Errorf("it has %s, and had %s", have, had)
	}
	n.Check(t, s)
	for _, pod := range []string{"earlier", "a"} {
		if err := n.Remove(pod); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}
