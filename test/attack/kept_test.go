package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A network may be older than CHECK: its other IPAM plugin is not asked then, as no plugin of it is.
func TestCheckOfAnOldNetworkDoesNotAskItsIPAMPlugin(t *testing.T) {
	n := newNode(t)
	n.nad("old", `{"cniVersion": "0.3.1", "name": "old", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "host-local", "dataDir": "`+n.Dir+`/hl", "subnet": "10.82.0.0/24"}}`)
	s := n.Run(t, "p1", "old")
	n.Check(t, s)
}

// A repeated ADD is answered with what is there, also where a plugin makes no interface.
func TestRepeatedADDOfAPluginThatMakesNothing(t *testing.T) {
	n := newNode(t)
	s := n.pod("p1", "mute")
	ctx := context.Background()
	if _, err := n.Runtime.Add(ctx, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Runtime.Del(ctx, s) })
	if _, err := n.Runtime.Add(ctx, s); err != nil {
		t.Error(err)
	}
}

// Where records are lost and interfaces are therefore kept, the addresses on them are kept as well.
func TestAddressesOfKeptInterfacesAreKept(t *testing.T) {
	n := newNode(t)
	n.nad("ours", `{"cniVersion": "1.0.0", "name": "ours", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.83.0.0/16", "subnetLen": 29, "cooldown": "0s"}}`)
	s := n.pod("p1", "ours")
	ctx := context.Background()
	if _, err := n.Runtime.Add(ctx, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Runtime.Del(ctx, s) })
	keys := n.etcdctl("get", "--prefix", "/", "--keys-only")
	n.Daemon.Kill()
	for _, k := range strings.Fields(keys) {
		if strings.Contains(k, "/sandboxes/") {
			n.etcdctl("del", k)
		}
	}
	n.Launch(t)
	n.decide("--accept")
	for i := range 4 {
		o := n.Run(t, "o"+string(rune('a'+i)), "ours")
		mine := testnode.Exec(t, s, "ip", "-4", "-o", "addr", "show", "dev", "net1")
		theirs := testnode.Exec(t, o, "ip", "-4", "-o", "addr", "show", "dev", "net1")
		if f, g := strings.Fields(mine), strings.Fields(theirs); f[3] == g[3] {
			t.Fatalf("two running pods have %s", f[3])
		}
	}
	if err := n.Runtime.Del(ctx, s); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "last", "ours") // the subnet has five addresses, and this is the sixth pod
}
