package crash

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// An operation begins and ends with an empty node. Prepare goes undisturbed; do is what a point is armed for, and
// may fail; end plays what a runtime does after that, and checks what must be there.
type operation struct {
	name     string
	prepare  func(c *crash)
	do       func(c *crash)
	end      func(c *crash)
	switched bool // it changes Open vSwitch by itself, which must be well then
}

var operations = []operation{
	{"ADD", newPod("data,macvlan,chained"), (*crash).add, (*crash).del, false},
	{"ADD and no DEL", newPod("data,bridge"), (*crash).add, func(c *crash) {
		_ = netns.DeleteNamed(filepath.Base(c.s.Netns))
	}, false},
	{"ADD that fails", newPod("data,control,fails"), func(c *crash) {
		if c.add(); c.addErr == nil {
			c.t.Error("it did not fail")
		}
	}, func(*crash) {}, false},
	{"ADD again", addPod("control,hostlocal"), (*crash).add, (*crash).del, false},
	{"DEL", addPod("data,control,bridge"), (*crash).tryDel, (*crash).del, false},
	{"DEL of the unknown", newPod("data"), (*crash).tryDel, (*crash).del, false},
	{"CHECK", addPod("data,macvlan"), func(c *crash) { _ = c.Runtime.Check(context.Background(), c.s) }, func(c *crash) {
		c.Check(c.t, c.s)
		c.del()
	}, false},
	{"STATUS", func(*crash) {}, (*crash).status, func(*crash) {}, false},
	{"GC", addPod("data,bridge,told"), func(c *crash) {
		_ = c.Runtime.GC(context.Background(), c.s) // its plugins are told
		_ = c.Runtime.GC(context.Background())
	}, func(c *crash) {
		if err := c.Runtime.GC(context.Background()); err != nil {
			c.t.Errorf("GC: %v", err)
		}
	}, false},
	{"a namespace that goes", addPod("data,control"), func(c *crash) {
		_ = netns.DeleteNamed(filepath.Base(c.s.Netns))
		c.await(func() bool { return len(c.sandboxes()) == 0 })
	}, func(*crash) {}, false},
	{"attach", addPod("control"), func(c *crash) {
		_, _ = c.Client.Attach(context.Background(), "default", c.s.Pod, client.Request{Network: "data", Interface: "hot0", DefaultRoute: &[]netip.Addr{}})
	}, (*crash).whole, false},
	{"attach that fails", addPod("control"), func(c *crash) {
		_, _ = c.Client.Attach(context.Background(), "default", c.s.Pod, client.Request{Network: "fails", Interface: "hot0"})
	}, (*crash).whole, false},
	{"detach", func(c *crash) {
		addPod("control")(c)
		for _, network := range []string{"data", "bridge"} {
			if _, err := c.Client.Attach(context.Background(), "default", c.s.Pod, client.Request{Network: network, Interface: "hot-" + network}); err != nil {
				c.t.Fatal(err)
			}
		}
	}, (*crash).detach, (*crash).whole, false},
	{"a port that is removed", addPod("data"), func(c *crash) {
		c.OVS.Vsctl(c.t, "--no-wait", "del-port", c.OVS.Ports(c.t)[0])
		c.await(func() bool { return c.Runtime.Check(context.Background(), c.s) == nil })
	}, (*crash).whole, true},
	{"boot", addPod("data,macvlan"), func(c *crash) {
		c.Daemon.Kill()
		gone := c.pod("gone", "data") // a DEL that waits, of a sandbox that is not known
		if err := c.Runtime.Del(context.Background(), gone); err != nil {
			c.t.Errorf("DEL while the daemon is away: %v", err)
		}
		c.OVS.Vsctl(c.t, "--no-wait", "--", "del-port", c.OVS.Ports(c.t)[0])
		c.OVS.Vsctl(c.t, "--no-wait", "--", "del-br", "br-control")
		c.Launch(c.t, c.env...)
		c.await(func() bool { return c.Runtime.Check(context.Background(), c.s) == nil })
	}, (*crash).whole, true},
	{"DEL while it starts", addPod("data"), func(c *crash) {
		c.Daemon.Kill()
		c.toEtcd.Hang()
		defer c.toEtcd.Pass()
		c.Launch(c.t, c.env...)
		c.await(func() bool {
			return exec.Command("curl", "-sS", "--unix-socket", c.CNI, "http://patchbay/").Run() == nil
		})
		c.tryDel()
	}, (*crash).del, true},
	{"DEL of a leftover", func(c *crash) {
		newPod("data")(c)
		name := ovs.HostName(c.s.ContainerID, "net1")
		c.OVS.Vsctl(c.t, "--no-wait", "add-port", "br-data", name, "--", "set", "port", name,
			"external_ids:patchbay-sandbox="+c.s.ContainerID, "external_ids:patchbay-if=net1")
	}, (*crash).tryDel, (*crash).del, true},
	{"ADD in a pool that is not there", func(c *crash) {
		if err := c.Client.RemovePool(context.Background(), "10.12.0.0-16"); err != nil && !strings.Contains(err.Error(), "there is no pool") { // an operation before has removed it
			c.t.Fatal(err)
		}
		newPod("data")(c)
	}, (*crash).add, (*crash).del, false},
	{"rules that are removed", addPod("data"), func(c *crash) {
		testnode.Sh(c.t, "nft", "delete", "table", "inet", "patchbay")
		c.await(shielded)
	}, func(c *crash) {
		testnode.Eventually(c.t, "the rules are there again", shielded)
		c.whole()
	}, false},
	{"reload", func(*crash) {}, func(c *crash) {
		c.Daemon.Signal(syscall.SIGHUP)
		c.await(func() bool { return strings.Contains(c.LogTail(), "configuration read again") })
	}, func(*crash) {}, false},
	{"a pool that is removed", func(*crash) {}, func(c *crash) { _ = c.Client.RemovePool(context.Background(), "10.12.0.0-16") }, func(*crash) {}, false},
	{"end", addPod("data"), func(c *crash) {
		c.Daemon.Stop()
		c.Launch(c.t, c.env...)
		c.await(func() bool { _, err := c.Client.Version(context.Background()); return err == nil })
	}, (*crash).whole, false},
}

