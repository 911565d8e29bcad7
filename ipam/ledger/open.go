package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// Open finds this node's subnets, and brings its claims into the layout of this release. Everything else does so
// first; call it before the node's record is written: that of the release before has no layout, and tells that it
// may have changed claims since.
func (l *Ledger) Open(ctx context.Context) error {
	select {
	case l.opening <- struct{}{}:
		defer func() { <-l.opening }()
	case <-ctx.Done():
		return fmt.Errorf("read this node's subnets: %w: %w", txn.ErrUnavailable, context.Cause(ctx))
	}
	l.mu.Lock()
	opened := l.opened
	l.mu.Unlock()
	if opened {
		return nil
	}
	if err := l.Examine(ctx); err != nil {
		return fmt.Errorf("read this node's subnets: %w", err)
	}
	layout, err := l.layout(ctx)
	if err != nil {
		return err
	}
	kvs, err := l.all(ctx, "the index of this node's subnets", l.index)
	if err != nil {
		return err
	}
	found := map[string][]netip.Prefix{}
	for _, kv := range kvs {
		if pool, s, ok := l.indexEntry(kv); ok {
			found[pool] = append(found[pool], s)
		}
	}
	if layout < Layout {
		if err := l.findUnindexed(ctx, found); err != nil {
			return err
		}
	}
	for pool, subnets := range found {
		if err := l.take(ctx, pool, subnets, layout); err != nil {
			return fmt.Errorf("pool %s: %w", pool, err)
		}
	}
	l.mu.Lock()
	l.opened = true
	l.mu.Unlock()
	return nil
}

