package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func (n *node) mustAdd(s *sandbox.Sandbox) {
	n.t.Helper()
	if _, err := n.Runtime.Add(context.Background(), s); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) mustDel(s *sandbox.Sandbox) {
	n.t.Helper()
	if err := n.Runtime.Del(context.Background(), s); err != nil {
		n.t.Error(err)
	}
}

// attachTo attaches an interface to a pod by name, and fails unless it comes to be in that sandbox.
func (n *node) attachTo(pod, ifName string, want *sandbox.Sandbox) {
	n.t.Helper()
	if out, err := n.patchctl("attach", "pod/"+pod, "--network", "data", "--interface", ifName); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	if links := testnode.Exec(n.t, want, "ip", "-o", "link"); !strings.Contains(links, ifName) {
		n.t.Errorf("%s is not in sandbox %s: %s", ifName, want.ContainerID, links)
	}
}

// A pod was made again, and its old sandbox is still there: what is asked for by the pod's name is for the new
// one, before and after a restart, and the old one's late DEL takes nothing from it.
func TestAPodsNameMeansItsYoungestSandbox(t *testing.T) {
	n := newNode(t)
	old, young := n.pod("a-young", "data"), n.pod("z-old", "data")
	old, young = young, old // by container ID, the old one comes last
	old.Pod, young.Pod = "web", "web"
	n.mustAdd(old)
	n.mustAdd(young)
	n.attachTo("web", "net7", young)
	port := n.OVS.Vsctl(t, "--bare", "--columns=name", "find", "port", "external_ids:patchbay-sandbox="+old.ContainerID)
	n.OVS.Vsctl(t, "del-port", strings.Fields(port)[0]) // so that the old record is written again
	testnode.Eventually(t, "the old sandbox is mended", func() bool { return strings.Contains(n.Metrics(t), `patchbay_repaired_total{kind="interface"} 1`) })
	n.attachTo("web", "net8", young)
	n.Daemon.Stop()
	n.Start(t)
	n.attachTo("web", "net9", young)
	n.mustDel(old)
	n.attachTo("web", "net10", young)
	l, err := n.Client.List(context.Background(), client.Filter{})
	if err != nil || len(l) != 5 {
		t.Errorf("%d interfaces are listed, want the 5 of the new sandbox: %v", len(l), err)
	}
	n.Check(t, young)
	n.mustDel(young)
	n.AssertEmpty(t)
}

// A runtime that has forgotten a sandbox uses its namespace for the next one: the record of the first is over, and
// its DEL, if it ever comes, takes nothing from the second.
func TestANamespaceThatWasAnothersIsTheNewSandboxs(t *testing.T) {
	n := newNode(t)
	first, second := n.pod("first", "data,control"), n.pod("second", "data,control")
	second.Netns = first.Netns
	n.mustAdd(first)
	n.mustAdd(second)
	n.mustDel(first)
	n.Check(t, second)
	if have := len(n.OVS.Ports(t)); have != 2 {
		t.Errorf("%d ports, want the 2 of the second sandbox", have)
	}
	n.mustDel(second)
	n.AssertEmpty(t)
}

// The path of a sandbox's namespace leads to another namespace by the time of its next ADD.
func TestANamespaceThatWasMadeAgainIsAnotherOne(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	s := n.pod("again", "data,control")
	n.mustAdd(s)
	testnode.Sh(t, "ip", "netns", "del", "again")
	testnode.Sh(t, "ip", "netns", "add", "again")
	n.mustAdd(s)
	n.Check(t, s)
	if have := len(n.OVS.Ports(t)); have != 2 {
		t.Errorf("%d ports, want the 2 of the new namespace", have)
	}
	n.mustDel(s)
	n.AssertEmpty(t)
}

// A runtime's GC names sandboxes: that a pod's new one is valid says nothing of its old one.
func TestGCKnowsSandboxesNotPods(t *testing.T) {
	n := newNode(t)
	old, young := n.pod("p", "data"), n.pod("p-again", "data")
	young.Pod = "p"
	n.mustAdd(old)
	n.mustAdd(young)
	if err := n.Runtime.GC(context.Background(), young); err != nil {
		t.Fatal(err)
	}
	if l, err := n.Client.Sandboxes(context.Background()); err != nil || len(l) != 1 || l[0].ContainerID != young.ContainerID {
		t.Errorf("%+v, %v", l, err)
	}
	n.Check(t, young)
	n.mustDel(young)
	n.AssertEmpty(t)
}
