package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Six hundred nodes begin at once, with an IPv6 network that has 2^40 subnets.
func TestSixHundredNodesClaimTheirFirstSubnetAtOnce(t *testing.T) {
	kv := startEtcd(t)
	for _, config := range []string{`{"network": "10.0.0.0/12", "subnetLen": 24}`, `{"network": "fc00::/24", "subnetLen": 64}`} {
		p := newPool(t, config)
		subnets := make([]string, 600)
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range subnets {
			wg.Go(func() {
				node := open(kv, fmt.Sprint("node-", i))
				r, err := node.Claim(context.Background(), p, owner(i), nil)
				for err != nil && fault.Of(err).Passes() { // a slow machine answers too late: a runtime tries again
					r, err = node.Claim(context.Background(), p, owner(i), nil)
				}
				if err != nil {
					t.Error(err)
					return
				}
				subnets[i] = r.Addrs[0].Masked().String()
			})
		}
		wg.Wait()
		t.Logf("%s: %s", config, time.Since(begin).Round(time.Millisecond))
		slices.Sort(subnets)
		if n := len(slices.Compact(subnets)); n != 600 {
			t.Errorf("%d subnets", n)
		}
	}
}

// Of 1024 subnets one is free, and the search begins elsewhere.
func TestTheLastFreeSubnetIsFound(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"network": "10.12.0.0/20", "subnetLen": 30}`)
	if _, err := open(kv, "first").Claim(ctx, p, owner(1), nil); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 1024; i++ {
		s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 12, byte(i >> 6), byte(i << 2)}), 30).String()
		if s == "10.12.9.64/30" {
			continue
		}
		if _, err := kv.Put(ctx, "/p/ipam/10.12.0.0-20/subnets/"+s, `{"node":"other"}`); err != nil {
			t.Fatal(err)
		}
	}
	r, err := open(kv, "n1").Claim(ctx, p, owner(1), nil)
	if err != nil || r.Addrs[0].Masked().String() != "10.12.9.64/30" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := open(kv, "n2").Claim(ctx, p, owner(1), nil); !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "all 1024 /30 subnets") {
		t.Error(err)
	}
}

// A subnet is another node's by now, as somebody has deleted its key: no address of it is claimed any more.
func TestASubnetThatIsAnotherNodesByNowGivesNoAddress(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"network": "10.12.0.0/16", "subnetLen": 24}`)
	a := open(kv, "n1")
	had, err := a.Claim(ctx, p, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := a.Reserve(ctx, p, owner(2), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "/p/ipam/10.12.0.0-16/subnets/10.12.0.0/24", `{"node":"n2"}`); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(ctx, chosen.Txn()); !errors.Is(err, txn.ErrConflict) {
		t.Errorf("an address of another node's subnet was claimed: %v", err)
	}
	now, err := a.Claim(ctx, p, owner(3), nil)
	if err != nil || now.Addrs[0].Masked() == had.Addrs[0].Masked() {
		t.Errorf("%+v, %v", now, err)
	}
	if faults, err := a.Faults(ctx); err != nil || len(faults) != 1 || !strings.Contains(faults[0], "subnet 10.12.0.0/24 of pool 10.12.0.0-16 is node n2's") {
		t.Errorf("%v, %v", faults, err)
	}
	if err := a.Release(ctx, had.Claims); err != nil {
		t.Error(err)
	}
	if missing, err := a.Missing(ctx, had.Claims); err != nil || len(missing) != 1 {
		t.Errorf("what this node had there can't be freed: %v, %v", missing, err)
	}
}

