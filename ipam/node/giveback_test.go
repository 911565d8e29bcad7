package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
)

// A subnet of a node that is gone can be given back; not while its daemon is up, nor, unless it is forced, while
// somebody has an address of it.
func TestTheSubnetOfANodeThatIsGoneIsGivenBack(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"network": "10.12.0.0/23", "subnetLen": 24}`)
	gone, here := open(kv, "n2"), open(kv, "n1")
	const pool = "10.12.0.0-23"
	subnet := netip.MustParsePrefix("10.12.0.0/24")
	had, err := gone.Claim(ctx, p, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	const old = "/p/ipam/" + pool + "/ips/10.12.0.99" // as the release before writes it
	put := func(key, value string) {
		t.Helper()
		if _, err := kv.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	put("/p/live/n2", "{}")
	for _, giveBack := range []func(context.Context, string, netip.Prefix) error{here.GiveBack, here.ForceBack} {
		if err := giveBack(ctx, pool, subnet); !errors.Is(err, ledger.ErrNodeLives) {
			t.Errorf("of a node that is there: %v", err)
		}
	}
	if _, err := kv.Delete(ctx, "/p/live/n2"); err != nil {
		t.Fatal(err)
	}
	if err := here.GiveBack(ctx, pool, subnet); !errors.Is(err, ipam.ErrInUse) || !strings.Contains(err.Error(), "10.12.0.2 by pod default/p net1 on node n2") {
		t.Errorf("with an address in use: %v", err)
	}
	if err := gone.Release(ctx, had.Claims); err != nil {
		t.Fatal(err)
	}
	put(old, `{"node":"n2","containerID":"c9","ifname":"net1"}`)
	if err := here.GiveBack(ctx, pool, subnet); !errors.Is(err, ipam.ErrInUse) || !strings.Contains(err.Error(), "10.12.0.99 by sandbox c9") {
		t.Errorf("with an address in use by the release before: %v", err)
	}
	if err := here.ForceBack(ctx, pool, subnet); err != nil {
		t.Error(err)
	}
	if err := here.GiveBack(ctx, pool, subnet); !errors.Is(err, ipam.ErrNoSubnet) {
		t.Error(err)
	}
	if err := here.GiveBack(ctx, "nix", subnet); !errors.Is(err, ipam.ErrNoSubnet) {
		t.Error(err)
	}
	for _, prefix := range []string{"/p/ipam/" + pool + "/ips/", "/p/ipam/" + pool + "/subnets/", "/p/subnets/n2/"} {
		if resp, err := kv.Get(ctx, prefix, clientv3.WithPrefix()); err != nil || len(resp.Kvs) > 0 {
			t.Errorf("%v, %v are left", resp.Kvs, err)
		}
	}
	// The node was not gone after all: what it has in memory is no longer its own.
	if r, err := here.Claim(ctx, p, owner(2), nil); err != nil || r.Addrs[0].Masked() != subnet {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := gone.Claim(ctx, p, owner(3), nil); err != nil || r.Addrs[0].Masked() == subnet {
		t.Errorf("%+v, %v", r, err)
	}
	if err := here.GiveBack(ctx, pool, subnet); !errors.Is(err, ledger.ErrNodeLives) {
		t.Errorf("its own: %v", err)
	}
}

// A node that was taken for gone claims an address just when its subnet is given back: one of the two fails, or the
// node has the subnet again.
func TestASubnetInWhichAnAddressIsClaimedMeanwhileIsNotGivenBack(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	gone, here := open(kv, "n2"), open(kv, "n1")
	for i := range 100 {
		subnet := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i))
		p := newPool(t, fmt.Sprintf(`{"pool": "p%d", "network": "%s", "subnetLen": 24, "cooldown": "0s"}`, i, subnet))
		had, err := gone.Claim(ctx, p, owner(1), nil)
		if err == nil {
			err = gone.Release(ctx, had.Claims)
		}
		if err != nil {
			t.Fatal(err)
		}
		claimed := make(chan error, 1)
		go func() {
			_, err := gone.Claim(ctx, p, owner(2), nil)
			claimed <- err
		}()
		givenBack := here.GiveBack(ctx, fmt.Sprintf("p%d", i), subnet)
		if err := <-claimed; err != nil {
			continue
		}
		node, err := newLedger(kv, "n1").NodeOf(ctx, fmt.Sprintf("p%d", i), subnet)
		if err != nil || node != "n2" {
			t.Fatalf("n2 has an address of a subnet that is %q's, %v; given back: %v", node, err, givenBack)
		}
	}
}
