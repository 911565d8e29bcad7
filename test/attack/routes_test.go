package attack

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A pod whose default route is given to an interface that then fails, has it back with the answer.
func TestADefaultRouteComesBackWhenItsNewInterfaceFails(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.nad("routed", `{"cniVersion": "1.0.0", "name": "routed", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/16", "subnetLen": 24, "routes": [{"dst": "0.0.0.0/0"}]}}`)
	s := n.Run(t, "web", "routed")
	before := testnode.Exec(t, s, "ip", "route", "show", "default")
	if before == "" {
		t.Fatal("the pod has no default route")
	}
	request := client.Request{Network: "control", Interface: "hot0", DefaultRoute: &[]netip.Addr{netip.MustParseAddr("10.13.0.1")}}
	for _, point := range []string{"add-made", "add-recorded"} {
		n.Daemon.Stop()
		n.Start(t, "PATCHBAY_FAILPOINTS="+point+"=error")
		if _, err := n.Client.Attach(context.Background(), "default", "web", request); err == nil {
			t.Fatalf("%s: the attach did not fail", point)
		}
		if now := testnode.Exec(t, s, "ip", "route", "show", "default"); now != before {
			t.Errorf("%s: the pod's default route was %s, and is %q", point, before, now)
		}
	}
	n.Daemon.Stop()
	n.Start(t)
	n.Check(t, s)
	if _, err := n.Client.Attach(context.Background(), "default", "web", request); err != nil {
		t.Error(err)
	}
	if err := n.Client.Detach(context.Background(), "default", "web", "hot0"); err != nil {
		t.Error(err)
	}
	if now := testnode.Exec(t, s, "ip", "route", "show", "default"); now != before {
		t.Errorf("after a detach the pod's default route is %q, and was %s", now, before)
	}
}

// The interface whose default route has given way is down when it is to have it back: it has it once it is up.
func TestADefaultRouteComesBackToAnInterfaceThatWasDown(t *testing.T) {
	n := newNode(t)
	n.nad("routed", `{"cniVersion": "1.0.0", "name": "routed", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/16", "subnetLen": 24, "routes": [{"dst": "0.0.0.0/0"}]}}`)
	s := n.Run(t, "web", "routed")
	before := testnode.Exec(t, s, "ip", "route", "show", "default")
	request := client.Request{Network: "control", Interface: "hot0", DefaultRoute: &[]netip.Addr{netip.MustParseAddr("10.13.0.1")}}
	if _, err := n.Client.Attach(t.Context(), "default", "web", request); err != nil {
		t.Fatal(err)
	}
	testnode.Exec(t, s, "ip", "link", "set", "net1", "down")
	if err := n.Client.Detach(t.Context(), "default", "web", "hot0"); err != nil {
		t.Fatal(err)
	}
	testnode.Exec(t, s, "ip", "link", "set", "net1", "up")
	testnode.Eventually(t, "the default route is back", func() bool { return testnode.Exec(t, s, "ip", "route", "show", "default") == before })
	n.Check(t, s)
}

// A pod has two interfaces on a network with routes, and gets a third: the route that was there first is used, and when
// its interface goes, the next.
func TestAPodIsOnANetworkWithRoutesMoreThanOnce(t *testing.T) {
	n := newNode(t)
	n.nad("wide", `{"cniVersion": "1.0.0", "name": "wide", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam",
 "networks": ["10.83.0.0/16", "fd00:83::/48"], "subnetLen": 24, "routes": [{"dst": "10.83.0.0/16", "scope": 253}, {"dst": "fd00:83::/48", "scope": 253}]}}`)
	s := n.Run(t, "web", "wide,wide")
	if _, err := n.Client.Attach(t.Context(), "default", "web", client.Request{Network: "wide", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	n.Check(t, s)
	uses := func(want string) {
		t.Helper()
		for _, to := range []string{"10.83.255.1", "fd00:83:0:ffff::1"} {
			if got := testnode.Exec(t, s, "ip", "route", "get", to); !strings.Contains(got, " dev "+want+" ") {
				t.Errorf("to %s: %s, want %s", to, got, want)
			}
		}
	}
	uses("net1")
	if err := n.Client.Detach(t.Context(), "default", "web", "net1"); err != nil {
		t.Fatal(err)
	}
	uses("net2")
	for family, to := range map[string]string{"-4": "10.83.0.0/16", "-6": "fd00:83::/48"} {
		testnode.Exec(t, s, "ip", family, "route", "del", to, "dev", "net2")
		testnode.Eventually(t, "a lost route is back", func() bool {
			return strings.Contains(testnode.Exec(t, s, "ip", family, "route", "show", "dev", "net2"), to)
		})
	}
}

// The daemon is killed when a hot attach has just taken the default route.
func TestADefaultRouteComesBackWhenTheDaemonIsKilled(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.nad("routed", `{"cniVersion": "1.0.0", "name": "routed", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/16", "subnetLen": 24, "routes": [{"dst": "0.0.0.0/0"}]}}`)
	s := n.Run(t, "web", "routed")
	before := testnode.Exec(t, s, "ip", "route", "show", "default")
	n.Daemon.Stop()
	n.Start(t, "PATCHBAY_FAILPOINTS=add-made=kill")
	request := client.Request{Network: "control", Interface: "hot0", DefaultRoute: &[]netip.Addr{netip.MustParseAddr("10.13.0.1")}}
	if _, err := n.Client.Attach(context.Background(), "default", "web", request); err == nil {
		t.Fatal("the daemon was not killed")
	}
	<-n.Daemon.Done()
	if now := testnode.Exec(t, s, "ip", "route", "show", "default"); now == before {
		t.Fatalf("the route is still the first interface's: %s", now)
	}
	n.Start(t)
	if now := testnode.Exec(t, s, "ip", "route", "show", "default"); now != before {
		t.Errorf("the pod's default route was %s, and is %q", before, now)
	}
	n.Check(t, s)
}
