package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

type subnetValue struct {
	Node string `json:"node"`
}

// UnknownNode has the subnets whose records can't be read: they are no other node's to take.
const UnknownNode = "unknown (its record can't be read)"

func (l *Ledger) key(c ipam.Claim) string {
	return path.Join(l.root, c.Pool, "ips", c.Addr.String())
}

func (l *Ledger) specKey(poolName string) string { return path.Join(l.root, poolName, "spec") }

func (l *Ledger) subnetKey(poolName string, s netip.Prefix) string {
	return path.Join(l.root, poolName, "subnets", s.String())
}

// Subnets returns the nodes that have the subnets of a pool.
func (l *Ledger) Subnets(ctx context.Context, poolName string) (map[netip.Prefix]string, error) {
	prefix := path.Join(l.root, poolName, "subnets") + "/"
	resp, err := l.kv.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read the subnets of pool %s: %w: %w", poolName, txn.ErrUnavailable, err)
	}
	taken := map[netip.Prefix]string{}
	for _, kv := range resp.Kvs {
		if s, err := netip.ParsePrefix(strings.TrimPrefix(string(kv.Key), prefix)); err == nil {
			taken[s], _ = decodeSubnet(kv.Value)
		}
	}
	return taken, nil
}

// decodeSubnet returns the node that has a subnet. On an error it is UnknownNode.
func decodeSubnet(value []byte) (node string, err error) {
	var v subnetValue
	if err := json.Unmarshal(value, &v); err != nil {
		return UnknownNode, errors.New(explain.JSON(value, err))
	}
	if v.Node == "" {
		return UnknownNode, errors.New("it names no node")
	}
	return v.Node, nil
}

// Owners returns who has the addresses of a subnet: the keys that begin as all its addresses do.
func (l *Ledger) Owners(ctx context.Context, poolName string, subnet netip.Prefix) (map[netip.Addr]ipam.Owner, error) {
	all, err := l.read(ctx, path.Join(l.root, poolName, "ips")+"/"+ipam.TextPrefix(subnet))
	if err != nil {
		return nil, err
	}
	owners := map[netip.Addr]ipam.Owner{}
	for _, c := range all {
		if subnet.Contains(c.Addr) {
			owners[c.Addr] = c.Owner
		}
	}
	return owners, nil
}

// Missing returns those of the claims that are not in etcd, or are another owner's there.
func (l *Ledger) Missing(ctx context.Context, claims []ipam.Claim) ([]ipam.Claim, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	gets := make([]clientv3.Op, len(claims))
	for i, c := range claims {
		gets[i] = clientv3.OpGet(l.key(c))
	}
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

// Claims returns all claims of a pool, of every node; of all pools if the name is empty. Those that can't
// be read have no known owner.
func (l *Ledger) Claims(ctx context.Context, poolName string) ([]ipam.Claim, error) {
	if poolName == "" {
		return l.read(ctx, l.root)
	}
	return l.read(ctx, path.Join(l.root, poolName, "ips")+"/")
}

func (l *Ledger) read(ctx context.Context, prefix string) ([]ipam.Claim, error) {
	resp, err := l.kv.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read claims: %w: %w", txn.ErrUnavailable, err)
	}
	var claims []ipam.Claim
	for _, kv := range resp.Kvs {
		poolName, rest, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), l.root), "/")
		text, isIP := strings.CutPrefix(rest, "ips/")
		if !isIP {
			continue
		}
		if c, _ := decodeClaim(poolName, text, kv.Value); c.Addr.IsValid() {
			claims = append(claims, c)
		}
	}
	return claims, nil
}

// decodeClaim reads a claim. On an error the claim has no owner, or, if not even its address can be read,
// no address.
func decodeClaim(poolName, ip string, owner []byte) (ipam.Claim, error) {
	c := ipam.Claim{Pool: poolName}
	var err error
	if c.Addr, err = netip.ParseAddr(ip); err != nil {
		return c, fmt.Errorf("%q is not an address", ip)
	}
	if err := json.Unmarshal(owner, &c.Owner); err != nil {
		c.Owner = ipam.Owner{}
		return c, errors.New(explain.JSON(owner, err))
	}
	if !c.Owner.Known() {
		c.Owner = ipam.Owner{}
		return c, errors.New("it names no node")
	}
	return c, nil
}

// Pools returns every pool.
func (l *Ledger) Pools(ctx context.Context) ([]ipam.PoolInfo, error) {
	resp, err := l.kv.Get(ctx, l.root, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read pools: %w: %w", txn.ErrUnavailable, err)
	}
	var pools []ipam.PoolInfo
	at := map[string]int{}
	for _, kv := range resp.Kvs {
		name, rest, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), l.root), "/")
		if _, ok := at[name]; !ok {
			at[name] = len(pools)
			pools = append(pools, ipam.PoolInfo{Name: name, Subnets: map[string]string{}, Claims: []ipam.Claim{}})
		}
		p := &pools[at[name]]
		switch kind, id, _ := strings.Cut(rest, "/"); kind {
		case "spec":
			if json.Valid(kv.Value) {
				p.Spec = json.RawMessage(kv.Value)
			}
		case "subnets":
			p.Subnets[id], _ = decodeSubnet(kv.Value)
		case "ips":
			if c, _ := decodeClaim(name, id, kv.Value); c.Addr.IsValid() {
				p.Claims = append(p.Claims, c)
			}
		}
	}
	return pools, nil
}
