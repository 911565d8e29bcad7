package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// beforeAll is the Continue of a pool of which no claim was returned: it sorts before every address.
const beforeAll = "."

// Pools implements ipam.Ledger. Claims come in the order of their keys, of which a Continue has the end.
func (l *Ledger) Pools(ctx context.Context, p ipam.Page) ([]ipam.PoolInfo, error) {
	var pools []ipam.PoolInfo
	left := p.Limit
	list := func(name string) error {
		info, err := l.list(ctx, name, p.After, left)
		left -= len(info.Claims)
		pools = append(pools, info)
		return err
	}
	if p.Pool != "" && !ipam.IsName(p.Pool) {
		return nil, fmt.Errorf("pool %q: %w", p.Pool, ipam.ErrNoPool)
	}
	if p.Pool == "" {
		return pools, l.eachPool(ctx, list)
	}
	err := list(p.Pool)
	if only := pools[0]; err == nil && p.After == "" && only.Spec == nil && len(only.Subnets)+len(only.Claims) == 0 {
		return nil, fmt.Errorf("pool %s: %w", p.Pool, ipam.ErrNoPool)
	}
	return pools, err
}

// list describes a pool, with so many claims after those up to a Continue. Its subnets are with the first of them.
func (l *Ledger) list(ctx context.Context, pool, after string, limit int) (ipam.PoolInfo, error) {
	info := ipam.PoolInfo{Name: pool, Subnets: map[string]string{}, Claims: []ipam.Claim{}}
	kvs, err := l.get(ctx, "pool "+pool, l.spec(pool))
	if err != nil {
		return info, err
	}
	var spec ipam.Spec
	if len(kvs) > 0 && json.Valid(kvs[0].Value) {
		info.Spec = kvs[0].Value
		spec, _ = ipam.ParseSpec(kvs[0].Value) // Faults tells of one that can't be read
	}
	if after == "" {
		err = l.pages(ctx, "the subnets of pool "+pool, l.subnets(pool), func(r record) error {
			info.Subnets[r.id], _ = r.node()
			return nil
		})
	}
	from, end := l.claims(pool), clientv3.GetPrefixRangeEnd(l.claims(pool))
	for info.Continue = after; err == nil; {
		if info.Continue != "" {
			from = l.claims(pool) + info.Continue + "\x00"
		}
		room := min(pageSize, limit-len(info.Claims))
		kvs, err = l.get(ctx, "claims", from, clientv3.WithRange(end), clientv3.WithLimit(int64(max(room, 1))))
		if err != nil || len(kvs) == 0 {
			info.Continue = ""
			break
		}
		if room == 0 {
			if info.Continue == "" {
				info.Continue = beforeAll
			}
			break
		}
		page := make([]record, len(kvs))
		for i, kv := range kvs {
			page[i] = l.record(kv)
		}
		info.Continue = strings.TrimPrefix(page[len(page)-1].key, l.claims(pool))
		var claims []ipam.Claim
		claims, err = l.once(ctx, spec, page)
		info.Claims = append(info.Claims, claims...)
	}
	slices.SortFunc(info.Claims, ipam.Claim.Compare)
	return info, err
}

// once reads claims, of those that are there in both layouts the one of this release.
func (l *Ledger) once(ctx context.Context, spec ipam.Spec, page []record) (claims []ipam.Claim, err error) {
	var old []ipam.Claim
	for _, r := range page {
		c, _ := r.claim() // an owner that can't be read is not known
		switch {
		case !c.Addr.IsValid():
		case r.subnet == "":
			old = append(old, c)
		default:
			claims = append(claims, c)
		}
	}
	for some := range slices.Chunk(old, readAtOnce) {
		gets := make([]clientv3.Op, len(some))
		for i, c := range some {
			gets[i] = clientv3.OpGet(l.claim(c.Pool, subnetIn(spec, c.Addr), c.Addr), clientv3.WithCountOnly())
		}
		reading, cancel := context.WithTimeout(ctx, readTimeout)
		resp, err := l.kv.Txn(reading).Then(gets...).Commit()
		cancel()
		if err != nil {
			return nil, fmt.Errorf("read claims: %w: %w", txn.ErrUnavailable, err)
		}
		for i, c := range some {
			if resp.Responses[i].GetResponseRange().Count == 0 {
				claims = append(claims, c)
			}
		}
	}
	return claims, nil
}

// subnetIn returns the subnet of a pool that an address lies in, none if the pool has no such address.
func subnetIn(spec ipam.Spec, a netip.Addr) netip.Prefix {
	for _, n := range spec.Networks {
		if n.Prefix.Contains(a) {
			return netip.PrefixFrom(a, n.SubnetBits).Masked()
		}
	}
	return netip.Prefix{}
}