// take makes subnets this node's, as far as etcd says so, with the claims in them.
func (l *Ledger) take(ctx context.Context, pool string, subnets []netip.Prefix, layout int) error {
	if err := l.verify(ctx, pool, subnets); err != nil {
		return err
	}
	for _, s := range subnets {
		for _, key := range []string{l.spec(pool), l.subnet(pool, s), l.indexed(l.node, pool, s)} {
			kvs, err := l.get(ctx, "pool "+pool, key)
			if err != nil {
				return err
			}
			l.Seen(kvs...)
		}
		if layout < Layout {
			if err := l.bringOver(ctx, pool, s); err != nil {
				return err
			}
		}
		err := l.eachKey(ctx, "claims", l.claimsIn(pool, s), func(kv *mvccpb.KeyValue) error {
			l.Seen(kv) // nothing is freed yet: what was seen is there
			if r := l.record(kv); r.id != "" {
				l.Seen(&mvccpb.KeyValue{Key: []byte(l.claims(pool) + r.id), Value: kv.Value, ModRevision: kv.ModRevision})
			}
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := l.Owners(ctx, pool, s); err != nil { // notes what other releases wrote
			return err
		}
	}
	return nil
}

// layout returns that of the daemon that ran on this node last, 0 if it was the release before; a new node has
// nothing that would have to be found.
func (l *Ledger) layout(ctx context.Context) (int, error) {
	kvs, err := l.get(ctx, "this node's record", l.self)
	if err != nil || len(kvs) == 0 {
		return Layout, err
	}
	var n struct {
		Layout int `json:"layout"`
	}
	_ = json.Unmarshal(kvs[0].Value, &n) // one that can't be read tells nothing: look everywhere
	return n.Layout, nil
}

// findUnindexed adds this node's subnets that the index lacks, as the release before writes none.
func (l *Ledger) findUnindexed(ctx context.Context, found map[string][]netip.Prefix) error {
	return l.eachPool(ctx, func(pool string) error {
		return l.pages(ctx, "the subnets of pool "+pool, l.subnets(pool), func(r record) error {
			s, err := netip.ParsePrefix(r.id)
			if node, _ := r.node(); err != nil || node != l.node && node != UnknownNode { // which may be this one
				return nil
			}
			if slices.Contains(found[pool], s) {
				return nil
			}
			found[pool] = append(found[pool], s)
			err = l.Commit(ctx, etcd.Txn{}.IfRevision(r.key, r.revision).Put(l.indexed(l.node, pool, s), l.subnetValue()))
			if errors.Is(err, txn.ErrConflict) { // it was given back meanwhile: take finds that
				return nil
			}
			return err
		})
	})
}

// bringOver makes the two layouts of a subnet's claims the same. Where both have a claim the younger one counts. A
// claim that one of them lacks was freed by a release that knows only the other, or made by it: which of them can't
// be told, so that it is kept, and freed only when nothing accounts for it.
func (l *Ledger) bringOver(ctx context.Context, pool string, s netip.Prefix) error {
	type pair struct{ now, old *record }
	both := map[netip.Addr]*pair{}
	note := func(which func(*pair) **record) func(record) error {
		return func(r record) error {
			a, err := netip.ParseAddr(r.id)
			if err != nil || !s.Contains(a) || r.kind != claimsKind {
				return nil
			}
			if both[a] == nil {
				both[a] = &pair{}
			}
			*which(both[a]) = &r
			return nil
		}
	}
	err := l.pages(ctx, "claims", l.claimsIn(pool, s), note(func(p *pair) **record { return &p.now }))
	if err == nil {
		oldOnly := note(func(p *pair) **record { return &p.old })
		err = l.pages(ctx, "claims", l.oldClaimsIn(pool, s), func(r record) error {
			if r.subnet != "" {
				return nil
			}
			return oldOnly(r)
		})
	}
	if err != nil {
		return err
	}
	for a, p := range both {
		t, key, oldKey := etcd.Txn{}, l.claim(pool, s, a), l.oldClaim(pool, a)
		switch {
		case p.now == nil || p.old != nil && p.now.revision < p.old.revision && string(p.now.value) != string(p.old.value):
			t = t.IfRevision(oldKey, p.old.revision).IfRevision(key, p.now.changed()).Put(key, string(p.old.value))
		case p.old == nil || string(p.now.value) != string(p.old.value):
			t = t.IfRevision(key, p.now.revision).IfRevision(oldKey, p.old.changed()).Put(oldKey, string(p.now.value))
		default:
			continue
		}
		if err := l.Commit(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// changed is the revision at which a key was changed, 0 if it is not there.
func (r *record) changed() int64 {
	if r == nil {
		return 0
	}
	return r.revision
}

// verify asks etcd whose subnets of a pool are. One of this node that it has lost is kept in mind as long as there
// are claims in it.
func (l *Ledger) verify(ctx context.Context, pool string, subnets []netip.Prefix) error {
	for _, s := range subnets {
		resp, err := l.kv.Txn(ctx).Then(clientv3.OpGet(l.subnet(pool, s)), clientv3.OpGet(l.claimsIn(pool, s), clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
		if err != nil {
			return fmt.Errorf("read subnet %s: %w: %w", s, txn.ErrUnavailable, err)
		}
		kvs, claims := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Count
		node, held := "", int64(0)
		if len(kvs) > 0 {
			if node, _ = l.record(kvs[0]).node(); node == l.node {
				held = kvs[0].ModRevision
			}
		}
		l.mu.Lock()
		if held != 0 || node == UnknownNode || claims > 0 {
			if l.own[pool] == nil {
				l.own[pool] = map[netip.Prefix]int64{}
			}
			l.own[pool][s] = held
		} else {
			delete(l.own[pool], s)
		}
		l.mu.Unlock()
		if held == 0 && node != UnknownNode && claims == 0 {
			err := l.Commit(ctx, etcd.Txn{}.IfRevision(l.subnet(pool, s), revisionOf(kvs)).Delete(l.indexed(l.node, pool, s)))
			if err != nil && !errors.Is(err, txn.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

// Verify asks etcd which subnets of a pool are still this node's.
func (l *Ledger) Verify(ctx context.Context, pool string) error {
	if err := l.Open(ctx); err != nil {
		return err
	}
	return l.verify(ctx, pool, slices.Collect(maps.Keys(l.known(pool))))
}

// Mine returns this node's subnets of a pool.
func (l *Ledger) Mine(pool string) []netip.Prefix {
	var held []netip.Prefix
	for s, revision := range l.known(pool) {
		if revision != 0 {
			held = append(held, s)
		}
	}
	return held
}

// known are this node's subnets of a pool, with those that it has lost.
func (l *Ledger) known(pool string) map[netip.Prefix]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.own[pool])
}
