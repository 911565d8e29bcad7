package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// open returns the pool, locked. On first use it settles the pool's spec and the node's subnets.
func (a *Allocator) open(ctx context.Context, p *ipam.Pool) (*pool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st := a.lock(p.Name)
	if st.spec == p.Spec().Value() {
		return st, nil
	}
	err := a.settle(ctx, p, st)
	if err != nil {
		st.mu.Unlock()
		return nil, err
	}
	return st, nil
}

// settle defines the pool and claims this node's subnets of it, as often as the pool is redefined or
// removed, or another node is faster, meanwhile.
func (a *Allocator) settle(ctx context.Context, p *ipam.Pool, st *pool) error {
	for {
		if err := a.trySettle(ctx, p, st); !errors.Is(err, txn.ErrConflict) {
			return err
		}
	}
}

func (a *Allocator) trySettle(ctx context.Context, p *ipam.Pool, st *pool) error {
	revision, err := a.ledger.Define(ctx, p.Name, p.Spec())
	if err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	prefixes := make([]netip.Prefix, len(p.Networks))
	owners := make([]map[netip.Addr]ipam.Owner, len(p.Networks))
	for i, n := range p.Networks {
		if prefixes[i], err = a.subnet(ctx, p.Name, n, st, revision); err != nil {
			return err
		}
		if owners[i], err = a.ledger.Owners(ctx, p.Name, prefixes[i]); err != nil {
			return err
		}
	}
	subnets := make([]*ipam.Subnet, len(p.Networks))
	for i, prefix := range prefixes {
		subnets[i] = st.keep(p, prefix, owners[i])
	}
	st.spec, st.revision, st.subnets = p.Spec().Value(), revision, subnets
	return nil
}

// keep returns the subnet with what it had: reservations under way, and addresses that rest.
func (st *pool) keep(p *ipam.Pool, prefix netip.Prefix, owners map[netip.Addr]ipam.Owner) *ipam.Subnet {
	for _, s := range st.subnets {
		if s.Prefix == prefix {
			s.Follow(p)
			for addr, o := range owners {
				s.Mark(addr, o)
			}
			return s
		}
	}
	return ipam.NewSubnet(p, prefix, owners)
}

// subnet returns the node's subnet of a network: the one it has, or a new claim, if it can be of the one
// that it had before the pool was removed.
func (a *Allocator) subnet(ctx context.Context, poolName string, n ipam.Network, st *pool, revision int64) (netip.Prefix, error) {
	taken, err := a.ledger.Subnets(ctx, poolName)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, s := range slices.SortedFunc(maps.Keys(taken), netip.Prefix.Compare) {
		if taken[s] == a.ledger.Node() && n.Offers(s) {
			return s, nil
		}
	}
	s, err := n.FirstFree(poolName, taken)
	if err != nil {
		return s, err
	}
	for _, had := range st.subnets {
		if n.Offers(had.Prefix) && taken[had.Prefix] == "" {
			s = had.Prefix
		}
	}
	return s, a.ledger.ClaimSubnet(ctx, poolName, s, revision)
}
