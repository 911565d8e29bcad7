package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// The kinds of a pool's keys: what follows the pool's name. Only this file knows how a key is made up.
const (
	specKind    = "spec"
	subnetsKind = "subnets"
	claimsKind  = "ips"
)

func (l *Ledger) poolPrefix(pool string) string    { return l.root + pool + "/" }
func (l *Ledger) subnetsPrefix(pool string) string { return l.poolPrefix(pool) + subnetsKind + "/" }
func (l *Ledger) claimsPrefix(pool string) string  { return l.poolPrefix(pool) + claimsKind + "/" }

// subnetClaimsPrefix begins the keys of all claims in a subnet, and perhaps of some around it.
func (l *Ledger) subnetClaimsPrefix(pool string, s netip.Prefix) string {
	return l.claimsPrefix(pool) + ipam.TextPrefix(s)
}

func (l *Ledger) specKey(pool string) string { return l.poolPrefix(pool) + specKind }

func (l *Ledger) subnetKey(pool string, s netip.Prefix) string {
	return l.subnetsPrefix(pool) + s.String()
}

func (l *Ledger) claimKey(c ipam.Claim) string { return l.claimsPrefix(c.Pool) + c.Addr.String() }

// A record is a key of a pool, read back, with its value.
type record struct {
	key, pool, kind string
	id              string // the subnet or the address, as the key has it
	value           []byte
}

func (l *Ledger) record(kv *mvccpb.KeyValue) record {
	r := record{key: string(kv.Key), value: kv.Value}
	var rest string
	r.pool, rest, _ = strings.Cut(strings.TrimPrefix(r.key, l.root), "/")
	r.kind, r.id, _ = strings.Cut(rest, "/")
	return r
}

// get reads a key, or a range of them; what says in an error what was to be read.
func (l *Ledger) get(ctx context.Context, what, key string, opts ...clientv3.OpOption) ([]*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := l.kv.Get(ctx, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", what, txn.ErrUnavailable, err)
	}
	return resp.Kvs, nil
}

// list reads the keys that begin with the prefix.
func (l *Ledger) list(ctx context.Context, what, prefix string) ([]record, error) {
	kvs, err := l.get(ctx, what, prefix, clientv3.WithPrefix())
	all := make([]record, len(kvs))
	for i, kv := range kvs {
		all[i] = l.record(kv)
	}
	return all, err
}

// UnknownNode is said to have the subnets whose records can't be read, so that no other node takes them.
const UnknownNode = "unknown (its record can't be read)"

type subnetValue struct {
	Node string `json:"node"`
}

// node reads which node has a subnet. On an error it is UnknownNode.
func (r record) node() (string, error) {
	var v subnetValue
	if err := json.Unmarshal(r.value, &v); err != nil {
		return UnknownNode, errors.New(explain.JSON(r.value, err))
	}
	if v.Node == "" {
		return UnknownNode, errors.New("it names no node")
	}
	return v.Node, nil
}

// claim reads a claim. If there is an error, the claim lacks its owner, or, if not even the address can be read,
// both.
func (r record) claim() (ipam.Claim, error) {
	addr, err := netip.ParseAddr(r.id)
	if err != nil {
		return ipam.Claim{Pool: r.pool}, fmt.Errorf("%q is not an address", r.id)
	}
	var owner ipam.Owner
	if err := json.Unmarshal(r.value, &owner); err != nil {
		return ipam.Claim{Pool: r.pool, Addr: addr}, errors.New(explain.JSON(r.value, err))
	}
	if !owner.Known() {
		return ipam.Claim{Pool: r.pool, Addr: addr}, errors.New("it names no node")
	}
	return ipam.Claim{Pool: r.pool, Addr: addr, Owner: owner}, nil
}
