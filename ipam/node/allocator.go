// Package node is the IPAM mode in which each node has a subnet of its own. Choosing an address happens
// in memory, as no other node takes addresses of this node's subnet.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
)

// readTimeout bounds what a first use of a pool reads from etcd.
const readTimeout = 10 * time.Second

// An Allocator hands out the addresses of one node's subnets, of any number of pools.
type Allocator struct {
	ledger *ledger.Ledger

	resting *journal
	log     *slog.Logger

	mu        sync.Mutex
	pools     map[string]*pool
	cooldowns map[string]time.Duration // of the pools in use
}

// pool is the node's part of a pool. Its lock covers a first use's reads from etcd.
type pool struct {
	name string

	mu       sync.Mutex
	spec     string // the specification that it is settled by; empty if it is not settled
	revision int64  // of that specification in etcd
	// subnets are one per network of a settled pool, and else what this node has; nil if none were read.
	subnets []*ipam.Subnet
}

// New returns an allocator for the ledger's node. It keeps the addresses that rest in a file, or with an empty path
// in memory only.
func New(l *ledger.Ledger, file string, log *slog.Logger) (*Allocator, error) {
	j, err := openJournal(file, log)
	if err != nil {
		return nil, fmt.Errorf("addresses that rest: %w", err)
	}
	return &Allocator{ledger: l, resting: j, log: log, pools: map[string]*pool{}, cooldowns: map[string]time.Duration{}}, nil
}

// A hold is the mode's part of a reservation.
type hold struct {
	ledger   *ledger.Ledger
	pool     *pool
	owner    ipam.Owner
	revision int64 // of the spec that the addresses were chosen by
	claims   []ipam.Claim
	bits     []int
	gateways []netip.Addr
	chosen   []netip.Addr // those that were not the owner's before
}

// Reserve implements ipam.Mode.
func (a *Allocator) Reserve(ctx context.Context, p *ipam.Pool, o ipam.Owner, requested []ipam.Request) (*ipam.Reservation, error) {
	o.Node = a.ledger.Node()
	if err := failpoint.Hit("ipam-reserve"); err != nil {
		return nil, err
	}
	st, err := a.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	h := &hold{ledger: a.ledger, pool: st, owner: o, revision: st.revision}
	left := requested
	for _, s := range st.subnets {
		if left, err = h.take(s, left); err != nil {
			h.forget()
			return nil, err
		}
	}
	if len(left) > 0 {
		h.forget()
		return nil, a.outside(ctx, p, st, left[0].Addr)
	}
	return ipam.NewReservation(p, h.claims, h.bits, h.gateways, h), nil
}

// take takes those of the requested addresses that are in a subnet. If none are, it takes what the owner has
// there already, or else any. What is requested elsewhere is left.
func (h *hold) take(s *ipam.Subnet, requested []ipam.Request) (left []ipam.Request, err error) {
	var had, got []netip.Addr
	for _, c := range s.Claims(h.owner.SameInterface) {
		had = append(had, c.Addr)
	}
	for _, want := range requested {
		if !s.Prefix.Contains(want.Addr) {
			left = append(left, want)
			continue
		}
		if err := s.Request(want, h.owner); err != nil {
			return nil, err
		}
		got = append(got, want.Addr)
		if !slices.Contains(had, want.Addr) {
			h.chosen = append(h.chosen, want.Addr)
		}
	}
	switch {
	case len(got) > 0:
	case len(had) > 0:
		got = had // an earlier try of the same interface
	default:
		a, err := s.Choose(h.owner, time.Now())
		if err != nil {
			return nil, err
		}
		got, h.chosen = []netip.Addr{a}, append(h.chosen, a)
	}
	for _, a := range got {
		h.claims = append(h.claims, ipam.Claim{Pool: h.pool.name, Addr: a, Owner: s.Owner(a)})
		h.bits, h.gateways = append(h.bits, s.Prefix.Bits()), append(h.gateways, s.Gateway)
	}
	return left, nil
}

// forget gives back what was chosen.
func (h *hold) forget() {
	for _, a := range h.chosen {
		for _, s := range h.pool.subnets {
			s.Forget(a, h.owner)
		}
	}
}

// outside says why a requested address is in no subnet of this node.
func (a *Allocator) outside(ctx context.Context, p *ipam.Pool, st *pool, addr netip.Addr) error {
	for _, n := range p.Networks {
		if !n.Prefix.Contains(addr) {
			continue
		}
		subnet := netip.PrefixFrom(addr, n.SubnetBits).Masked()
		whose := "no node"
		if node, err := a.ledger.NodeOf(ctx, p.Name, subnet); err == nil && node != "" {
			whose = "node " + node
		}
		return ipam.Invalid("requested address %s of pool %s is in subnet %s of %s; node %s has %s",
			addr, p.Name, subnet, whose, a.ledger.Node(), prefixes(st.subnets, func(s *ipam.Subnet) netip.Prefix { return s.Prefix }))
	}
	return ipam.Invalid("requested address %s is outside pool %s (%s)",
		addr, p.Name, prefixes(p.Networks, func(n ipam.Network) netip.Prefix { return n.Prefix }))
}

