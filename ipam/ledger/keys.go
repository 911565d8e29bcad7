package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Layout is the version of the keys and records that this release writes. The release before wrote no version
// and kept claims in <pool>/ips/<ip>; it wrote no index either.
const Layout = 2

// The kinds of a pool's keys: what follows the pool's name. Only this file knows how a key is made up.
const (
	specKind    = "spec"
	subnetsKind = "subnets"
	claimsKind  = "ips"
)

// keys make the keys below a prefix, for one node.
type keys struct {
	root    string // of all pools
	index   string // of this node's subnets
	guard   string // the pool that was defined last
	version string // the layout of all records
	self    string // this node's record, which package attach/store writes
	live    string // of the nodes whose daemons are up, likewise
	indexes string // of all nodes' subnets
}

func keysBelow(prefix, node string) keys {
	return keys{root: prefix + "/ipam/", indexes: prefix + "/subnets/", index: prefix + "/subnets/" + node + "/", guard: prefix + "/ipam-pools",
		version: prefix + "/version", self: prefix + "/nodes/" + node, live: prefix + "/live/"}
}

func (k keys) pool(name string) string    { return k.root + name + "/" }
func (k keys) subnets(pool string) string { return k.pool(pool) + subnetsKind + "/" }
func (k keys) claims(pool string) string  { return k.pool(pool) + claimsKind + "/" }
func (k keys) spec(pool string) string    { return k.pool(pool) + specKind }

func (k keys) subnet(pool string, s netip.Prefix) string { return k.subnets(pool) + s.String() }

func (k keys) indexed(node, pool string, s netip.Prefix) string {
	return k.indexes + node + "/" + pool + "/" + s.String()
}

// claimsIn begins the keys of the claims in a subnet.
func (k keys) claimsIn(pool string, s netip.Prefix) string { return k.claims(pool) + s.String() + "/" }

func (k keys) claim(pool string, s netip.Prefix, a netip.Addr) string {
	return k.claimsIn(pool, s) + a.String()
}

// oldClaim is where the release before keeps the claim of an address. It is written and deleted together with
// the claim, so that a node can go back to that release; the release after this one leaves it out.
func (k keys) oldClaim(pool string, a netip.Addr) string { return k.claims(pool) + a.String() }

// oldClaimsIn begins the old keys of all claims in a subnet, and perhaps of some around it.
func (k keys) oldClaimsIn(pool string, s netip.Prefix) string {
	return k.claims(pool) + ipam.TextPrefix(s)
}

// A record is a key of a pool, read back, with its value.
type record struct {
	key, pool, kind string
	subnet          string // of a claim; empty in the old layout
	id              string // the subnet or the address, as the key has it
	value           []byte
	revision        int64 // when it was last changed
}

func (k keys) record(kv *mvccpb.KeyValue) record {
	r := record{key: string(kv.Key), value: kv.Value, revision: kv.ModRevision}
	var rest string
	r.pool, rest, _ = strings.Cut(strings.TrimPrefix(r.key, k.root), "/")
	r.kind, r.id, _ = strings.Cut(rest, "/")
	if r.kind == claimsKind {
		if i := strings.LastIndex(r.id, "/"); i >= 0 {
			r.subnet, r.id = r.id[:i], r.id[i+1:]
		}
	}
	return r
}

// indexEntry reads a key of the index of this node's subnets.
func (k keys) indexEntry(kv *mvccpb.KeyValue) (pool string, s netip.Prefix, ok bool) {
	pool, cidr, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), k.index), "/")
	s, err := netip.ParsePrefix(cidr)
	return pool, s, err == nil && ipam.IsName(pool)
}

// UnknownNode is said to have the subnets whose records can't be read, so that no other node takes them.
const UnknownNode = "unknown (its record can't be read)"

type subnetValue struct {
	Node string `json:"node"`
}

// decode reads a value, whatever fields it has besides, unless a newer release says that they matter.
func (r record) decode(into any) error {
	var v struct {
		Version int `json:"version"`
	}
	for _, part := range []any{&v, into} {
		if err := json.Unmarshal(r.value, part); err != nil {
			return errors.New(explain.JSON(r.value, err))
		}
	}
	if v.Version > Layout {
		return fmt.Errorf("it has version %d, and this release knows those up to %d", v.Version, Layout)
	}
	return nil
}

// node reads which node has a subnet. On an error it is UnknownNode.
func (r record) node() (string, error) {
	var v subnetValue
	if err := r.decode(&v); err != nil {
		return UnknownNode, err
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
	if err := r.decode(&owner); err != nil {
		return ipam.Claim{Pool: r.pool, Addr: addr}, err
	}
	if !owner.Known() {
		return ipam.Claim{Pool: r.pool, Addr: addr}, errors.New("it names no node")
	}
	return ipam.Claim{Pool: r.pool, Addr: addr, Owner: owner}, nil
}
