package attack

import (
	"context"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// What a watcher was shown when it came must be told to go when it goes.
func TestAWatcherIsToldTheEndOfWhatItWasShown(t *testing.T) {
	n := newNode(t)
	n.Daemon.Stop()
	n.Start(t, "PATCHBAY_FAILPOINTS=add-made=kill")
	if _, err := n.Runtime.Add(context.Background(), n.pod("a", "data")); err == nil {
		t.Fatal("the daemon lives")
	}
	<-n.Daemon.Done()
	n.OVS.StopServer()
	n.Start(t) // it serves without Open vSwitch, and what the ADD has left is there until it is back
	l, err := n.Client.List(context.Background(), client.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", l)
	shown, gone := make(chan client.Event, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		gone <- n.Client.Watch(ctx, client.Filter{}, func(e client.Event) error { shown <- e; return nil })
	}()
	have := map[string]bool{}
	for range l {
		e := <-shown
		have[e.Attachment.Pod+"/"+e.Attachment.Interface] = true
	}
	n.OVS.StartServer(t)
	testnode.Eventually(t, "what the ADD has left is gone", func() bool {
		l, err := n.Client.List(context.Background(), client.Filter{})
		return err == nil && len(l) == 0
	})
	n.Run(t, "last", "data")
	for e := range shown {
		if e.Attachment.Pod == "last" {
			break
		}
		if e.Type == "DELETED" {
			delete(have, e.Attachment.Pod+"/"+e.Attachment.Interface)
		} else {
			have[e.Attachment.Pod+"/"+e.Attachment.Interface] = true
		}
	}
	if len(have) > 0 {
		t.Errorf("a watcher still takes for there: %v", have)
	}
	cancel()
	<-gone
}
