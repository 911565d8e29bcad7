package ovs

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

// running returns a delegate that is connected to an Open vSwitch of its own.
func running(t *testing.T) (*Delegate, *testnode.OVS) {
	t.Helper()
	o := testnode.StartOVS(t)
	log := slog.New(slog.DiscardHandler)
	d := New(vswitch.New(o.DB, log), Options{}, log)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return d, o
}

// The names of leftovers are those of all native delegates together, so that another one's link, and a
// port of that name which bears our mark, are none of ours to remove.
func TestOnlyLeftoversWithNamesOfOursAreRemoved(t *testing.T) {
	d, o := running(t)
	our, other := HostName("c1", "net1"), "sriov0"
	o.Vsctl(t, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
	for _, name := range []string{our, other} {
		testnode.Sh(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
		o.Vsctl(t, "add-port", "br0", name, "--", "set", "port", name, "external_ids:patchbay-sandbox=c1")
	}
	t.Cleanup(func() { testnode.Sh(t, "ip", "link", "del", other) })
	if err := d.RemoveLeftovers(context.Background(), []string{other, our}); err != nil {
		t.Fatal(err)
	}
	if ports := o.Ports(t); !slices.Equal(ports, []string{other}) {
		t.Errorf("ports %v are left", ports)
	}
	for name, want := range map[string]bool{our: false, other: true} {
		if l, err := link.Find(name); err != nil || (l != nil) != want {
			t.Errorf("link %s: %v, %v", name, l, err)
		}
	}
}