// The release before ran on the node and goes by its own keys. What it did is found at the next start.
func TestWhatTheReleaseBeforeDidIsBroughtOver(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"network": "10.12.0.0/24", "subnetLen": 24}`)
	a := open(kv, "n1")
	for i := range 4 { // .2 to .5
		if _, err := a.Claim(ctx, p, owner(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	const old = "/p/ipam/10.12.0.0-24/ips/"
	if _, err := kv.Put(ctx, "/p/nodes/n1", `{"node":"n1","version":"before"}`); err != nil {
		t.Fatal(err)
	}
	other := `{"node":"n1","containerID":"c9","ifname":"net1"}`
	for key, value := range map[string]string{old + "10.12.0.3": other, old + "10.12.0.9": other, old + "10.12.0.10": "{",
		"/p/ipam/10.20.0.0-16/spec": specOf(t, `{"network": "10.20.0.0/16", "subnetLen": 24}`), "/p/ipam/10.20.0.0-16/subnets/10.20.7.0/24": `{"node":"n1"}`,
		"/p/ipam/10.20.0.0-16/ips/10.20.7.7": other, "/p/ipam/10.20.0.0-16/ips/10.20.8.8": `{"node":"n2","containerID":"c9","ifname":"net1"}`} {
		if _, err := kv.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Delete(ctx, old+"10.12.0.4"); err != nil { // it was freed, or a newer release made it
		t.Fatal(err)
	}
	b := open(kv, "n1")
	claims, err := b.NodeClaims(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range claims {
		got = append(got, c.Addr.String()+" "+c.Owner.ContainerID)
	}
	if want := "[10.12.0.2 c0 10.12.0.3 c9 10.12.0.4 c2 10.12.0.5 c3 10.12.0.9 c9 10.12.0.10  10.20.7.7 c9]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	if r, err := b.Claim(ctx, newPool(t, `{"network": "10.20.0.0/16", "subnetLen": 24}`), owner(1), nil); err != nil || r.Addrs[0].Masked().String() != "10.20.7.0/24" {
		t.Errorf("not the subnet that the release before claimed: %+v, %v", r, err)
	}
	if err := b.Release(ctx, claims); err != nil {
		t.Fatal(err)
	}
	left, err := kv.Get(ctx, "/p/ipam/10.12.0.0-24/ips/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(left.Kvs) != 2 || !strings.HasSuffix(string(left.Kvs[0].Key), "10.12.0.10") {
		t.Errorf("%v, %v: not just the claim that can't be read", left.Kvs, err)
	}
}

// A newer release has put a field into a claim. It is kept while the pod lives, and does not leak the claim.
func TestAFieldOfANewerReleaseDoesNotLeakTheClaim(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"network": "10.12.0.0/24", "subnetLen": 24}`)
	had, err := open(kv, "n1").Claim(ctx, p, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	const newer = `{"node":"n1","containerID":"c1","since":"monday","ifname":"net1","pod":"default/p"}`
	keys := []string{"/p/ipam/10.12.0.0-24/ips/10.12.0.0/24/10.12.0.2", "/p/ipam/10.12.0.0-24/ips/10.12.0.2"}
	for _, key := range keys {
		if _, err := kv.Put(ctx, key, newer); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Put(ctx, "/p/ipam/10.12.0.0-24/spec", strings.Replace(specOf(t, p), "{", `{"colour":"blue",`, 1)); err != nil {
		t.Fatal(err)
	}
	a := open(kv, "n1")
	if again, err := a.Claim(ctx, p, owner(1), nil); err != nil || again.Addrs[0] != had.Addrs[0] {
		t.Errorf("its owner has it no more: %+v, %v", again, err)
	}
	if missing, err := a.Missing(ctx, had.Claims); err != nil || len(missing) > 0 {
		t.Errorf("%v, %v", missing, err)
	}
	if resp, err := kv.Get(ctx, keys[0]); err != nil || string(resp.Kvs[0].Value) != newer {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err := kv.Get(ctx, "/p/ipam/10.12.0.0-24/spec"); err != nil || !strings.Contains(string(resp.Kvs[0].Value), "blue") {
		t.Errorf("%v, %v", resp, err)
	}
	if err := a.Release(ctx, had.Claims); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if resp, err := kv.Get(ctx, key); err != nil || len(resp.Kvs) > 0 {
			t.Errorf("%s is left: %v, %v", key, resp, err)
		}
	}
}