// shielded reports whether the rules of nftables are there.
func shielded() bool {
	return exec.Command("nft", "list", "table", "inet", "patchbay").Run() == nil
}

// newPod makes a pod's namespace.
func newPod(networks string) func(*crash) {
	return func(c *crash) { c.s = c.pod("pod", networks) }
}

// addPod makes a pod, undisturbed.
func addPod(networks string) func(*crash) {
	return func(c *crash) {
		c.t.Helper()
		newPod(networks)(c)
		if c.add(); c.addErr != nil {
			c.t.Fatal(c.addErr)
		}
	}
}

// pod makes a namespace with a pod that no runtime remembers.
func (c *crash) pod(name, networks string) *sandbox.Sandbox {
	c.t.Helper()
	c.serial++
	id := fmt.Sprintf("%s%d", name, c.serial)
	c.namespaces = append(c.namespaces, id)
	return &sandbox.Sandbox{ContainerID: id, Netns: testnode.Netns(c.t, id), Namespace: "default", Pod: id,
		Annotations: map[string]string{meta.NetworksAnnotation: networks}}
}

// removeNamespaces is what a runtime does after DEL, and what is not there is removed.
func (c *crash) removeNamespaces() {
	for _, name := range c.namespaces {
		_ = netns.DeleteNamed(name)
	}
	c.namespaces = nil
}

func (c *crash) add() { _, c.addErr = c.Runtime.Add(context.Background(), c.s) }

func (c *crash) detach() {
	for _, network := range []string{"data", "bridge"} {
		_ = c.Client.Detach(context.Background(), "default", c.s.Pod, "hot-"+network) // one that is gone is not found
	}
}

// tryDel is a DEL. One that is not answered is queued: a success.
func (c *crash) tryDel() {
	if err := c.Runtime.Del(context.Background(), c.s); err != nil && c.action == "kill" {
		c.t.Errorf("DEL: %v", err)
	}
}

// del repeats the DEL as the runtime does, undisturbed.
func (c *crash) del() {
	c.t.Helper()
	for range 3 {
		if err := c.Runtime.Del(context.Background(), c.s); err != nil {
			c.t.Errorf("DEL: %v", err)
		}
	}
}

// whole waits until what is recorded is there, as GC mends what failed to be mended, and ends the pod.
func (c *crash) whole() {
	c.t.Helper()
	testnode.Eventually(c.t, "what is recorded is there", func() bool { return c.Runtime.Check(context.Background(), c.s) == nil })
	c.AssertClean(c.t)
	c.del()
}

func (c *crash) status() {
	cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay"))
	cmd.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + testnode.Bin()}
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "socket": "` + c.CNI + `"}`)
	_ = cmd.Run() // it may be answered with code 50
}

func (c *crash) sandboxes() []client.Sandbox {
	l, err := c.Client.Sandboxes(context.Background())
	if err != nil {
		return []client.Sandbox{{}} // not known
	}
	return l
}
