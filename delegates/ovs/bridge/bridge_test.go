package bridge

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

func text(s string) *string { return &s }

func TestDifferenceOfDeclaredAndFound(t *testing.T) {
	there := vswitch.Bridge{UUID: "b", Name: "br0", Ports: []string{"p-local", "p-up0"}, Protocols: []string{"OpenFlow13"},
		FailMode: text("secure"), Controller: []string{"c1", "c2"}}
	controllers := []vswitch.Controller{{UUID: "c1", Target: "tcp:10.0.0.1:6653"}, {UUID: "c2", Target: "tcp:10.0.0.2:6653"}}
	// unchanged is a difference that leaves the bridge as it is.
	unchanged := func(change func(*difference)) difference {
		d := difference{protocols: there.Protocols, failMode: there.FailMode, kept: there.Controller}
		change(&d)
		return d
	}
	same := func(*difference) {}
	for name, c := range map[string]struct {
		want Declared
		have found
		diff difference
		err  string
	}{
		"a bridge that is not there is created with the kernel's datapath": {
			Declared{}, found{kernelDatapath: true}, difference{create: true, datapath: "system"}, ""},
		"a bridge that is not there is created with the userspace datapath where the kernel has none": {
			Declared{DatapathType: "auto"}, found{}, difference{create: true, datapath: "netdev"}, ""},
		"a declared datapath is not chosen": {
			Declared{DatapathType: "netdev"}, found{kernelDatapath: true}, difference{create: true, datapath: "netdev"}, ""},
		"a new bridge gets all that is declared": {
			Declared{Protocols: []string{"OpenFlow14"}, FailMode: "standalone", Controllers: []string{"tcp:10.0.0.1:6653"}, Uplinks: []string{"up0"}},
			found{links: map[string]bool{"up0": true}},
			difference{create: true, datapath: "netdev", set: true, protocols: []string{"OpenFlow14"}, failMode: text("standalone"),
				added: []string{"tcp:10.0.0.1:6653"}, uplinks: []string{"up0"}}, ""},
		"what is not declared stays as it is": {
			Declared{}, found{row: there, controllers: controllers}, unchanged(same), ""},
		"the datapath of a bridge that is there stays": {
			Declared{DatapathType: "system"}, found{row: there, controllers: controllers}, unchanged(same), ""},
		"what is as declared is not touched": {
			Declared{Protocols: []string{"OpenFlow13"}, FailMode: "secure", Controllers: []string{"tcp:10.0.0.1:6653", "tcp:10.0.0.2:6653"}, Uplinks: []string{"up0"}},
			found{row: there, controllers: controllers, ports: map[string]string{"up0": "p-up0"}}, unchanged(same), ""},
		"protocols are set": {
			Declared{Protocols: []string{"OpenFlow14", "OpenFlow13"}}, found{row: there, controllers: controllers},
			unchanged(func(d *difference) { d.set, d.protocols = true, []string{"OpenFlow14", "OpenFlow13"} }), ""},
		"protocols are a set, which Open vSwitch keeps in an order of its own": {
			Declared{Protocols: []string{"OpenFlow14", "OpenFlow13"}},
			found{row: vswitch.Bridge{UUID: "b", Protocols: []string{"OpenFlow13", "OpenFlow14"}}}, difference{protocols: []string{"OpenFlow13", "OpenFlow14"}}, ""},
		"the fail mode is set": {
			Declared{FailMode: "standalone"}, found{row: there, controllers: controllers},
			unchanged(func(d *difference) { d.set, d.failMode = true, text("standalone") }), ""},
		"a controller that is there keeps its row beside one that is added": {
			Declared{Controllers: []string{"tcp:10.0.0.1:6653", "tcp:10.0.0.2:6653", "tcp:10.0.0.3:6653"}}, found{row: there, controllers: controllers},
			unchanged(func(d *difference) { d.set, d.added = true, []string{"tcp:10.0.0.3:6653"} }), ""},
		"a controller that is not declared is dropped where others are": {
			Declared{Controllers: []string{"tcp:10.0.0.2:6653"}}, found{row: there, controllers: controllers},
			unchanged(func(d *difference) { d.set, d.kept = true, []string{"c2"} }), ""},
		"an uplink that is no port becomes one": {
			Declared{Uplinks: []string{"up0", "up1"}},
			found{row: there, controllers: controllers, ports: map[string]string{"up0": "p-up0"}, links: map[string]bool{"up1": true}},
			unchanged(func(d *difference) { d.uplinks = []string{"up1"} }), ""},
		"an uplink that is a port needs no link": {
			Declared{Uplinks: []string{"up0"}}, found{row: there, controllers: controllers, ports: map[string]string{"up0": "p-up0"}}, unchanged(same), ""},
		"an uplink of another bridge is not taken from it": {
			Declared{Uplinks: []string{"up1"}}, found{row: there, ports: map[string]string{"up1": "p-other"}, links: map[string]bool{"up1": true}},
			difference{}, "uplink up1 is a port of another bridge"},
		"an uplink without a link is refused": {
			Declared{Uplinks: []string{"up1"}}, found{row: there}, difference{}, "uplink up1: the node has no such link"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compare(c.want, c.have)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("error %v instead of %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.diff, got, cmp.AllowUnexported(difference{})); diff != "" {
				t.Error(diff)
			}
			if isSame := c.diff.empty(); isSame != got.empty() {
				t.Errorf("empty: %v", got.empty())
			}
		})
	}
}

