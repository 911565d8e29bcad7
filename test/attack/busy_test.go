package attack

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// meanwhile fails if what hangs has ended before something else was done.
func (n *node) meanwhile(what string, hangs func() bool, do func()) {
	n.t.Helper()
	do()
	if !hangs() {
		n.t.Errorf("%s is done only after what hangs", what)
	}
}

// starts fails if a pod can't be added within half a minute.
func (n *node) starts(pod, networks string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := n.Runtime.Add(ctx, n.pod(pod, networks)); err != nil {
		n.t.Errorf("pod %s: %v", pod, err)
	}
}

// A plugin hangs in the runtime's GC: it holds up its own network, which must not be changed meanwhile.
func TestAPluginThatHangsInGCHoldsUpItsOwnNetworkOnly(t *testing.T) {
	n := newNode(t, "gc.interval=1h", "meta.delegateTimeout=60s")
	n.nad("slow", `{"cniVersion": "1.1.0", "name": "slow", "type": "good"}`)
	n.nad("other", `{"cniVersion": "1.1.0", "name": "other", "type": "good"}`)
	a := n.Run(t, "a", "slow,data")
	n.set("slowgc")
	collected := make(chan error, 1)
	go func() { collected <- n.Runtime.GC(context.Background(), a) }()
	testnode.Eventually(t, "the plugin's GC hangs", func() bool { return strings.Contains(n.calls(), "GC good") })
	hangs := func() bool { return len(collected) == 0 }
	n.meanwhile("an ADD of other networks", hangs, func() { n.starts("b", "data,other") })
	n.meanwhile("a CHECK", hangs, func() { n.Check(t, a) })
	added := make(chan error, 1)
	c := n.pod("c", "slow")
	go func() {
		_, err := n.Runtime.Add(context.Background(), c)
		added <- err
	}()
	n.meanwhile("a hot attach", hangs, func() {
		if out, err := n.patchctl("attach", "pod/a", "--network", "other", "--interface", "net7"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	select {
	case err := <-added:
		t.Errorf("a plugin's ADD and GC of one network run at once: %v", err)
	default:
	}
	n.unset("slowgc")
	for what, done := range map[string]chan error{"GC": collected, "the ADD of the network": added} {
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A plugin hangs while the daemon recovers a pod, and then while GC tries it again.
func TestAPluginThatHangsInADELHoldsUpNeitherTheStartNorGC(t *testing.T) {
	n := newNode(t, "meta.delegateTimeout=60s")
	n.nad("other", `{"cniVersion": "1.1.0", "name": "other", "type": "good"}`)
	a, b := n.Run(t, "a", "good"), n.Run(t, "b", "data,other")
	n.Run(t, "lost", "data")
	n.set("faildel")
	if err := n.Remove("a"); err == nil {
		t.Fatal("the DEL does not fail")
	}
	n.Daemon.Stop()
	n.unset("faildel")
	n.set("slowdel")
	before := strings.Count(n.calls(), "DEL good")
	n.Launch(t)
	testnode.Eventually(t, "the DEL hangs in the recovery", func() bool { return strings.Count(n.calls(), "DEL good") > before })
	hangs := func() bool { return strings.Count(n.calls(), "DEL good") == before+1 } // else it was given up, and is tried again
	n.meanwhile("the start", hangs, func() { n.starts("c", "data") })
	n.meanwhile("the end of a pod", hangs, func() {
		n.Check(t, b)
		if err := n.Remove("lost"); err != nil {
			t.Error(err)
		}
	})
	n.meanwhile("a repair", hangs, func() {
		port := n.OVS.Ports(t)[0]
		n.OVS.Vsctl(t, "del-port", port)
		testnode.Eventually(t, "the port is made again", func() bool { return slices.Contains(n.OVS.Ports(t), port) })
	})
	n.meanwhile("the collection of a pod that is gone", hangs, func() {
		n.Run(t, "vanished", "data")
		n.Vanish(t, "vanished")
	})
	n.meanwhile("the runtime's GC", hangs, func() {
		_ = n.Runtime.GC(context.Background(), a, b) // it says that a network is busy
		if !strings.Contains(n.calls(), "GC good") {
			t.Error("the plugins of the other network are not told")
		}
	})
	n.unset("slowdel")
	if err := n.Runtime.Del(context.Background(), a); err != nil {
		t.Error(err)
	}
}

// So many detaches hang that no more are let in: the others are answered at once, and pods come and go.
func TestChangesOverRESTAreBounded(t *testing.T) {
	const limit, calls = 64, 80
	n := newNode(t, "gc.interval=1h", "meta.delegateTimeout=60s")
	n.Run(t, "a", "data,good")
	n.set("slowdel")
	answers := make(chan error, calls)
	for range calls {
		go func() { answers <- n.Client.Detach(context.Background(), "default", "a", "net2") }()
	}
	for range calls - limit {
		if err := <-answers; err == nil || !strings.Contains(err.Error(), "in flight already") {
			t.Errorf("a call over the limit is answered: %v", err)
		}
	}
	n.meanwhile("an ADD", func() bool { return len(answers) == 0 }, func() { n.starts("b", "data") })
	n.unset("slowdel")
	done := 0
	for range limit {
		if err := <-answers; err == nil {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d detaches of one interface are done", done)
	}
}
