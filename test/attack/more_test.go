package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The usual case: GC finishes the DEL of the pod that had the name before.
func TestAWatchDoesNotTakeGCsWorkForTheNewPodsInterface(t *testing.T) {
	n := newNode(t)
	old := n.Run(t, "a", "good")
	n.set("faildel")
	if err := n.Runtime.Del(context.Background(), old); err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	// As kubelet does when a sandbox has died: the next one of the pod does not wait for the DEL.
	next := n.pod("next", "data")
	next.Pod = "a"
	if _, err := n.Runtime.Add(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Client.Watch(ctx, client.Filter{}, func(e client.Event) error {
			events <- e.Type + " " + e.Attachment.Pod + " " + e.Attachment.Interface + " " + e.Attachment.Phase
			return nil
		})
	}()
	if e := <-events; e != "ADDED a net1 Ready" { // what there is: the old one's interface is not the pod's any more
		t.Errorf("the list begins with %s", e)
	}
	n.unset("faildel")
	testnode.Eventually(t, "GC has finished the DEL", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 1
	})
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control"}); err != nil {
		t.Error(err)
	}
	if e := <-events; e != "ADDED a net2 Ready" {
		t.Errorf("the end of an interface that lives is told: %s", e)
	}
	cancel()
	<-done
	if err := n.Runtime.Del(context.Background(), next); err != nil {
		t.Error(err)
	}
}

// A DEL that was queued, failed when the queue was worked off, and was then done by GC.
func TestAQueuedDELThatGCHasFinishedDoesNotWait(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "good")
	n.Daemon.Kill()
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	n.Start(t)
	n.unset("faildel")
	testnode.Eventually(t, "GC has finished the DEL", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 0
	})
	testnode.Eventually(t, "doctor finds the queue empty", func() bool { ok, _ := n.healthy("del-queue"); return ok })
}

// The plugin made no interface; the one of that name is another agent's.
func TestDetachForceTakesOutOnlyWhatThePluginMade(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	a := n.Run(t, "a", "data")
	testnode.Exec(t, a, "ip", "link", "add", "ext0", "type", "veth", "peer", "name", "ext1")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "mute", Interface: "ext0"}); err != nil {
		return // refused: well
	}
	n.set("faildel")
	defer n.unset("faildel")
	if out, err := n.patchctl("detach", "pod/a", "--interface", "ext0", "--force"); err != nil {
		t.Log(out, err)
	}
	if out := testnode.Exec(t, a, "ip", "-br", "link"); !strings.Contains(out, "ext0") {
		t.Errorf("another's interface was deleted:\n%s", out)
	}
}

// One claim that can't be read, of whatever pool and node, must not keep people from all leftovers.
func TestADamagedClaimDoesNotKeepPeopleFromLeftovers(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	a := n.Run(t, "a", "good")
	n.set("faildel")
	defer n.unset("faildel")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.etcdctl("put", "/patchbay/v1/ipam/elsewhere/ips/10.99.0.2", `{"node":"n2","conta`)
	if out, err := n.patchctl("leftovers", "rm", "attachment/"+a.ContainerID+"/net1"); err != nil {
		t.Errorf("leftovers rm: %s", out)
	}
	if out, err := n.patchctl("leftovers"); err != nil {
		t.Errorf("leftovers: %s", out)
	}
}
