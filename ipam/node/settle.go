package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// open returns the pool, locked, and settled by p's specification. It settles it as often as the pool is
// redefined or removed, or another node is faster, meanwhile.
func (a *Allocator) open(ctx context.Context, p *ipam.Pool) (*pool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st, settled := a.lock(p.Name), false
	defer func() {
		if !settled { // or it has panicked, which the servers survive
			st.mu.Unlock()
		}
	}()
	for spec := p.Value(); st.spec != spec; {
		if err := a.settle(ctx, p, st); err != nil && !errors.Is(err, txn.ErrConflict) {
			return nil, err
		}
	}
	settled = true
	return st, nil
}

// settle defines the pool and claims this node's subnets of it. If it fails halfway, some subnets go by p's
// rules already, but nothing is claimed by them: the revision that the pool is settled by is no longer that
// of the specification in etcd.
func (a *Allocator) settle(ctx context.Context, p *ipam.Pool, st *pool) error {
	if err := failpoint.Hit("pool-define"); err != nil {
		return err
	}
	revision, err := a.ledger.Define(ctx, p.Name, p.Spec)
	if err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	if err := a.ledger.Verify(ctx, p.Name); err != nil {
		return err
	}
	if err := failpoint.Hit("pool-defined"); err != nil {
		return err
	}
	subnets := make([]*ipam.Subnet, len(p.Networks))
	for i, n := range p.Networks {
		prefix, err := a.subnet(ctx, n, st, revision)
		if err != nil {
			return err
		}
		owners, err := a.ledger.Owners(ctx, p.Name, prefix)
		if err != nil {
			return err
		}
		subnets[i] = a.keep(st, p, prefix, owners)
	}
	a.mu.Lock()
	a.cooldowns[p.Name] = p.Cooldown
	a.mu.Unlock()
	if err := failpoint.Hit("subnets-claimed"); err != nil {
		return err
	}
	st.spec, st.revision, st.subnets = p.Value(), revision, subnets
	return nil
}

// keep returns the subnet with what it had: reservations under way, and addresses that rest.
func (a *Allocator) keep(st *pool, p *ipam.Pool, prefix netip.Prefix, owners map[netip.Addr]ipam.Owner) *ipam.Subnet {
	for _, s := range st.subnets {
		if s.Prefix == prefix {
			s.Follow(p)
			s.Mark(owners)
			return s
		}
	}
	return a.newSubnet(p, prefix, owners)
}

// subnet returns the node's subnet of a network: the one it has, or a new claim, if it can be of the one
// that it had before the pool was removed.
func (a *Allocator) subnet(ctx context.Context, n ipam.Network, st *pool, revision int64) (netip.Prefix, error) {
	for _, s := range slices.SortedFunc(slices.Values(a.ledger.Mine(st.name)), netip.Prefix.Compare) {
		if n.Offers(s) {
			return s, nil
		}
	}
	for _, had := range st.subnets {
		if !n.Offers(had.Prefix) {
			continue
		}
		if err := a.ledger.ClaimSubnet(ctx, st.name, had.Prefix, revision); !errors.Is(err, txn.ErrConflict) {
			return had.Prefix, err
		}
	}
	if err := failpoint.Hit("subnet-claim"); err != nil {
		return netip.Prefix{}, err
	}
	return a.ledger.TakeSubnet(ctx, st.name, n, revision)
}
