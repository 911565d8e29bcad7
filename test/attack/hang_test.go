package attack

import (
	"context"
	"strings"
	"testing"
	"time"

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
