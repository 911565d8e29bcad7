// Package ledger is where every key and every transaction of IPAM in etcd is made. The keys, below
// <prefix>/:
//
//	ipam/<pool>/spec                the pool, the same for every node
//	ipam/<pool>/subnets/<cidr>      the node that has the subnet
//	ipam/<pool>/ips/<cidr>/<ip>     the owner of the address, below its subnet
//	ipam/<pool>/ips/<ip>            the same, as the release before has it
//	subnets/<node>/<pool>/<cidr>    what a node has, for it to find
//	version                         the layout of all of this
//
// and ipam-pools, which orders those who define pools. A subnet and an address are claimed by creating their key,
// in a transaction that fails if it exists; an address only as long as the subnet is still the node's.
package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// readTimeout bounds what is read at a time: etcd may be away.
const readTimeout = 10 * time.Second

// A Ledger is IPAM's part of etcd, as a node uses it. It knows the node's subnets.
type Ledger struct {
	*etcd.Committer // applies the ledger's transactions, too, that others put together
	keys
	kv   clientv3.KV
	node string

	opening chan struct{} // held by who opens

	mu     sync.Mutex
	opened bool
	// own are this node's subnets of each pool, with the revisions of their keys: 0 if another node has the
	// subnet by now, or nobody, while there are claims of this node in it.
	own map[string]map[netip.Prefix]int64
	// foreign are the values of claims that this release would have written otherwise, by their keys.
	foreign map[string]string
}

// New returns the ledger for a node; prefix is etcd.prefix of the configuration.
func New(kv clientv3.KV, c *etcd.Committer, prefix, node string) *Ledger {
	return &Ledger{Committer: c, keys: keysBelow(prefix, node), kv: kv, node: node, opening: make(chan struct{}, 1),
		own: map[string]map[netip.Prefix]int64{}, foreign: map[string]string{}}
}

// Node implements ipam.Ledger.
func (l *Ledger) Node() string { return l.node }

// ClaimSubnet gives a subnet of a pool to this node, if nobody has it and the pool's specification is
// still that of the revision; else the error is txn.ErrConflict.
func (l *Ledger) ClaimSubnet(ctx context.Context, pool string, s netip.Prefix, revision int64) error {
	value := l.subnetValue()
	err := l.Commit(ctx, etcd.Txn{}.IfAbsent(l.subnet(pool, s)).IfRevision(l.spec(pool), revision).
		Put(l.subnet(pool, s), value).Put(l.indexed(l.node, pool, s), value))
	if err == nil {
		err = l.verify(ctx, pool, []netip.Prefix{s})
	}
	if err != nil {
		return fmt.Errorf("claim subnet %s of pool %s: %w", s, pool, err)
	}
	return nil
}

func (l *Ledger) subnetValue() string {
	value, _ := json.Marshal(subnetValue{Node: l.node}) // a string always marshals
	return string(value)
}

// Claiming makes claims in a pool whose specification is that of the revision. It conflicts when an
// address has another owner, a new one any owner, when a subnet is no longer this node's, and when the pool
// has been redefined or removed meanwhile, even if it is there again.
func (l *Ledger) Claiming(pool string, revision int64, claims []ipam.Claim, isNew []netip.Addr) txn.Txn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := etcd.Txn{}.IfRevision(l.spec(pool), revision)
	for _, c := range claims {
		s, held := l.subnetOf(pool, c.Addr)
		if held == 0 {
			held = never
		}
		t = t.IfRevision(l.subnet(pool, s), held)
		key := l.claim(pool, s, c.Addr)
		if !slices.Contains(isNew, c.Addr) { // the owner has it already
			t = t.IfHolds(key, l.written(key, c.Owner))
			continue
		}
		delete(l.foreign, key)
		t = t.IfAbsent(key).Put(key, c.Owner.Value()).Put(l.oldClaim(pool, c.Addr), c.Owner.Value())
	}
	return t
}

// never is a revision that no key has.
const never = -1

// written is the value of a claim by its owner: a newer release may have put fields into it that we don't know.
func (l *Ledger) written(key string, o ipam.Owner) string {
	if value, ok := l.foreign[key]; ok {
		var have ipam.Owner
		if (record{value: []byte(value)}).decode(&have) == nil && have.SameInterface(o) {
			return value
		}
	}
	return o.Value()
}

// Releasing implements ipam.Ledger.
func (l *Ledger) Releasing(ctx context.Context, claims []ipam.Claim) (txn.Txn, error) {
	known := slices.DeleteFunc(slices.Clone(claims), func(c ipam.Claim) bool { return !c.Owner.Known() })
	if len(known) == 0 {
		return nil, nil
	}
	if err := l.Open(ctx); err != nil {
		return nil, err
	}
	var t etcd.Txn
	for _, c := range known {
		s, err := l.findSubnet(ctx, c.Pool, c.Addr)
		if err != nil {
			return nil, err
		}
		if !s.IsValid() { // as the release before kept it, in a pool that is gone
			t = t.DeleteIfHolds(l.oldClaim(c.Pool, c.Addr), c.Owner.Value())
			continue
		}
		key := l.claim(c.Pool, s, c.Addr)
		l.mu.Lock()
		value := l.written(key, c.Owner)
		l.mu.Unlock()
		t = t.DeleteIfHolds(key, value, l.oldClaim(c.Pool, c.Addr))
	}
	return t, nil
}

// subnetOf returns the subnet of this node that has the address, and the revision of its key, 0 if it is no longer
// this node's.
func (l *Ledger) subnetOf(pool string, a netip.Addr) (netip.Prefix, int64) {
	for s, revision := range l.own[pool] {
		if s.Contains(a) {
			return s, revision
		}
	}
	return netip.Prefix{}, 0
}

// findSubnet returns the subnet that an address lies in, one of this node or else by the pool's specification;
// none if there is no such pool, or it has no such address.
func (l *Ledger) findSubnet(ctx context.Context, pool string, a netip.Addr) (netip.Prefix, error) {
	l.mu.Lock()
	s, _ := l.subnetOf(pool, a)
	l.mu.Unlock()
	if s.IsValid() {
		return s, nil
	}
	kvs, err := l.get(ctx, "pool "+pool, l.spec(pool))
	if err != nil || len(kvs) == 0 {
		return s, err
	}
	spec, err := ipam.ParseSpec(kvs[0].Value)
	if err != nil {
		return s, l.damaged(pool, err)
	}
	return subnetIn(spec, a), nil
}
