// Package node is the IPAM mode in which each node has a subnet of its own. A subnet and an
// address are claimed by creating their key in etcd, in a transaction that fails if it exists;
// choosing happens in memory, as no other node takes addresses of this node's subnet.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/ipam"
)

// readTimeout bounds what a first use of a pool reads from etcd.
const readTimeout = 10 * time.Second

// An Allocator hands out the addresses of one node's subnets, of any number of pools.
type Allocator struct {
	kv     clientv3.KV
	commit *etcd.Committer
	root   string // key prefix: <prefix>/ipam/
	guard  string // <prefix>/ipam-pools: the pool that was defined last
	node   string

	mu    sync.Mutex
	pools map[string]*pool
}

// pool is the node's part of a pool. Its lock covers a first use's reads from etcd.
type pool struct {
	mu      sync.Mutex
	spec    string
	subnets []*ipam.Subnet // one per network of the pool
}

// New returns an allocator for the node; prefix is etcd.prefix of the configuration.
func New(kv clientv3.KV, c *etcd.Committer, prefix, node string) *Allocator {
	return &Allocator{kv: kv, commit: c, root: prefix + "/ipam/", guard: prefix + "/ipam-pools", node: node, pools: map[string]*pool{}}
}

// A Reservation is a set of addresses chosen for one interface: not yet claimed in etcd, but given
// to nobody else meanwhile. Commit its Txn, or Cancel it.
type Reservation struct {
	Claims []ipam.Claim
	// Addrs are the addresses with their subnet's length, Gateways the subnets' gateways.
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	Pool     *ipam.Pool

	a      *Allocator
	chosen []netip.Addr // those that were not the owner's before
}

// Reserve chooses an address of each of the pool's networks: the requested ones, or any.
func (a *Allocator) Reserve(ctx context.Context, p *ipam.Pool, o ipam.Owner, requested []ipam.Request) (*Reservation, error) {
	o.Node = a.node
	st, err := a.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	r := &Reservation{Pool: p, a: a}
	left := slices.Clone(requested)
	for _, s := range st.subnets {
		var err error
		if left, err = r.reserve(s, o, left); err != nil {
			r.forget(st, o)
			return nil, err
		}
	}
	if len(left) > 0 {
		r.forget(st, o)
		return nil, a.outside(ctx, p, st, left[0].Addr)
	}
	return r, nil
}

func (r *Reservation) reserve(s *ipam.Subnet, o ipam.Owner, requested []ipam.Request) (left []ipam.Request, err error) {
	had := s.Of(o)
	var got []netip.Addr
	for _, want := range requested {
		if !s.Prefix.Contains(want.Addr) {
			left = append(left, want)
			continue
		}
		if err := s.Request(want, o); err != nil {
			return nil, err
		}
		got = append(got, want.Addr)
	}
	switch {
	case len(got) > 0:
	case len(had) > 0:
		got = had // an earlier try of the same interface
	default:
		a, err := s.Choose(o, time.Now())
		if err != nil {
			return nil, err
		}
		got = []netip.Addr{a}
	}
	for _, a := range got {
		if !slices.Contains(had, a) {
			r.chosen = append(r.chosen, a)
		}
		r.Claims = append(r.Claims, ipam.Claim{Pool: r.Pool.Name, Addr: a, Owner: s.Owner(a)})
		r.Addrs = append(r.Addrs, netip.PrefixFrom(a, s.Prefix.Bits()))
		r.Gateways = append(r.Gateways, s.Gateway)
	}
	return left, nil
}

func (r *Reservation) forget(st *pool, o ipam.Owner) {
	for _, a := range r.chosen {
		for _, s := range st.subnets {
			s.Forget(a, o)
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
		if taken, err := a.subnets(ctx, p.Name); err == nil && taken[subnet] != "" {
			whose = "node " + taken[subnet]
		}
		return ipam.Invalid("requested address %s of pool %s is in subnet %s of %s; node %s has %s",
			addr, p.Name, subnet, whose, a.node, prefixes(st))
	}
	return ipam.Invalid("requested address %s is outside pool %s (%s)", addr, p.Name, networks(p))
}

func prefixes(st *pool) string {
	var t []string
	for _, s := range st.subnets {
		t = append(t, s.Prefix.String())
	}
	return strings.Join(t, ", ")
}

func networks(p *ipam.Pool) string {
	var t []string
	for _, n := range p.Networks {
		t = append(t, n.Prefix.String())
	}
	return strings.Join(t, ", ")
}

// Txn claims the addresses. It conflicts when one of them has an owner in etcd that the allocator
// has not heard of; call Refresh and reserve again.
func (r *Reservation) Txn() etcd.Txn {
	var t etcd.Txn
	for _, c := range r.Claims {
		if slices.Contains(r.chosen, c.Addr) {
			t.If = append(t.If, etcd.Absent(r.a.key(c)))
		} else { // the owner has it already
			t.If = append(t.If, etcd.Holds(r.a.key(c), c.Owner.Value()))
		}
		t.Then = append(t.Then, clientv3.OpPut(r.a.key(c), c.Owner.Value()))
	}
	return t
}

// Cancel gives the addresses back that were never claimed.
func (r *Reservation) Cancel() {
	if st := r.a.known(r.Pool.Name); st != nil && len(r.Claims) > 0 {
		st.mu.Lock()
		r.forget(st, r.Claims[0].Owner)
		st.mu.Unlock()
	}
}

// Claim commits a reservation by itself; it chooses again when another owner turns up.
func (a *Allocator) Claim(ctx context.Context, p *ipam.Pool, o ipam.Owner, requested []ipam.Request) (*Reservation, error) {
	for try := 0; ; try++ {
		r, err := a.Reserve(ctx, p, o, requested)
		if err != nil {
			return nil, err
		}
		err = a.commit.Commit(ctx, r.Txn())
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, etcd.ErrConflict) || try == 3 {
			// The outcome may be unknown: take it back for sure.
			return nil, errors.Join(err, a.Release(context.WithoutCancel(ctx), r.Claims))
		}
		r.Cancel()
		if err := a.Refresh(ctx, p.Name); err != nil {
			return nil, err
		}
	}
}

