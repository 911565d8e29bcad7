package ledger

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// pageSize is how many keys are read at a time.
const pageSize = 500

// get reads a key, or a range of them; what says in an error what was to be read.
func (l *Ledger) get(ctx context.Context, what, key string, opts ...clientv3.OpOption) ([]*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := l.kv.Get(ctx, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", what, txn.ErrUnavailable, err)
	}
	return resp.Kvs, nil
}

// eachKey passes on the keys that begin with the prefix, in order.
func (l *Ledger) eachKey(ctx context.Context, what, prefix string, do func(*mvccpb.KeyValue) error) error {
	for from, end := prefix, clientv3.GetPrefixRangeEnd(prefix); ; {
		kvs, err := l.get(ctx, what, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize))
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			if err := do(kv); err != nil {
				return err
			}
		}
		if len(kvs) < pageSize {
			return nil
		}
		from = string(kvs[len(kvs)-1].Key) + "\x00"
	}
}

// all returns the keys that begin with the prefix: of those that are few.
func (l *Ledger) all(ctx context.Context, what, prefix string) (all []*mvccpb.KeyValue, err error) {
	err = l.eachKey(ctx, what, prefix, func(kv *mvccpb.KeyValue) error {
		all = append(all, kv)
		return nil
	})
	return all, err
}

// pages passes on a pool's keys that begin with the prefix, read.
func (l *Ledger) pages(ctx context.Context, what, prefix string, do func(record) error) error {
	return l.eachKey(ctx, what, prefix, func(kv *mvccpb.KeyValue) error { return do(l.record(kv)) })
}

// eachPool passes on the names of all pools. It steps from pool to pool, over the claims of each.
func (l *Ledger) eachPool(ctx context.Context, do func(name string) error) error {
	for from, end := l.root, clientv3.GetPrefixRangeEnd(l.root); ; {
		next, err := l.get(ctx, "pools", from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil || len(next) == 0 {
			return err
		}
		name := l.record(next[0]).pool
		from = clientv3.GetPrefixRangeEnd(l.pool(name))
		if err := do(name); err != nil {
			return err
		}
	}
}

// NodeOf returns the node that has a subnet, "" if none has.
func (l *Ledger) NodeOf(ctx context.Context, pool string, s netip.Prefix) (string, error) {
	kvs, err := l.get(ctx, "subnet "+s.String(), l.subnet(pool, s))
	if err != nil || len(kvs) == 0 {
		return "", err
	}
	node, _ := l.record(kvs[0]).node()
	return node, nil
}

// Owners returns who has the addresses of a subnet. Of claims that can't be read the owner is not known.
func (l *Ledger) Owners(ctx context.Context, pool string, subnet netip.Prefix) (map[netip.Addr]ipam.Owner, error) {
	owners := map[netip.Addr]ipam.Owner{}
	err := l.eachKey(ctx, "claims", l.claimsIn(pool, subnet), func(kv *mvccpb.KeyValue) error {
		r := l.record(kv)
		c, err := r.claim()
		if !subnet.Contains(c.Addr) {
			return nil
		}
		owners[c.Addr] = c.Owner
		if err == nil {
			l.noteForeign(r, c.Owner)
		}
		return nil
	})
	return owners, err
}

// noteForeign keeps the value of a claim that this release would have written otherwise.
func (l *Ledger) noteForeign(r record, o ipam.Owner) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if string(r.value) == o.Value() {
		delete(l.foreign, r.key)
	} else {
		l.foreign[r.key] = string(r.value)
	}
}

// readAtOnce is how many claims are read in a transaction; etcd allows 128 operations.
const readAtOnce = 100

// Missing implements ipam.Ledger.
func (l *Ledger) Missing(ctx context.Context, claims []ipam.Claim) (missing []ipam.Claim, err error) {
	if len(claims) == 0 {
		return nil, nil
	}
	if err := l.Open(ctx); err != nil {
		return nil, err
	}
	for some := range slices.Chunk(claims, readAtOnce) {
		more, err := l.missing(ctx, some)
		if err != nil {
			return nil, err
		}
		missing = append(missing, more...)
	}
	return missing, nil
}

func (l *Ledger) missing(ctx context.Context, claims []ipam.Claim) (missing []ipam.Claim, err error) {
	gets := make([]clientv3.Op, len(claims))
	for i, c := range claims {
		s, err := l.findSubnet(ctx, c.Pool, c.Addr)
		if err != nil {
			return nil, err
		}
		gets[i] = clientv3.OpGet(l.claim(c.Pool, s, c.Addr))
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := l.kv.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, fmt.Errorf("read claims: %w: %w", txn.ErrUnavailable, err)
	}
	for i, c := range claims {
		kvs := resp.Responses[i].GetResponseRange().Kvs
		if len(kvs) > 0 {
			if have, err := l.record(kvs[0]).claim(); err == nil && have.Owner.SameInterface(c.Owner) {
				continue
			}
		}
		missing = append(missing, c)
	}
	return missing, nil
}

