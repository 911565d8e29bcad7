package attack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// An ADD and a hot attach that fail at any step, with an error or a panic that the server survives, undo
// themselves: the runtime need not call DEL.
func TestWhatFailsAtAnyStepIsUndone(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	live := n.Run(t, "live", "vlan,control")
	for i, point := range strings.Fields("add-begin add-intent-written add-addresses-reserved ovs-link-created ovs-link-configured ovs-port-committed ovs-port-up exec-plugin-ran add-made add-recorded") {
		for _, action := range []string{"error", "panic"} {
			n.Daemon.Stop()
			n.Start(t, "PATCHBAY_FAILPOINTS="+point+"="+action)
			if _, err := n.Runtime.Add(ctx, n.pod(fmt.Sprintf("f%d%s", i, action), "data,control,headed,chain,hostlocal")); err == nil {
				t.Errorf("%s: it did not fail", point)
			}
			for _, network := range []string{"chain", "data"} {
				if !n.Alive(t) {
					break
				}
				if _, err := n.Client.Attach(ctx, "default", "live", client.Request{Network: network, Interface: "hot0"}); err == nil {
					_ = n.Client.Detach(ctx, "default", "live", "hot0") // it does not come to the point
				}
			}
			if !n.Alive(t) { // the point is in a goroutine of its own, and a panic ends the daemon
				n.Start(t)
			}
			n.AssertClean(t)
			n.Check(t, live)
			if l, err := n.Client.Sandboxes(ctx); err != nil || len(l) != 1 || len(l[0].Attachments) != 2 {
				t.Errorf("%+v %v", l, err)
			}
			if t.Failed() {
				t.Fatalf("after %s=%s", point, action)
			}
		}
	}
	if err := n.Remove("live"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// A panic behind the commit of a detach once left the attachment in memory: it was mended, with an address that
// was free for others.
func TestWhatIsDetachedStaysDetachedAfterAPanicBehindTheCommit(t *testing.T) {
	n := newNode(t)
	live := n.Run(t, "live", "control")
	armed := filepath.Join(n.Dir, "armed")
	n.Daemon.Stop()
	n.Start(t, "PATCHBAY_FAILPOINTS_FILE="+armed)
	for _, point := range []string{"etcd-commit", "etcd-committed", "store-save"} {
		attached, err := n.Client.Attach(context.Background(), "default", "live", client.Request{Network: "data", Interface: "hot0"})
		if err != nil {
			t.Fatal(err)
		}
		arm(t, armed, point+"=panic@1")
		if err := n.Client.Detach(context.Background(), "default", "live", "hot0"); err == nil {
			t.Errorf("%s: it did not fail", point)
		}
		arm(t, armed, "")
		testnode.Eventually(t, attached.Interface+" is gone from the record", func() bool {
			l, err := n.Client.List(context.Background(), client.Filter{})
			return err == nil && len(l) == 1
		})
		n.Check(t, live)
		n.AssertClean(t)
	}
}

// A panic while addresses were chosen once kept them, and the pool's lock, until the daemon's end.
func TestAPanicWhileAddressesAreChosenKeepsNone(t *testing.T) {
	n := newNode(t)
	armed := filepath.Join(n.Dir, "armed")
	n.Daemon.Stop()
	n.Start(t, "PATCHBAY_FAILPOINTS_FILE="+armed)
	for _, point := range strings.Fields("pool-define pool-defined subnet-claim subnets-claimed ipam-reserve add-address add-addresses-reserved") {
		arm(t, armed, point+"=panic@1")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
		if _, err := n.Runtime.Add(ctx, n.pod(point, "tiny")); err == nil || ctx.Err() != nil {
			t.Fatalf("%s: it did not fail, or not in time: %v", point, err)
		}
		cancel()
	}
	arm(t, armed, "")
	n.Run(t, "a", "tiny") // the pool has two addresses
	n.Run(t, "b", "tiny")
	n.AssertClean(t)
}

// arm makes points of a daemon do what the text says, from now on.
func arm(t *testing.T, file, text string) {
	t.Helper()
	err := os.WriteFile(file+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		t.Fatal(err)
	}
}
