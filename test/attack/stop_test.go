package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A watch lasts as long as its client, and must not hold up the daemon's end: until the next one is up, no
// pod of the node starts.
func TestAWatchDoesNotHoldUpTheDaemonsEnd(t *testing.T) {
	n := newNode(t, "meta.delegateTimeout=60s")
	a := n.Run(t, "a", "good")
	shown, ended := make(chan client.Event, 100), make(chan error, 1)
	go func() {
		ended <- n.Client.Watch(context.Background(), client.Filter{}, func(e client.Event) error { shown <- e; return nil })
	}()
	<-shown
	n.set("slowdel")
	deleted := make(chan error, 1)
	go func() { deleted <- n.Runtime.Del(context.Background(), a) }()
	testnode.Eventually(t, "the DEL hangs", func() bool { return strings.Contains(n.calls(), "DEL good") })
	stopped := make(chan bool)
	go func() { n.Daemon.Stop(); close(stopped) }()
	select {
	case <-ended:
		n.unset("slowdel")
		if err := <-deleted; err != nil {
			t.Errorf("the call in flight is not finished: %v", err)
		}
	case err := <-deleted:
		n.unset("slowdel")
		t.Errorf("the watch goes on until no call is in flight: %v", err)
		<-ended
	}
	<-stopped
	n.Start(t)
}

// The same without a watch: a pod's end that is under way is not cut short.
func TestTheDaemonsEndFinishesTheCallsInFlight(t *testing.T) {
	n := newNode(t, "meta.delegateTimeout=60s")
	a := n.Run(t, "a", "good")
	n.set("slowdel")
	deleted := make(chan error, 1)
	go func() { deleted <- n.Runtime.Del(context.Background(), a) }()
	testnode.Eventually(t, "the DEL hangs", func() bool { return strings.Contains(n.calls(), "DEL good") })
	stopped := make(chan bool)
	go func() { n.Daemon.Stop(); close(stopped) }()
	testnode.Eventually(t, "the daemon is ending", func() bool { _, err := n.Client.Version(context.Background()); return err != nil })
	n.unset("slowdel")
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	<-stopped
	n.Start(t)
}