// ReleaseOps are the operations that free the claims, each only if its owner still has it.
func (a *Allocator) ReleaseOps(claims []ipam.Claim) []clientv3.Op {
	var ops []clientv3.Op
	for _, c := range claims {
		ops = append(ops, etcd.DeleteIfValue(a.key(c), c.Owner.Value()))
	}
	return ops
}

// Released says that ReleaseOps were committed.
func (a *Allocator) Released(claims []ipam.Claim) {
	for _, c := range claims {
		st := a.known(c.Pool)
		if st == nil {
			continue
		}
		st.mu.Lock()
		for _, s := range st.subnets {
			s.Release(c.Addr, c.Owner, time.Now())
		}
		st.mu.Unlock()
	}
}

// Release frees the claims in a transaction of its own.
func (a *Allocator) Release(ctx context.Context, claims []ipam.Claim) error {
	if len(claims) == 0 {
		return nil
	}
	if err := a.commit.Commit(ctx, etcd.Txn{Then: a.ReleaseOps(claims)}); err != nil {
		return fmt.Errorf("release %d addresses: %w", len(claims), err)
	}
	a.Released(claims)
	return nil
}

// Owned returns the claims of one interface in the pool.
func (a *Allocator) Owned(ctx context.Context, p *ipam.Pool, o ipam.Owner) ([]ipam.Claim, error) {
	o.Node = a.node
	st, err := a.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	var claims []ipam.Claim
	for _, s := range st.subnets {
		for _, addr := range s.Of(o) {
			claims = append(claims, ipam.Claim{Pool: p.Name, Addr: addr, Owner: s.Owner(addr)})
		}
	}
	return claims, nil
}

// Persistent returns the claims of this node that IPAMClaims keep, of the pools in use.
func (a *Allocator) Persistent() []ipam.Claim {
	a.mu.Lock()
	pools := maps.Clone(a.pools)
	a.mu.Unlock()
	var claims []ipam.Claim
	for name, st := range pools {
		st.mu.Lock()
		for _, s := range st.subnets {
			claims = append(claims, s.Persistent(name)...)
		}
		st.mu.Unlock()
	}
	return claims
}

// Refresh forgets what is known of a pool, so that its next use reads it from etcd. Reservations
// under way are kept.
func (a *Allocator) Refresh(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st := a.known(name)
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, s := range st.subnets {
		claims, err := a.claims(ctx, name, s.Prefix)
		if err != nil {
			return err
		}
		for addr, o := range claims {
			s.Mark(addr, o)
		}
	}
	return nil
}

func (a *Allocator) known(name string) *pool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pools[name]
}

// open returns the pool, locked. On first use it settles the pool's spec and the node's subnets.
func (a *Allocator) open(ctx context.Context, p *ipam.Pool) (*pool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	a.mu.Lock()
	st := a.pools[p.Name]
	if st == nil {
		st = &pool{}
		a.pools[p.Name] = st
	}
	a.mu.Unlock()
	st.mu.Lock()
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

func (a *Allocator) settle(ctx context.Context, p *ipam.Pool, st *pool) error {
	if err := a.define(ctx, p.Name, p.Spec()); err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	subnets := make([]*ipam.Subnet, 0, len(p.Networks))
	for _, n := range p.Networks {
		prefix, err := a.subnet(ctx, p.Name, n)
		if err != nil {
			return err
		}
		claims, err := a.claims(ctx, p.Name, prefix)
		if err != nil {
			return err
		}
		subnets = append(subnets, ipam.NewSubnet(p, prefix, claims))
	}
	st.spec, st.subnets = p.Spec().Value(), subnets
	return nil
}

// subnet returns the node's subnet of a network: the one it has, or a new claim.
func (a *Allocator) subnet(ctx context.Context, poolName string, n ipam.Network) (netip.Prefix, error) {
	for {
		taken, err := a.subnets(ctx, poolName)
		if err != nil {
			return netip.Prefix{}, err
		}
		for s, node := range taken {
			if node == a.node && n.Prefix.Contains(s.Addr()) && s.Bits() == n.SubnetBits {
				return s, nil
			}
		}
		s, err := n.FirstFree(poolName, taken)
		if err != nil {
			return s, err
		}
		key := a.subnetKey(poolName, s)
		value, err := json.Marshal(subnetValue{Node: a.node})
		if err != nil {
			return s, err
		}
		err = a.commit.Commit(ctx, etcd.Txn{If: []clientv3.Cmp{etcd.Absent(key)}, Then: []clientv3.Op{clientv3.OpPut(key, string(value))}})
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, etcd.ErrConflict) {
			return s, fmt.Errorf("claim subnet %s of pool %s: %w", s, poolName, err)
		}
	}
}
