package ledger

import (
	"net/netip"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/patchbay-cni/patchbay/ipam"
)

// Keys are a contract with other releases, and each is read back as what it was made of.
func TestKeysAreReadBackAsTheyWereMade(t *testing.T) {
	l := New(nil, nil, "/p", "n1")
	subnet := netip.MustParsePrefix("fd00:12:0:500::/56")
	owner := ipam.Owner{Node: "n1", ContainerID: "c1", IfName: "net1"}
	claim := ipam.Claim{Pool: "x", Addr: netip.MustParseAddr("fd00:12:0:500::9"), Owner: owner}
	key, oldKey := l.claim("x", subnet, claim.Addr), l.oldClaim("x", claim.Addr)
	for key, want := range map[string]record{
		l.spec("x"):           {key: "/p/ipam/x/spec", kind: specKind},
		l.subnet("x", subnet): {key: "/p/ipam/x/subnets/fd00:12:0:500::/56", kind: subnetsKind, id: subnet.String()},
		key:                   {key: "/p/ipam/x/ips/fd00:12:0:500::/56/fd00:12:0:500::9", kind: claimsKind, subnet: subnet.String(), id: claim.Addr.String()},
		oldKey:                {key: "/p/ipam/x/ips/fd00:12:0:500::9", kind: claimsKind, id: claim.Addr.String()},
	} {
		r := l.record(&mvccpb.KeyValue{Key: []byte(key)})
		if key != want.key || r.pool != "x" || r.kind != want.kind || r.id != want.id || r.subnet != want.subnet {
			t.Errorf("%s: %+v, want %+v", key, r, want)
		}
	}
	for _, key := range []string{key, oldKey} {
		r := l.record(&mvccpb.KeyValue{Key: []byte(key), Value: []byte(owner.Value())})
		if got, err := r.claim(); err != nil || got != claim {
			t.Errorf("%s: %+v, %v", key, got, err)
		}
	}
	if !strings.HasPrefix(key, l.claimsIn("x", subnet)) || !strings.HasPrefix(oldKey, l.oldClaimsIn("x", subnet)) || !strings.HasPrefix(key, l.claims("x")) {
		t.Error("a claim is not among those of its subnet or pool")
	}
	indexed := l.indexed("n1", "x", subnet)
	if pool, s, ok := l.indexEntry(&mvccpb.KeyValue{Key: []byte(indexed)}); indexed != "/p/subnets/n1/x/fd00:12:0:500::/56" || pool != "x" || s != subnet || !ok {
		t.Errorf("%s: %s, %s, %v", indexed, pool, s, ok)
	}
}
