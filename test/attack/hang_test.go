package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// adds starts a pod while a plugin's DEL hangs, and reports whether that is done before it ends.
func (n *node) adds(pod string) bool {
	n.t.Helper()
	s := n.pod(pod, "data")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := n.Runtime.Add(ctx, s)
	return err == nil
}

// What was given up is nobody's business any more: its hanging plugin must not hold the node's pods at
// every start of the daemon.
func TestWhatWasGivenUpDoesNotHoldTheStart(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h", "meta.delegateTimeout=60s")
	n.Run(t, "a", "good")
	n.set("faildel")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	n.set("slowdel")
	n.Launch(t)
	testnode.Eventually(t, "its DEL is tried again", func() bool { return strings.Count(n.calls(), "DEL good") == 2 })
	if !n.adds("b") {
		t.Error("no pod starts while what was given up is tried again")
	}
	n.unset("slowdel")
}

// Who looks why a pod hangs must not hold the others.
func TestDoctorBesideAHangingDELHoldsNoPod(t *testing.T) {
	n := newNode(t, "gc.interval=1h", "meta.delegateTimeout=60s")
	a := n.Run(t, "a", "good")
	n.set("slowdel")
	ended := make(chan error, 1)
	go func() { ended <- n.Runtime.Del(context.Background(), a) }()
	testnode.Eventually(t, "the DEL hangs", func() bool { return strings.Contains(n.calls(), "DEL good") })
	if _, err := n.Client.Doctor(context.Background()); err != nil {
		t.Errorf("doctor waits for the DEL: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the DEL did not hang: %v", err)
	default:
	}
	if !n.adds("b") {
		t.Error("no pod starts from doctor's call to the end of the DEL")
	}
	n.unset("slowdel")
	<-ended
}

// Open vSwitch was away for longer than the bound: once it is back, what was given up goes.
func TestOpenVSwitchBackAgainEndsWhatWasGivenUpForIt(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}")
	n.Run(t, "a", "data")
	n.OVS.StopServer()
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.OVS.StartServer(t)
	// Whether it was given up or is queued, as the switch was away until the DEL's bound: both end.
	testnode.Eventually(t, "what was given up is removed, and its address is free", func() bool {
		return len(n.leftovers()) == 0 && len(n.claims("10.12.0.0-16")) == 0
	})
}

// More pods than are looked after at once have a plugin that hangs at the start: a running pod without one gets back what
// it has lost, as ever, and so does one that loses something afterwards.
func TestManyPluginsThatHangAtTheStartHoldUpNoPodWithoutPlugins(t *testing.T) {
	n := newNode(t, "gc.interval=1h", "meta.delegateTimeout=100s", "meta.delegateLimit=4")
	running := n.Run(t, "running", "data")
	pods := make([]*sandbox.Sandbox, 80)
	var calls errgroup.Group
	calls.SetLimit(8)
	for i := range pods {
		pods[i] = n.pod(fmt.Sprintf("p%d", i), "good")
		calls.Go(func() error { return n.add(context.Background(), pods[i]) })
	}
	if err := calls.Wait(); err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	for _, s := range pods {
		calls.Go(func() error {
			if n.Runtime.Del(context.Background(), s) == nil {
				return errors.New("a DEL that its plugin refuses is no success")
			}
			return nil
		})
	}
	if err := calls.Wait(); err != nil {
		t.Fatal(err)
	}
	n.unset("faildel")
	n.Daemon.Stop()
	port := n.OVS.Ports(t)[0]
	n.OVS.Vsctl(t, "del-port", port)
	n.set("slowdel")
	before := strings.Count(n.calls(), "DEL good")
	n.Launch(t)
	testnode.Eventually(t, "the plugins hang", func() bool { return strings.Count(n.calls(), "DEL good") == before+4 })
	has := func() bool { return slices.Equal(n.OVS.Ports(t), []string{port}) }
	testnode.Eventually(t, "the running pod has its port", has)
	n.OVS.Vsctl(t, "del-port", port)
	testnode.Eventually(t, "the running pod has its port again", has)
	n.Check(t, running)
	n.unset("slowdel")
	testnode.Eventually(t, "the others have ended", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 1
	})
}