// NodeClaims implements ipam.Ledger.
func (l *Ledger) NodeClaims(ctx context.Context, pool string) ([]ipam.Claim, error) {
	if err := l.Open(ctx); err != nil {
		return nil, err
	}
	pools := []string{pool}
	if pool == "" {
		pools = l.pools()
	}
	var claims []ipam.Claim
	for _, name := range pools {
		for s, held := range l.known(name) {
			owners, err := l.Owners(ctx, name, s)
			if err != nil {
				return nil, err
			}
			for a, o := range owners {
				if held != 0 || o.Node == l.node {
					claims = append(claims, ipam.Claim{Pool: name, Addr: a, Owner: o})
				}
			}
		}
	}
	slices.SortFunc(claims, func(a, b ipam.Claim) int { return a.Compare(b) })
	return claims, nil
}

// pools are those of which this node has a subnet.
func (l *Ledger) pools() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.own))
}

// Holder implements ipam.Ledger.
func (l *Ledger) Holder(ctx context.Context, pool string, a netip.Addr) (ipam.Claim, error) {
	c := ipam.Claim{Pool: pool, Addr: a}
	if err := l.Open(ctx); err != nil {
		return c, err
	}
	s, err := l.findSubnet(ctx, pool, a)
	if err != nil {
		return c, err
	}
	for _, key := range []string{l.claim(pool, s, a), l.oldClaim(pool, a)} { // of another node that runs the release before
		kvs, err := l.get(ctx, "claim", key)
		if err != nil {
			return c, err
		}
		if len(kvs) > 0 {
			r := l.record(kvs[0])
			have, err := r.claim()
			if err == nil {
				l.noteForeign(r, have.Owner)
			}
			return have, nil
		}
	}
	return c, fmt.Errorf("address %s of pool %s: %w", a, pool, ipam.ErrNoClaim)
}

// Faults implements ipam.Ledger. It finds pools that overlap, as an older release let them, and records of this
// node that can't be read. It reads no other node's.
func (l *Ledger) Faults(ctx context.Context) ([]string, error) {
	var faults, names []string
	specs := map[string]ipam.Spec{}
	err := l.eachPool(ctx, func(name string) error {
		kvs, err := l.get(ctx, "pool "+name, l.spec(name))
		if err != nil || len(kvs) == 0 {
			return err
		}
		spec, err := ipam.ParseSpec(kvs[0].Value)
		if err != nil {
			faults = append(faults, l.damaged(name, err).Error())
			return nil
		}
		for _, other := range names {
			if err := spec.Clash(name, other, specs[other]); err != nil {
				faults = append(faults, err.Error())
			}
		}
		names, specs[name] = append(names, name), spec
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := l.Open(ctx); err != nil {
		return nil, err
	}
	for _, pool := range l.pools() {
		for s := range l.known(pool) {
			more, err := l.faultsIn(ctx, pool, s)
			if err != nil {
				return nil, err
			}
			faults = append(faults, more...)
		}
	}
	return faults, nil
}

// faultsIn says what is wrong with a subnet of this node.
func (l *Ledger) faultsIn(ctx context.Context, pool string, s netip.Prefix) (faults []string, err error) {
	kvs, err := l.get(ctx, "subnet "+s.String(), l.subnet(pool, s))
	if err != nil {
		return nil, err
	}
	claims := 0
	err = l.pages(ctx, "claims", l.claimsIn(pool, s), func(r record) error {
		claims++
		if _, err := r.claim(); err != nil {
			faults = append(faults, fmt.Sprintf("a claim can't be read (key %s: %v): its address is given to nobody; delete the key, and %s, once no pod has the address", r.key, err, l.claims(pool)+r.id))
		}
		return nil
	})
	if len(kvs) == 0 {
		if claims > 0 { // else the pool was removed
			faults = append(faults, fmt.Sprintf("subnet %s of pool %s is nobody's by etcd, and pods of this node have addresses of it: end them, or restore key %s", s, pool, l.subnet(pool, s)))
		}
	} else if node, err := l.record(kvs[0]).node(); err != nil {
		faults = append(faults, fmt.Sprintf("the record of a node's subnet can't be read (key %s: %v): no node is given the subnet; delete the key once no pod has an address of it", kvs[0].Key, err))
	} else if node != l.node && claims > 0 {
		faults = append(faults, fmt.Sprintf("subnet %s of pool %s is node %s's by etcd, and there are claims of this node in it, or have been: end those pods", s, pool, node))
	}
	return faults, err
}
