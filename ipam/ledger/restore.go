package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Restore writes a pool, this node's subnet of it, and claims in the subnet back into an etcd that has lost them. What
// is there already stays as it is; conflicts say what of it is not as it was: the pool has other values, the subnet
// is another node's, an address has another owner. Where the pool or the subnet conflicts, no claim is written.
func (l *Ledger) Restore(ctx context.Context, pool string, spec ipam.Spec, subnet netip.Prefix, claims []ipam.Claim) (conflicts []string, err error) {
	if err := l.Open(ctx); err != nil {
		return nil, err
	}
	for {
		revision, err := l.Define(ctx, pool, spec)
		if errors.Is(err, ipam.ErrInvalid) {
			return []string{fmt.Sprintf("pool %s: %v", pool, err)}, nil
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(l.Mine(pool), subnet) {
			s, err := l.takeFirst(ctx, pool, []netip.Prefix{subnet}, revision)
			switch {
			case errors.Is(err, txn.ErrConflict): // the pool has changed meanwhile
				continue
			case err != nil:
				return nil, err
			case !s.IsValid():
				node, err := l.NodeOf(ctx, pool, subnet)
				return []string{fmt.Sprintf("subnet %s of pool %s is node %s's", subnet, pool, node)}, err
			}
		}
		return l.restoreClaims(ctx, pool, revision, claims)
	}
}

func (l *Ledger) restoreClaims(ctx context.Context, pool string, revision int64, claims []ipam.Claim) (conflicts []string, err error) {
	for _, c := range claims {
		t := l.Claiming(pool, revision, []ipam.Claim{c}, []netip.Addr{c.Addr})
		if err := l.Commit(ctx, t.(etcd.Txn)); !errors.Is(err, txn.ErrConflict) {
			if err != nil {
				return conflicts, err
			}
			continue
		}
		switch have, err := l.Holder(ctx, pool, c.Addr); {
		case errors.Is(err, ipam.ErrNoClaim): // its subnet or the pool is gone again
			conflicts = append(conflicts, fmt.Sprintf("address %s of pool %s: its subnet is no longer this node's", c.Addr, pool))
		case err != nil:
			return conflicts, err
		case !have.Owner.SameInterface(c.Owner):
			conflicts = append(conflicts, fmt.Sprintf("address %s of pool %s has %s, and had %s", c.Addr, pool, have.Owner, c.Owner))
		}
	}
	return conflicts, nil
}
