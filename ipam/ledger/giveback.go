package ledger

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
)

// ErrNodeLives says that the daemon of the node that has a subnet is up: it may claim an address at any time.
var ErrNodeLives = fault.New(fault.Conflict, "its node is there")

// GiveBack implements ipam.Ledger.
func (l *Ledger) GiveBack(ctx context.Context, pool string, s netip.Prefix) error {
	return l.giveBack(ctx, pool, s, func(kept []record) error {
		var who []string
		for _, r := range kept[:min(len(kept), usersShown)] {
			c, _ := r.claim()
			who = append(who, r.id+" by "+c.Owner.String())
		}
		if more := len(kept) - len(who); more > 0 {
			who = append(who, fmt.Sprintf("and %d more", more))
		}
		return fmt.Errorf("subnet %s of pool %s can't be given back, as %w: %s; if that node and its pods are gone for good, --force gives up their addresses", s, pool, ipam.ErrInUse, strings.Join(who, ", "))
	})
}

// ForceBack implements ipam.Ledger.
func (l *Ledger) ForceBack(ctx context.Context, pool string, s netip.Prefix) error {
	return l.giveBack(ctx, pool, s, func([]record) error { return nil })
}

// giveBack lets the node of a subnet have it no more. refuse is asked where there are claims in it.
func (l *Ledger) giveBack(ctx context.Context, pool string, s netip.Prefix, refuse func([]record) error) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := l.Open(ctx); err != nil {
		return err
	}
	what := fmt.Sprintf("subnet %s of pool %s", s, pool)
	kvs, err := l.get(ctx, what, l.subnet(pool, s))
	if err != nil {
		return err
	}
	if len(kvs) == 0 {
		return fmt.Errorf("%s: %w", what, ipam.ErrNoSubnet)
	}
	node, err := l.record(kvs[0]).node()
	if err != nil {
		return ipam.Invalid("%s: nobody knows whose it is (key %s: %v): delete the key once no pod has an address of it", what, kvs[0].Key, err)
	}
	up, err := l.get(ctx, "node "+node, l.live+node, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if node == l.node || len(up) > 0 {
		return fmt.Errorf("%s is node %s's: %w, so that it may need it at any time", what, node, ErrNodeLives)
	}
	claims, err := l.claimsOf(ctx, pool, s)
	if err != nil {
		return err
	}
	if len(claims) > 0 {
		if err := refuse(claims); err != nil {
			return err
		}
	}
	still := etcd.Txn{}.IfRevision(l.subnet(pool, s), kvs[0].ModRevision).IfAbsent(l.live + node)
	if err := l.deleteAll(ctx, still, claims); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := l.Commit(ctx, still.IfEmpty(l.claimsIn(pool, s)).Delete(l.subnet(pool, s))); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	// Where etcd has a role for each node, only that node may write its index, and does so when it is back.
	_ = l.Commit(ctx, etcd.Txn{}.IfAbsent(l.subnet(pool, s)).Delete(l.indexed(node, pool, s)))
	return nil
}

// claimsOf are the claims in a subnet, in either layout: the node may have run the release before.
func (l *Ledger) claimsOf(ctx context.Context, pool string, s netip.Prefix) (all []record, err error) {
	seen := map[string]bool{}
	note := func(r record) error {
		a, err := netip.ParseAddr(r.id)
		if err != nil || !s.Contains(a) || seen[r.id] && r.subnet == "" {
			return nil
		}
		seen[r.id] = true
		all = append(all, r)
		return nil
	}
	if err := l.pages(ctx, "claims", l.claimsIn(pool, s), note); err != nil {
		return nil, err
	}
	return all, l.pages(ctx, "claims", l.oldClaimsIn(pool, s), func(r record) error {
		if r.subnet != "" {
			return nil
		}
		return note(r)
	})
}

// deletedAtOnce is how many claims are deleted in a transaction, from both layouts; etcd allows 128 operations.
const deletedAtOnce = 50

// deleteAll deletes claims under conditions.
func (l *Ledger) deleteAll(ctx context.Context, conditions etcd.Txn, claims []record) error {
	for len(claims) > 0 {
		t, some := conditions, claims[:min(len(claims), deletedAtOnce)]
		for _, r := range some {
			t = t.Delete(r.key)
			if old := l.claims(r.pool) + r.id; old != r.key {
				t = t.Delete(old)
			}
		}
		if err := l.Commit(ctx, t); err != nil {
			return err
		}
		claims = claims[len(some):]
	}
	return nil
}

// EachOrphan passes on the subnets of nodes whose daemon is not up. Of all daemons that are, it does so for one only:
// the first by name.
func (l *Ledger) EachOrphan(ctx context.Context, do func(ipam.Orphan) error) error {
	first, err := l.get(ctx, "the nodes that are up", l.live, clientv3.WithRange(clientv3.GetPrefixRangeEnd(l.live)), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil || len(first) == 0 || string(first[0].Key) != l.live+l.node {
		return err
	}
	up := map[string]bool{}
	err = l.eachKey(ctx, "the nodes that are up", l.live, func(kv *mvccpb.KeyValue) error {
		up[strings.TrimPrefix(string(kv.Key), l.live)] = true
		return nil
	})
	if err != nil {
		return err
	}
	return l.eachPool(ctx, func(pool string) error {
		return l.pages(ctx, "the subnets of pool "+pool, l.subnets(pool), func(r record) error {
			s, err := netip.ParsePrefix(r.id)
			node, nodeErr := r.node()
			if err != nil || nodeErr != nil || up[node] || node == l.node {
				return nil // what can't be read is left alone
			}
			return do(ipam.Orphan{Pool: pool, Subnet: s, Node: node})
		})
	})
}
