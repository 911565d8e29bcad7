// Package node is the IPAM mode in which each node has a subnet of its own. A subnet and an
// address are claimed by creating their key in etcd, in a transaction that fails if it exists;
// choosing happens in memory, as no other node takes addresses of this node's subnet.
package node

import (
	"context"
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
	mu       sync.Mutex
	spec     string // what it is settled by; empty if it is not
	revision int64  // of the spec's key then
	// subnets are one per network of a settled pool, and else what this node has; nil if none were read.
	subnets []*ipam.Subnet
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

	a        *Allocator
	revision int64        // of the spec that the addresses were chosen by
	chosen   []netip.Addr // those that were not the owner's before
}

// Reserve chooses an address of each of the pool's networks: the requested ones, or any.
func (a *Allocator) Reserve(ctx context.Context, p *ipam.Pool, o ipam.Owner, requested []ipam.Request) (*Reservation, error) {
	o.Node = a.node
	st, err := a.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	r := &Reservation{Pool: p, a: a, revision: st.revision}
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
// has not heard of, and when the pool has been redefined or removed meanwhile, with this node's subnets,
// even if it is there again; call Refresh and reserve again.
func (r *Reservation) Txn() etcd.Txn {
	t := etcd.Txn{If: []clientv3.Cmp{r.a.specIs(r.Pool.Name, r.revision)}}
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
		if c.Owner.Known() {
			ops = append(ops, etcd.DeleteIfValue(a.key(c), c.Owner.Value()))
		}
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

// Owned returns the claims of one interface in the pool, or in all pools if the name is empty. It defines
// no pool and takes no subnet: what a pod ends with does not depend on what its pool is by now.
func (a *Allocator) Owned(ctx context.Context, poolName string, o ipam.Owner) ([]ipam.Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	o.Node = a.node
	if poolName == "" {
		all, err := a.Claims(ctx, "")
		return slices.DeleteFunc(all, func(c ipam.Claim) bool { return !c.Owner.SameInterface(o) }), err
	}
	st := a.lock(poolName)
	defer st.mu.Unlock()
	if st.subnets == nil {
		if err := a.load(ctx, poolName, st); err != nil {
			return nil, err
		}
	}
	var claims []ipam.Claim
	for _, s := range st.subnets {
		for _, addr := range s.Of(o) {
			claims = append(claims, ipam.Claim{Pool: poolName, Addr: addr, Owner: s.Owner(addr)})
		}
	}
	return claims, nil
}

// load reads what this node has of a pool. It is kept, so that what is freed before the pool is settled
// rests afterwards.
func (a *Allocator) load(ctx context.Context, poolName string, st *pool) error {
	taken, err := a.subnets(ctx, poolName)
	if err != nil {
		return err
	}
	subnets := []*ipam.Subnet{}
	for prefix, node := range taken {
		if node != a.node && node != unknownNode { // which may be this one
			continue
		}
		claims, err := a.claims(ctx, poolName, prefix)
		if err != nil {
			return err
		}
		subnets = append(subnets, ipam.NewSubnet(&ipam.Pool{Name: poolName}, prefix, claims))
	}
	st.subnets = subnets
	return nil
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

// Refresh reads from etcd who has the addresses of a pool. If the pool is no longer what it was, its next
// use settles it again. Reservations under way are kept.
func (a *Allocator) Refresh(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st := a.known(name)
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	resp, err := a.kv.Get(ctx, a.specKey(name))
	if err != nil {
		return fmt.Errorf("read pool %s: %w: %w", name, etcd.ErrUnavailable, err)
	}
	if len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision != st.revision {
		st.spec = ""
		return nil
	}
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

// lock returns the pool, locked.
func (a *Allocator) lock(name string) *pool {
	a.mu.Lock()
	st := a.pools[name]
	if st == nil {
		st = &pool{}
		a.pools[name] = st
	}
	a.mu.Unlock()
	st.mu.Lock()
	return st
}
