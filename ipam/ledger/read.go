package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Subnets returns the nodes that have the subnets of a pool.
func (l *Ledger) Subnets(ctx context.Context, pool string) (map[netip.Prefix]string, error) {
	records, err := l.list(ctx, "the subnets of pool "+pool, l.subnetsPrefix(pool))
	taken := map[netip.Prefix]string{}
	for _, r := range records {
		if s, err := netip.ParsePrefix(r.id); err == nil {
			taken[s], _ = r.node()
		}
	}
	return taken, err
}

// Owners returns who has the addresses of a subnet.
func (l *Ledger) Owners(ctx context.Context, pool string, subnet netip.Prefix) (map[netip.Addr]ipam.Owner, error) {
	all, err := l.claimsBelow(ctx, l.subnetClaimsPrefix(pool, subnet))
	owners := map[netip.Addr]ipam.Owner{}
	for _, c := range all {
		if subnet.Contains(c.Addr) {
			owners[c.Addr] = c.Owner
		}
	}
	return owners, err
}

// Missing implements ipam.Ledger.
func (l *Ledger) Missing(ctx context.Context, claims []ipam.Claim) ([]ipam.Claim, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	gets := make([]clientv3.Op, len(claims))
	for i, c := range claims {
		gets[i] = clientv3.OpGet(l.claimKey(c))
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := l.kv.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, fmt.Errorf("read claims: %w: %w", txn.ErrUnavailable, err)
	}
	var missing []ipam.Claim
	for i, c := range claims {
		kvs := resp.Responses[i].GetResponseRange().Kvs
		if len(kvs) == 0 || string(kvs[0].Value) != c.Owner.Value() {
			missing = append(missing, c)
		}
	}
	return missing, nil
}

// Claims implements ipam.Ledger.
func (l *Ledger) Claims(ctx context.Context, pool string) ([]ipam.Claim, error) {
	if pool == "" {
		return l.claimsBelow(ctx, l.root)
	}
	return l.claimsBelow(ctx, l.claimsPrefix(pool))
}

// claimsBelow returns the claims among the keys that begin with the prefix.
func (l *Ledger) claimsBelow(ctx context.Context, prefix string) ([]ipam.Claim, error) {
	records, err := l.list(ctx, "claims", prefix)
	var claims []ipam.Claim
	for _, r := range records {
		if r.kind != claimsKind {
			continue
		}
		if c, _ := r.claim(); c.Addr.IsValid() {
			claims = append(claims, c)
		}
	}
	return claims, err
}

// Pools implements ipam.Ledger.
func (l *Ledger) Pools(ctx context.Context) ([]ipam.PoolInfo, error) {
	records, err := l.list(ctx, "pools", l.root)
	var pools []ipam.PoolInfo
	for _, r := range records { // in the order of their keys: a pool's follow each other
		if n := len(pools); n == 0 || pools[n-1].Name != r.pool {
			pools = append(pools, ipam.PoolInfo{Name: r.pool, Subnets: map[string]string{}, Claims: []ipam.Claim{}})
		}
		p := &pools[len(pools)-1]
		switch r.kind {
		case specKind:
			if json.Valid(r.value) {
				p.Spec = r.value
			}
		case subnetsKind:
			p.Subnets[r.id], _ = r.node()
		case claimsKind:
			if c, _ := r.claim(); c.Addr.IsValid() {
				p.Claims = append(p.Claims, c)
			}
		}
	}
	return pools, err
}

// Faults implements ipam.Ledger. It finds pools that overlap, as an older release let them, and records that
// can't be read.
func (l *Ledger) Faults(ctx context.Context) ([]string, error) {
	records, err := l.list(ctx, "pools", l.root)
	if err != nil {
		return nil, err
	}
	var faults, names []string
	specs := map[string]ipam.Spec{}
	for _, r := range records {
		switch r.kind {
		case specKind:
			spec, err := ipam.ParseSpec(r.value)
			if err != nil {
				faults = append(faults, l.damaged(r.pool, err).Error())
				continue
			}
			for _, other := range names {
				if err := spec.Clash(r.pool, other, specs[other]); err != nil {
					faults = append(faults, err.Error())
				}
			}
			names, specs[r.pool] = append(names, r.pool), spec
		case subnetsKind:
			if _, err := r.node(); err != nil {
				faults = append(faults, fmt.Sprintf("the record of a node's subnet can't be read (key %s: %v): no node is given the subnet; delete the key once no pod has an address of it", r.key, err))
			}
		case claimsKind:
			if _, err := r.claim(); err != nil {
				faults = append(faults, fmt.Sprintf("a claim can't be read (key %s: %v): its address is given to nobody; delete the key once no pod has the address", r.key, err))
			}
		}
	}
	return faults, nil
}