// connected returns a client of a private Open vSwitch, as reconcilers get it.
func connected(t *testing.T) (client.Client, *testnode.OVS) {
	t.Helper()
	o := testnode.StartOVS(t)
	db := vswitch.New(o.DB, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		db.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	c, err := db.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c, o
}

// seen waits until the client's copy has what was written, which arrives after a transaction's answer.
func seen(t *testing.T, c client.Client, want Declared) {
	t.Helper()
	testnode.Eventually(t, "the copy has the bridge as declared", func() bool {
		have, err := find(context.Background(), c, want)
		if err != nil {
			return false
		}
		diff, err := compare(want, have)
		return err == nil && diff.empty()
	})
}

func makeLink(t *testing.T, name string) {
	t.Helper()
	testnode.Sh(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"-far")
	t.Cleanup(func() { testnode.Sh(t, "ip", "link", "del", name) })
}

func isUp(t *testing.T, name string) bool {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Flags&1 != 0 // IFF_UP
}

func TestBridgeIsMadeAsDeclaredAndThenChanged(t *testing.T) {
	c, o := connected(t)
	log := slog.New(slog.DiscardHandler)
	makeLink(t, "up0")
	makeLink(t, "up1")
	want := Declared{Name: "br0", DatapathType: "netdev", Uplinks: []string{"up0"}, Protocols: []string{"OpenFlow13"}, FailMode: "secure",
		Controllers: []string{"tcp:127.0.0.1:1", "tcp:127.0.0.1:2"}}
	if err := ensure(context.Background(), c, want, log); err != nil {
		t.Fatal(err)
	}
	seen(t, c, want)
	get := func(table, record, column string) string {
		return strings.TrimSpace(o.Vsctl(t, "get", table, record, column))
	}
	for _, v := range [][4]string{{"bridge", "br0", "datapath_type", "netdev"}, {"bridge", "br0", "external_ids:patchbay", "created"},
		{"bridge", "br0", "fail_mode", "secure"}, {"bridge", "br0", "protocols", "[OpenFlow13]"},
		{"interface", "br0", "type", "internal"}, {"port", "up0", "external_ids:patchbay", "uplink"}} {
		if got := get(v[0], v[1], v[2]); got != v[3] {
			t.Errorf("%s of %s %s: %s instead of %s", v[2], v[0], v[1], got, v[3])
		}
	}
	if !isUp(t, "up0") {
		t.Error("the uplink is down")
	}
	rowOf := func(target string) string {
		return strings.TrimSpace(o.Vsctl(t, "--bare", "--columns=_uuid", "find", "controller", `target="`+target+`"`))
	}
	kept := rowOf("tcp:127.0.0.1:2")
	o.Vsctl(t, "add-port", "br0", "stranger", "--", "set", "interface", "stranger", "type=internal")
	want.Uplinks, want.FailMode, want.Protocols = []string{"up0", "up1"}, "standalone", []string{"OpenFlow13", "OpenFlow10"}
	want.Controllers = []string{"tcp:127.0.0.1:2", "tcp:127.0.0.1:3"}
	if err := ensure(context.Background(), c, want, log); err != nil {
		t.Fatal(err)
	}
	seen(t, c, want)
	if ports := strings.Fields(o.Vsctl(t, "list-ports", "br0")); !slices.Equal(ports, []string{"stranger", "up0", "up1"}) {
		t.Errorf("ports %v", ports)
	}
	if mode := get("bridge", "br0", "fail_mode"); mode != "standalone" {
		t.Errorf("fail mode %s", mode)
	}
	if targets := o.Vsctl(t, "get-controller", "br0"); targets != "tcp:127.0.0.1:2\ntcp:127.0.0.1:3\n" {
		t.Errorf("controllers %q", targets)
	}
	if again := rowOf("tcp:127.0.0.1:2"); kept == "" || kept != again {
		t.Errorf("the controller's row %s was replaced with %s: its connection was cut", kept, again)
	}
}

// Once each uplink was set up while the list of what is to be done was still made, so that a bridge whose
// second uplink was missing had its first one up although nothing was done to the bridge.
func TestAMissingUplinkLeavesTheOthersDown(t *testing.T) {
	c, o := connected(t)
	makeLink(t, "up0")
	err := ensure(context.Background(), c, Declared{Name: "br0", DatapathType: "netdev", Uplinks: []string{"up0", "missing0"}}, slog.New(slog.DiscardHandler))
	if err == nil || err.Error() != "uplink missing0: the node has no such link" {
		t.Errorf("error %v", err)
	}
	if isUp(t, "up0") {
		t.Error("up0 was set up")
	}
	if bridges := o.Vsctl(t, "list-br"); bridges != "" {
		t.Errorf("bridges %q", bridges)
	}
}