func prefixes[T any](all []T, of func(T) netip.Prefix) string {
	var t []string
	for _, x := range all {
		t = append(t, of(x).String())
	}
	return strings.Join(t, ", ")
}

// Txn implements ipam.Hold. It conflicts, too, when the pool has been redefined or removed meanwhile, with
// this node's subnets.
func (h *hold) Txn() txn.Txn {
	return h.ledger.Claiming(h.pool.name, h.revision, h.claims, h.chosen)
}

// Cancel implements ipam.Hold.
func (h *hold) Cancel() {
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	h.forget()
}

// Releasing implements ipam.Mode: it writes down that the addresses are going to rest.
func (a *Allocator) Releasing(claims []ipam.Claim) {
	err := a.resting.note(claims, func(pool string) time.Duration {
		a.mu.Lock()
		defer a.mu.Unlock()
		cooldown, known := a.cooldowns[pool]
		if !known { // no pod has asked for an address since the start
			return maxRest
		}
		return max(cooldown, ipam.DefaultCooldown)
	})
	if err != nil { // they rest as long as the daemon runs
		a.log.Error("addresses that are freed may be given out again too early after a restart", "error", err)
	}
}

// Released implements ipam.Mode: the addresses rest.
func (a *Allocator) Released(claims []ipam.Claim) {
	for _, c := range claims {
		st := a.lock(c.Pool)
		for _, s := range st.subnets {
			s.Release(c.Addr, c.Owner, time.Now())
		}
		st.mu.Unlock()
	}
}

// Owned implements ipam.Mode.
func (a *Allocator) Owned(ctx context.Context, poolName string, o ipam.Owner) ([]ipam.Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st := a.lock(poolName)
	defer st.mu.Unlock()
	if st.subnets == nil {
		if err := a.load(ctx, st); err != nil {
			return nil, err
		}
	}
	return st.claims(o.SameInterface), nil
}

// load reads what this node has of a pool. It is kept, so that what is freed before the pool is settled
// rests afterwards.
func (a *Allocator) load(ctx context.Context, st *pool) error {
	if err := a.ledger.Open(ctx); err != nil {
		return err
	}
	subnets := []*ipam.Subnet{}
	for _, prefix := range a.ledger.Mine(st.name) {
		claims, err := a.ledger.Owners(ctx, st.name, prefix)
		if err != nil {
			return err
		}
		subnets = append(subnets, a.newSubnet(&ipam.Pool{Name: st.name}, prefix, claims))
	}
	st.subnets = subnets
	return nil
}

// newSubnet returns a subnet in which those addresses rest that were freed shortly before the start, or since.
func (a *Allocator) newSubnet(p *ipam.Pool, prefix netip.Prefix, claims map[netip.Addr]ipam.Owner) *ipam.Subnet {
	s := ipam.NewSubnet(p, prefix, claims)
	for addr, freed := range a.resting.rests(p.Name) {
		if prefix.Contains(addr) {
			s.Rest(addr, freed)
		}
	}
	return s
}

// Persistent implements ipam.Mode.
func (a *Allocator) Persistent() []ipam.Claim {
	a.mu.Lock()
	pools := maps.Clone(a.pools)
	a.mu.Unlock()
	var claims []ipam.Claim
	for _, st := range pools {
		st.mu.Lock()
		claims = append(claims, st.claims(func(o ipam.Owner) bool { return o.IPAMClaim != "" })...)
		st.mu.Unlock()
	}
	return claims
}

// claims returns the claims of the owners that are wanted.
func (st *pool) claims(wanted func(ipam.Owner) bool) []ipam.Claim {
	var claims []ipam.Claim
	for _, s := range st.subnets {
		claims = append(claims, s.Claims(wanted)...)
	}
	return claims
}

// Refresh implements ipam.Mode. If the pool is no longer what it was, its next use settles it again.
// Reservations under way are kept.
func (a *Allocator) Refresh(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st := a.lock(name)
	defer st.mu.Unlock()
	revision, err := a.ledger.Revision(ctx, name)
	if err != nil {
		return err
	}
	if err := a.ledger.Verify(ctx, name); err != nil {
		return err
	}
	mine := a.ledger.Mine(name)
	for _, s := range st.subnets {
		if revision != st.revision || !slices.Contains(mine, s.Prefix) {
			st.spec = ""
			return nil
		}
		claims, err := a.ledger.Owners(ctx, name, s.Prefix)
		if err != nil {
			return err
		}
		s.Mark(claims)
	}
	return nil
}

// lock returns the pool, locked.
func (a *Allocator) lock(name string) *pool {
	a.mu.Lock()
	st := a.pools[name]
	if st == nil {
		st = &pool{name: name}
		a.pools[name] = st
	}
	a.mu.Unlock()
	st.mu.Lock()
	return st
}
