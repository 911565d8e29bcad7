package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

const (
	firstProbes = 8  // how many subnets are looked at in the first transaction; twice as many in each further one,
	mostProbes  = 64 // up to this
	windows     = 10 // how many such transactions there are before all subnets are read
)

// TakeSubnet claims a free subnet of a network for this node, for a pool whose specification is that of the revision.
// The first node of a pool takes the first one. For others the search begins at a place that follows from the node's
// name, so that nodes that start together don't fight for one subnet after the other. A subnet that the node turns out
// to have already is taken.
func (l *Ledger) TakeSubnet(ctx context.Context, pool string, n ipam.Network, revision int64) (netip.Prefix, error) {
	if s, err := l.takeVeryFirst(ctx, pool, n, revision); err != nil || s.IsValid() {
		return s, err
	}
	count := n.Subnets()
	begin := place(l.node) % count
	looked := uint64(0)
	for window := range windows {
		if looked == count {
			return netip.Prefix{}, exhausted(pool, n)
		}
		var some []netip.Prefix
		for ; looked < count && len(some) < min(firstProbes<<window, mostProbes); looked++ {
			some = append(some, n.Subnet((begin+looked)%count))
		}
		free, err := l.probe(ctx, pool, some)
		if err != nil {
			return netip.Prefix{}, err
		}
		if s, err := l.takeFirst(ctx, pool, free, revision); err != nil || s.IsValid() {
			return s, err
		}
	}
	return l.takeAny(ctx, pool, n, revision, (begin+looked)%count)
}

// takeVeryFirst claims the first subnet of a network, if no other node has one of the pool.
func (l *Ledger) takeVeryFirst(ctx context.Context, pool string, n ipam.Network, revision int64) (netip.Prefix, error) {
	mine := len(l.Mine(pool)) // of the pool's networks before
	taken, err := l.get(ctx, "subnets of pool "+pool, l.subnets(pool), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(mine+1)))
	if err != nil || len(taken) > mine {
		return netip.Prefix{}, err
	}
	return l.takeFirst(ctx, pool, []netip.Prefix{n.Subnet(0)}, revision)
}

func exhausted(pool string, n ipam.Network) error {
	return fmt.Errorf("pool %s: %w subnet: all %d /%d subnets of %s belong to nodes", pool, ipam.ErrExhausted, n.Subnets(), n.SubnetBits, n.Prefix)
}

// place is a number that follows from the name.
func place(node string) uint64 {
	sum := sha256.Sum256([]byte(node))
	return binary.BigEndian.Uint64(sum[:]) >> 1 // so that what is looked at next has a number, too
}

// probe returns those of the subnets that are free, or this node's.
func (l *Ledger) probe(ctx context.Context, pool string, some []netip.Prefix) (free []netip.Prefix, err error) {
	gets := make([]clientv3.Op, len(some))
	for i, s := range some {
		gets[i] = clientv3.OpGet(l.subnet(pool, s))
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := l.kv.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, fmt.Errorf("read subnets of pool %s: %w: %w", pool, txn.ErrUnavailable, err)
	}
	for i, s := range some {
		kvs := resp.Responses[i].GetResponseRange().Kvs
		if len(kvs) == 0 {
			free = append(free, s)
		} else if node, _ := l.record(kvs[0]).node(); node == l.node {
			free = append([]netip.Prefix{s}, free...)
		}
	}
	return free, nil
}

// takeFirst claims the first subnet that no other node claims meanwhile; none if they all did.
func (l *Ledger) takeFirst(ctx context.Context, pool string, free []netip.Prefix, revision int64) (netip.Prefix, error) {
	for _, s := range free {
		err := l.ClaimSubnet(ctx, pool, s, revision)
		if !errors.Is(err, txn.ErrConflict) {
			return s, err
		}
		if now, err := l.Revision(ctx, pool); err != nil || now != revision {
			return netip.Prefix{}, errors.Join(err, txn.ErrConflict)
		}
		if node, err := l.NodeOf(ctx, pool, s); err != nil || node == l.node {
			return s, errors.Join(err, l.verify(ctx, pool, []netip.Prefix{s}))
		}
	}
	return netip.Prefix{}, nil
}

// takeAny claims a subnet of a network of which few are free: it reads which ones are taken.
func (l *Ledger) takeAny(ctx context.Context, pool string, n ipam.Network, revision int64, begin uint64) (netip.Prefix, error) {
	taken := map[netip.Prefix]bool{}
	err := l.pages(ctx, "the subnets of pool "+pool, l.subnets(pool), func(r record) error {
		if s, err := netip.ParsePrefix(r.id); err == nil {
			taken[s] = true
		}
		return nil
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	count := n.Subnets()
	for i := range count {
		s := n.Subnet((begin + i) % count)
		if taken[s] {
			continue
		}
		if s, err := l.takeFirst(ctx, pool, []netip.Prefix{s}, revision); err != nil || s.IsValid() {
			return s, err
		}
	}
	return netip.Prefix{}, exhausted(pool, n)
}
