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
	for key, want := range map[string]record{
		l.specKey("x"):           {"/p/ipam/x/spec", "x", specKind, "", nil},
		l.subnetKey("x", subnet): {"/p/ipam/x/subnets/fd00:12:0:500::/56", "x", subnetsKind, subnet.String(), nil},
		l.claimKey(claim):        {"/p/ipam/x/ips/fd00:12:0:500::9", "x", claimsKind, claim.Addr.String(), nil},
	} {
		r := l.record(&mvccpb.KeyValue{Key: []byte(key)})
		if key != want.key || r.pool != want.pool || r.kind != want.kind || r.id != want.id {
			t.Errorf("%s: %+v, want %+v", key, r, want)
		}
	}
	r := l.record(&mvccpb.KeyValue{Key: []byte(l.claimKey(claim)), Value: []byte(owner.Value())})
	if got, err := r.claim(); err != nil || got != claim {
		t.Errorf("%+v, %v", got, err)
	}
	if !strings.HasPrefix(l.claimKey(claim), l.subnetClaimsPrefix("x", subnet)) || !strings.HasPrefix(l.claimKey(claim), l.claimsPrefix("x")) {
		t.Error("a claim is not among those of its subnet or pool")
	}
}
