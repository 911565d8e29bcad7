package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

func TestAPoolIsRemovedWhenNobodyNeedsIt(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	one, two := open(kv, "n1"), open(kv, "n6") // both begin their search at the first of two subnets
	narrow := newPool(t, `{"pool": "x", "network": "10.12.0.0/23", "subnetLen": 24}`)
	wide := newPool(t, `{"pool": "x", "network": "10.12.0.0/23", "subnetLen": 23}`)
	have, err := one.Claim(ctx, narrow, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = two.Claim(ctx, wide, owner(2), nil)
	if err == nil || !strings.Contains(err.Error(), "patchctl ipam rm x") {
		t.Error(err)
	}
	if err := two.RemovePool(ctx, "x"); !errors.Is(err, ipam.ErrInUse) || !strings.Contains(err.Error(), have.Claims[0].Addr.String()+" by pod default/p net1 on node n1") {
		t.Error(err)
	}
	if err := one.Release(ctx, have.Claims); err != nil {
		t.Fatal(err)
	}
	if err := two.RemovePool(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "nix", "", "..", "x/ips"} {
		if err := two.RemovePool(ctx, name); !errors.Is(err, ipam.ErrNoPool) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if resp, err := kv.Get(ctx, "/p/ipam/", clientv3.WithPrefix()); err != nil || resp.Count != 0 {
		t.Errorf("%v, %v", resp, err)
	}
	// The first node has it in memory, and the second one is faster: the subnet is its own now.
	if r, err := two.Claim(ctx, narrow, owner(2), nil); err != nil || r.Addrs[0].Masked().String() != "10.12.0.0/24" {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := one.Claim(ctx, narrow, owner(1), nil); err != nil || r.Addrs[0].Masked().String() != "10.12.1.0/24" {
		t.Errorf("%+v, %v", r, err)
	}
}

// An "ipam" object that is not what it was, or a pool that is not in memory, must not matter to a DEL.
func TestOwnedChangesNothing(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"pool": "x", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "1h"}`)
	have, err := open(kv, "n1").Claim(ctx, p, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	before, err := kv.Get(ctx, "/p", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	a, other := open(kv, "n1"), open(kv, "n2")
	for _, name := range []string{"x", "", "x"} {
		if claims, err := a.Owned(ctx, name, owner(1)); err != nil || fmt.Sprint(claims) != fmt.Sprint(have.Claims) {
			t.Errorf("%q: %v, %v", name, claims, err)
		}
		if claims, err := other.Owned(ctx, name, owner(1)); err != nil || len(claims) != 0 {
			t.Errorf("%q, another node: %v, %v", name, claims, err)
		}
	}
	if claims, err := a.Owned(ctx, "nix", owner(1)); err != nil || len(claims) != 0 {
		t.Errorf("%v, %v", claims, err)
	}
	after, err := kv.Get(ctx, "/p", clientv3.WithPrefix())
	if err != nil || fmt.Sprint(after.Kvs) != fmt.Sprint(before.Kvs) {
		t.Errorf("%v\nis now\n%v, %v", before.Kvs, after.Kvs, err)
	}
	// What is freed before the pool is settled rests.
	if err := a.Release(ctx, have.Claims); err != nil {
		t.Fatal(err)
	}
	if r, err := a.Claim(ctx, p, owner(2), nil); err != nil || r.Addrs[0] == have.Addrs[0] {
		t.Errorf("%+v, %v: given out again at once", r, err)
	}
}

func TestSettlingAgainKeepsWhatIsReservedAndGoesByTheNewRules(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	a, other := open(kv, "n1"), open(kv, "n2")
	const pool = `{"pool": "x", "network": "10.12.0.0/24", "subnetLen": 24`
	one, err := a.Reserve(ctx, newPool(t, pool+"}"), owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.RemovePool(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	two, err := a.Claim(ctx, newPool(t, pool+`, "exclude": ["10.12.0.3"], "gateway": "10.12.0.4"}`), owner(2), nil)
	if err != nil || two.Addrs[0].String() != "10.12.0.5/24" || two.Gateways[0].String() != "10.12.0.4" {
		t.Errorf("%+v, %v: not the next one after that of the reservation (%s)", two, err, one.Addrs)
	}
	if err := a.Commit(ctx, one.Txn()); !errors.Is(err, txn.ErrConflict) {
		t.Errorf("an address was claimed by a specification that is gone: %v", err)
	}
}

// Two nodes claim and release addresses of a pool while somebody removes it again and again. At every
// revision of etcd each claim lies in a subnet of its node, of a pool that is defined, and no claim goes
// but by its release.
func TestRemovingNeverLeavesAClaimWithoutAPool(t *testing.T) {
	kv := startEtcd(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := newPool(t, `{"pool": "x", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}`)
	var removed, busy int
	try := make(chan struct{}) // to remove the pool; who has sent twice knows that the first try is over
	var remover sync.WaitGroup
	remover.Go(func() {
		a := open(kv, "n3")
		for range try {
			switch err := a.RemovePool(ctx, "x"); {
			case err == nil:
				removed++
			case errors.Is(err, ipam.ErrInUse):
				busy++
			case !errors.Is(err, ipam.ErrNoPool):
				t.Error(err)
			}
		}
	})
	claimers := make([]service, 6)
	for i := range claimers {
		claimers[i] = open(kv, fmt.Sprintf("n%d", 1+i%2))
	}
	const rounds = 12
	for round := range rounds {
		var living sync.WaitGroup
		for i, a := range claimers {
			living.Go(func() {
				for k := range 5 {
					try <- struct{}{}
					r, err := a.Claim(ctx, p, owner(100*i+5*round+k), nil)
					for errors.Is(err, txn.ErrConflict) { // removed more often than it was tried again
						r, err = a.Claim(ctx, p, owner(100*i+5*round+k), nil)
					}
					if err != nil {
						t.Error(err)
						return
					}
					try <- struct{}{}
					try <- struct{}{}
					if missing, err := a.Missing(ctx, r.Claims); err != nil || len(missing) > 0 {
						t.Errorf("claims are lost: %v, %v", missing, err)
					}
					if err := a.Release(ctx, r.Claims); err != nil {
						t.Error(err)
					}
				}
			})
		}
		living.Wait()
		try <- struct{}{} // nobody has an address
	}
	close(try)
	remover.Wait()
	if removed < rounds || busy < rounds {
		t.Errorf("removed %d times, refused %d times in %d rounds: nothing is proven", removed, busy, rounds)
	}
	if _, err := kv.Put(ctx, "/p/ipam/end", ""); err != nil {
		t.Fatal(err)
	}
	judge(t, kv.Watch(ctx, "/p/ipam/", clientv3.WithPrefix(), clientv3.WithRev(1)))
}

// judge goes through the history of pool x, up to the key that ends it.
func judge(t *testing.T, history clientv3.WatchChan) {
	t.Helper()
	now := map[string]string{}
	revision := int64(0)
	for resp := range history {
		for _, e := range resp.Events {
			if e.Kv.ModRevision != revision {
				sound(t, revision, now)
				revision = e.Kv.ModRevision
			}
			key := strings.TrimPrefix(string(e.Kv.Key), "/p/ipam/")
			if key == "end" {
				return
			}
			if now[key] = string(e.Kv.Value); e.Type == clientv3.EventTypeDelete {
				delete(now, key)
			}
		}
	}
	t.Error("the history has no end")
}

func sound(t *testing.T, revision int64, now map[string]string) {
	t.Helper()
	for key, value := range now {
		id, ok := strings.CutPrefix(key, "x/ips/")
		if !ok {
			continue
		}
		ip := id[strings.LastIndex(id, "/")+1:]
		subnet := netip.PrefixFrom(netip.MustParseAddr(ip), 24).Masked()
		if both := now["x/ips/"+subnet.String()+"/"+ip] == now["x/ips/"+ip]; !both {
			t.Errorf("revision %d: %s is not in both layouts", revision, ip)
		}
		var claim, of struct{ Node string }
		err := errors.Join(json.Unmarshal([]byte(value), &claim), json.Unmarshal([]byte(now["x/subnets/"+subnet.String()]), &of))
		if err != nil || now["x/spec"] == "" || of.Node != claim.Node {
			t.Errorf("revision %d: %s is %s's, its subnet %s's, and the pool is %q (%v)", revision, ip, claim.Node, of.Node, now["x/spec"], err)
		}
	}
}

// A record that can't be read, or that a newer release wrote, is kept byte for byte, and what it may account for is
// given to nobody.
func TestFaultsAreToldOfAndHarmNobody(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	a := open(kv, "n1")
	if faults, err := a.Faults(ctx); err != nil || len(faults) != 0 {
		t.Errorf("%v, %v", faults, err)
	}
	p := newPool(t, `{"pool": "x", "network": "10.12.0.0/24", "subnetLen": 24}`)
	lost := newPool(t, `{"pool": "lost", "network": "10.14.0.0/24", "subnetLen": 24}`)
	same := newPool(t, `{"pool": "y", "network": "10.12.0.0/20", "subnetLen": 24}`)
	for _, config := range []string{p, lost} {
		if _, err := a.Claim(ctx, config, owner(1), nil); err != nil {
			t.Fatal(err)
		}
	}
	damaged := map[string]string{"x/ips/10.12.0.0/24/10.12.0.3": `{"node":"n1","contain`, "x/ips/10.12.0.0/24/10.12.0.4": `{}`,
		"x/ips/10.12.0.0/24/10.12.0.5": `{"node":"n1","ifname":1}`, "x/ips/10.12.0.0/24/10.12.0.6": `{"version":99,"node":"n1","containerID":"c1","ifname":"net1"}`,
		"x/ips/10.12.0.0/24/10.12.0.4x": `{}`, "lost/subnets/10.14.0.0/24": `[]`}
	for key, value := range damaged {
		if _, err := kv.Put(ctx, "/p/ipam/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	for name, spec := range map[string]string{"y": specOf(t, same), "torn": `{"networks":[{"network":"10.0.0.0/8","subnetLen":99}]}`, "newer": `{"version":99}`,
		"z": `{"mode":"node","networks":[{"network":"::ffff:10.12.3.0/120","subnetLen":120}]}`} {
		if _, err := kv.Put(ctx, "/p/ipam/"+name+"/spec", spec); err != nil {
			t.Fatal(err)
		}
	}
	a = open(kv, "n1")
	faults, err := a.Faults(ctx)
	text := strings.Join(faults, "\n")
	if err != nil || len(faults) != len(damaged)+4 {
		t.Errorf("%v, %d: %s", err, len(faults), text)
	}
	for _, want := range []string{"pool y (10.12.0.0/20 in subnets of /24) overlaps pool x", "overlaps pool y", "patchctl ipam rm torn", "it has version 99"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
	r, err := a.Claim(ctx, p, owner(2), nil)
	if err != nil || r.Addrs[0].String() != "10.12.0.7/24" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := a.Claim(ctx, p, owner(1), []ipam.Request{{Addr: netip.MustParseAddr("10.12.0.6")}}); !errors.Is(err, ipam.ErrTaken) {
		t.Error(err)
	}
	if r, err := a.Claim(ctx, lost, owner(2), nil); err == nil {
		t.Errorf("given from a subnet whose record can't be read: %+v", r)
	}
	all, err := a.NodeClaims(ctx, "")
	if err != nil || len(all) != 7 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := a.Release(ctx, all); err != nil {
		t.Error(err)
	}
	for key, value := range damaged {
		if resp, err := kv.Get(ctx, "/p/ipam/"+key); err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			t.Errorf("%s is now %v, %v", key, resp, err)
		}
	}
	if pools, err := a.Pools(ctx, ipam.Page{Limit: 100}); err != nil || len(pools) != 6 {
		t.Errorf("%+v, %v", pools, err)
	}
	if _, err := a.Claim(ctx, newPool(t, `{"network": "10.99.0.0/16", "subnetLen": 24}`), owner(2), nil); !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "/p/ipam/newer/spec") {
		t.Error(err)
	}
}
