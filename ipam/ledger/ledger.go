// Package ledger is where every key and every transaction of IPAM in etcd is made. The keys, below
// <prefix>/ipam/:
//
//	<pool>/spec             the pool, the same for every node
//	<pool>/subnets/<cidr>   the node that has the subnet
//	<pool>/ips/<ip>         the owner of the address
//
// and <prefix>/ipam-pools, which orders those who define pools. A subnet and an address are claimed by
// creating their key, in a transaction that fails if it exists.
package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// readTimeout bounds what is read at a time: etcd may be away.
const readTimeout = 10 * time.Second

// A Ledger is IPAM's part of etcd, as a node uses it.
type Ledger struct {
	*etcd.Committer // applies the ledger's transactions, too, that others put together
	kv              clientv3.KV
	root            string // <prefix>/ipam/
	guard           string // <prefix>/ipam-pools: the pool that was defined last
	node            string
}

// New returns the ledger for a node; prefix is etcd.prefix of the configuration.
func New(kv clientv3.KV, c *etcd.Committer, prefix, node string) *Ledger {
	return &Ledger{Committer: c, kv: kv, root: prefix + "/ipam/", guard: prefix + "/ipam-pools", node: node}
}

// Node implements ipam.Ledger.
func (l *Ledger) Node() string { return l.node }

// ClaimSubnet gives a subnet of a pool to this node, if nobody has it and the pool's specification is
// still that of the revision; else the error is txn.ErrConflict.
func (l *Ledger) ClaimSubnet(ctx context.Context, pool string, s netip.Prefix, revision int64) error {
	value, _ := json.Marshal(subnetValue{Node: l.node}) // a string always marshals
	key := l.subnetKey(pool, s)
	err := l.Commit(ctx, etcd.Txn{}.IfAbsent(key).IfRevision(l.specKey(pool), revision).Put(key, string(value)))
	if err != nil {
		return fmt.Errorf("claim subnet %s of pool %s: %w", s, pool, err)
	}
	return nil
}

// Claiming makes claims in a pool whose specification is that of the revision. It conflicts when an
// address has another owner, a new one any owner, and when the pool has been redefined or removed
// meanwhile, even if it is there again.
func (l *Ledger) Claiming(pool string, revision int64, claims []ipam.Claim, isNew []netip.Addr) txn.Txn {
	t := etcd.Txn{}.IfRevision(l.specKey(pool), revision)
	for _, c := range claims {
		if slices.Contains(isNew, c.Addr) {
			t = t.IfAbsent(l.claimKey(c))
		} else { // the owner has it already
			t = t.IfHolds(l.claimKey(c), c.Owner.Value())
		}
		t = t.Put(l.claimKey(c), c.Owner.Value())
	}
	return t
}

// Releasing implements ipam.Ledger.
func (l *Ledger) Releasing(claims []ipam.Claim) txn.Txn {
	var t etcd.Txn
	known := 0
	for _, c := range claims {
		if c.Owner.Known() {
			t = t.DeleteIfHolds(l.claimKey(c), c.Owner.Value())
			known++
		}
	}
	if known == 0 {
		return nil
	}
	return t
}
