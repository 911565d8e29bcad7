// Package crash kills patchbayd at every step of what it does.
package crash

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

// TestKilledAtEveryStep kills the daemon with SIGKILL at every failpoint of ADD, failed ADD, DEL,
// attach and detach, starts it again, and looks for anything without an owner. The runtime's part is
// played as containerd does: a failed ADD is followed by a DEL, or by nothing at all.
func TestKilledAtEveryStep(t *testing.T) {
	n := testnode.Standard(t)
	out, err := exec.Command(filepath.Join(testnode.Bin(), "patchbayd"), "--list-failpoints").Output()
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(out))
	if len(points) < 15 {
		t.Fatalf("failpoints: %v", points)
	}
	hit := map[string]bool{}
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			c := &crash{Node: n, t: t, point: point, hit: hit}
			for op, do := range operations {
				c.arm()
				do(c, fmt.Sprintf("%s%d", op, i))
				c.revive()
				n.AssertEmpty(t)
			}
		})
	}
	for _, p := range points {
		if !hit[p] {
			t.Errorf("no operation came to failpoint %s", p)
		}
	}
}

// operations each begin and end with an empty node.
var operations = map[string]func(c *crash, id string){
	"add": func(c *crash, id string) {
		s := c.pod(id, "data,macvlan")
		_, _ = c.Runtime.Add(context.Background(), s) // failed, if it came to the point
		c.revive()
		c.del(s)
	},
	// The runtime goes away with its failed ADD and never calls DEL.
	"failed-add": func(c *crash, id string) {
		s := c.pod(id, "data,control,fails")
		if _, err := c.Runtime.Add(context.Background(), s); err == nil {
			c.t.Error("it did not fail")
		}
	},
	"del": func(c *crash, id string) {
		s := c.pod(id, "data,control")
		_, err := c.Runtime.Add(context.Background(), s)
		c.revive()
		if err != nil { // the point was in ADD
			c.del(s)
			return
		}
		c.arm()
		c.del(s)
	},
	"attach": func(c *crash, id string) {
		s := c.pod(id, "control")
		_, err := c.Runtime.Add(context.Background(), s)
		c.revive()
		if err != nil {
			c.del(s)
			return
		}
		c.armed = false // start once more: recovery has something to do
		for _, step := range []func(){
			func() {
				_, _ = c.Client.Attach(context.Background(), "default", id, client.Request{Network: "data", Interface: "hot0"})
			},
			func() { _ = c.Client.Detach(context.Background(), "default", id, "hot0") },
		} {
			c.arm()
			step()
			c.revive()
			c.AssertClean(c.t)
			c.Check(c.t, s) // what is recorded is there, whole
		}
		c.revive()
		c.del(s)
	},
}

// A crash is a node whose daemon kills itself at a point, once it is armed.
type crash struct {
	*testnode.Node
	t     *testing.T
	point string
	hit   map[string]bool
	armed bool
}

func (c *crash) arm() {
	c.t.Helper()
	if c.armed {
		return
	}
	c.Daemon.Kill()
	c.Launch(c.t, "PATCHBAY_FAILPOINTS="+c.point+"=kill")
	c.armed = true
	c.revive()
}

// revive starts a daemon that has killed itself again, with no point armed.
func (c *crash) revive() {
	c.t.Helper()
	if c.Alive(c.t) {
		return
	}
	c.hit[c.point] = true
	c.armed = false
	c.Start(c.t)
}

// pod makes a namespace with a pod that no runtime remembers.
func (c *crash) pod(id, networks string) *sandbox.Sandbox {
	c.t.Helper()
	return &sandbox.Sandbox{ContainerID: id, Netns: testnode.Netns(c.t, id), Namespace: "default", Pod: id,
		Annotations: map[string]string{meta.NetworksAnnotation: networks}}
}

func (c *crash) del(s *sandbox.Sandbox) {
	c.t.Helper()
	if err := c.Runtime.Del(context.Background(), s); err != nil {
		c.t.Errorf("DEL: %v", err) // one that is not answered is queued: a success
	}
	c.revive()
}
