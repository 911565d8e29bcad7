package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

const lab = `{"pool": "lab", "network": "10.0.0.0/24", "subnetLen": 24}`

// fakeTxn lists what a transaction would claim and free.
type fakeTxn struct{ claims, frees []Claim }

func (t fakeTxn) Join(o txn.Txn) txn.Txn {
	with := o.(fakeTxn)
	return fakeTxn{append(t.claims, with.claims...), append(t.frees, with.frees...)}
}

// fakeLedger keeps claims in memory. Outcomes are those of the next transactions; one whose outcome is
// unknown is committed all the same.
type fakeLedger struct {
	claims   []Claim
	outcomes []error
}

func (l *fakeLedger) Node() string { return "n1" }
func (l *fakeLedger) NodeClaims(context.Context, string) ([]Claim, error) {
	return slices.Clone(l.claims), nil
}
func (l *fakeLedger) Missing(context.Context, []Claim) ([]Claim, error)     { return nil, nil }
func (l *fakeLedger) GiveBack(context.Context, string, netip.Prefix) error  { return nil }
func (l *fakeLedger) ForceBack(context.Context, string, netip.Prefix) error { return nil }
func (l *fakeLedger) RemovePool(context.Context, string) error              { return nil }
func (l *fakeLedger) Pools(context.Context, Page) ([]PoolInfo, error)       { return nil, nil }
func (l *fakeLedger) Faults(context.Context) ([]string, error)              { return nil, nil }

func (l *fakeLedger) Holder(_ context.Context, pool string, a netip.Addr) (Claim, error) {
	return Claim{}, ErrNoClaim
}

func (l *fakeLedger) Releasing(_ context.Context, claims []Claim) (txn.Txn, error) {
	known := slices.DeleteFunc(slices.Clone(claims), func(c Claim) bool { return !c.Owner.Known() })
	if len(known) == 0 {
		return nil, nil
	}
	return fakeTxn{frees: known}, nil
}

func (l *fakeLedger) Commit(_ context.Context, t txn.Txn) error {
	var err error
	if len(l.outcomes) > 0 {
		err, l.outcomes = l.outcomes[0], l.outcomes[1:]
	}
	if err != nil && !errors.Is(err, txn.ErrUnavailable) {
		return err
	}
	l.claims = append(l.claims, t.(fakeTxn).claims...)
	l.claims = slices.DeleteFunc(l.claims, func(c Claim) bool { return slices.Contains(t.(fakeTxn).frees, c) })
	return err
}

// fakeMode gives what is asked for, else the next address, and notes what it is told.
type fakeMode struct {
	next     netip.Addr
	told     []string
	owned    []Claim
	ownedErr error
	refresh  error
}

type fakeHold struct {
	m     *fakeMode
	claim []Claim
}

func (h fakeHold) Txn() txn.Txn { return fakeTxn{claims: h.claim} }
func (h fakeHold) Cancel()      { h.m.told = append(h.m.told, "cancel "+h.claim[0].Addr.String()) }

func (m *fakeMode) Reserve(_ context.Context, p *Pool, o Owner, requested []Request) (*Reservation, error) {
	o.Node = "n1"
	if len(requested) == 0 {
		m.next = m.next.Next()
		requested = []Request{{Addr: m.next}}
	}
	var claims []Claim
	for _, r := range requested {
		claims = append(claims, Claim{p.Name, r.Addr, o})
	}
	return NewReservation(p, claims, slices.Repeat([]int{24}, len(claims)), slices.Repeat([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, len(claims)), fakeHold{m, claims}), nil
}

func (m *fakeMode) Refresh(_ context.Context, pool string) error {
	m.told = append(m.told, "refresh "+pool)
	return m.refresh
}
func (m *fakeMode) Owned(context.Context, string, Owner) ([]Claim, error) { return m.owned, m.ownedErr }
func (m *fakeMode) Persistent() []Claim                                   { return m.owned }
func (m *fakeMode) Releasing([]Claim)                                     {}

func (m *fakeMode) Released(claims []Claim) {
	for _, c := range claims {
		m.told = append(m.told, "released "+c.Addr.String())
	}
}

// fakeHolders says who has what on this node.
type fakeHolders map[string]string

func (h fakeHolders) HolderOf(network string, a netip.Addr, _ string) string {
	return h[network+" "+a.String()]
}
func (h fakeHolders) UserOf(ipamClaim, _ string) string { return h[ipamClaim] }

type fakeIPAMClaims map[string]*IPAMClaim

func (f fakeIPAMClaims) IPAMClaim(_ context.Context, ns, name string) (*IPAMClaim, error) {
	if c := f[ns+"/"+name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("IPAMClaim %s/%s: %w", ns, name, ErrNoIPAMClaim)
}

func (f fakeIPAMClaims) SetIPs(_ context.Context, ns, name, _ string, ips []string) error {
	c := f[ns+"/"+name]
	if c == nil {
		return ErrNoIPAMClaim
	}
	c.IPs = ips
	return nil
}

func fakeService(c IPAMClaims) (*Service, *fakeLedger, *fakeMode) {
	l, m := &fakeLedger{}, &fakeMode{next: netip.MustParseAddr("10.0.0.1")}
	return &Service{Ledger: l, Modes: map[string]Mode{ModeNode: m}, IPAMClaims: c, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, l, m
}

func requests(t *testing.T, texts ...string) []Request {
	t.Helper()
	all, err := ParseRequests(texts)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestReserveGoesByTheRules(t *testing.T) {
	ipamClaims := fakeIPAMClaims{"ns/new": {}, "ns/has": {Network: "conf", Interface: "net1", IPs: []string{"10.0.0.50/24"}},
		"ns/other": {Network: "elsewhere"}, "ns/iface": {Interface: "net9"}, "ns/torn": {IPs: []string{"ten"}}, "ns/used": {}}
	holders := fakeHolders{"plain 10.9.0.8": "default/q", "ns/used": "default/q"}
	for name, c := range map[string]struct {
		ask     Ask
		noKube  bool
		want    string // addresses and the owner's IPAMClaim, or what the error says
		invalid bool
	}{
		"any address":                           {ask: Ask{Config: []byte(lab)}, want: "10.0.0.2/24 "},
		"a requested one":                       {ask: Ask{Config: []byte(lab), Requested: requests(t, "10.0.0.9")}, want: "10.0.0.9/24 "},
		"nothing of a network without IPAM":     {ask: Ask{Network: "plain"}, want: "none"},
		"a static one":                          {ask: Ask{Network: "plain", Requested: requests(t, "10.9.0.9/16")}, want: "10.9.0.9/16 "},
		"a static one without a length":         {ask: Ask{Network: "plain", Requested: requests(t, "10.9.0.9")}, want: "needs a prefix length, such as 10.9.0.9/24", invalid: true},
		"a static one that is no host's":        {ask: Ask{Network: "plain", Requested: requests(t, "224.0.0.1/24")}, want: "not an address that an interface can have", invalid: true},
		"a static one of another pod":           {ask: Ask{Network: "plain", Requested: requests(t, "10.9.0.8/16")}, want: "address is taken by pod default/q", invalid: true},
		"an unknown mode":                       {ask: Ask{Config: []byte(`{"network": "10.0.0.0/24", "mode": "dhcp"}`)}, want: `mode "dhcp" is not supported`, invalid: true},
		"an IPAMClaim without an address":       {ask: Ask{IPAMClaim: "ns/new"}, want: "10.0.0.2/24 ns/new"},
		"an IPAMClaim with one":                 {ask: Ask{IPAMClaim: "ns/has", Requested: requests(t, "10.0.0.9")}, want: "10.0.0.50/24 ns/has"},
		"an IPAMClaim in use":                   {ask: Ask{IPAMClaim: "ns/used"}, want: "IPAMClaim ns/used is in use by pod default/q", invalid: true},
		"an IPAMClaim for another network":      {ask: Ask{IPAMClaim: "ns/other"}, want: "is for network elsewhere, not conf", invalid: true},
		"an IPAMClaim for another interface":    {ask: Ask{IPAMClaim: "ns/iface"}, want: "is for interface net9, not net1", invalid: true},
		"an IPAMClaim that can't be read":       {ask: Ask{IPAMClaim: "ns/torn"}, want: `has "ten" in its status`, invalid: true},
		"an IPAMClaim that is not there":        {ask: Ask{IPAMClaim: "ns/nix"}, want: "IPAMClaim ns/nix: not found"},
		"an IPAMClaim where there is no API":    {ask: Ask{IPAMClaim: "ns/new"}, noKube: true, want: "there is no API server", invalid: true},
		"an \"ipam\" object that can't be read": {ask: Ask{Config: []byte(`[`)}, want: "ipam: ", invalid: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := fakeService(ipamClaims)
			if c.noKube {
				s.IPAMClaims = nil
			}
			a := c.ask
			a.Owner, a.ConfigName = Owner{ContainerID: "c1", IfName: "net1", Pod: "default/p"}, "conf"
			if a.IPAMClaim != "" {
				a.Config = json.RawMessage(lab)
			}
			r, err := s.Reserve(context.Background(), a, holders)
			got := "none"
			switch {
			case err != nil:
				got = err.Error()
			case r != nil:
				var ips []string
				for _, ip := range r.Result.IPs {
					ips = append(ips, ip.Address.String())
				}
				got = strings.Join(ips, ",") + " "
				if len(r.Claims) > 0 {
					got += r.Claims[0].Owner.IPAMClaim
				}
			}
			if err == nil && got != c.want || !strings.Contains(got, c.want) || c.invalid && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTaken) {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
}

func TestClaimTriesAgainAndLeavesNothingBehind(t *testing.T) {
	unknown := fmt.Errorf("x: %w", txn.ErrUnavailable)
	late := errors.New("refresh failed")
	conflict := txn.ErrConflict
	for name, c := range map[string]struct {
		outcomes []error
		refresh  error
		want     error
		claimed  string
		told     string
	}{
		"at once":                   {nil, nil, nil, "10.0.0.2", ""},
		"after a conflict":          {[]error{conflict}, nil, nil, "10.0.0.3", "cancel 10.0.0.2, refresh lab"},
		"of conflicts without end":  {[]error{conflict, conflict, conflict, conflict}, nil, conflict, "", "cancel 10.0.0.2, refresh lab, cancel 10.0.0.3, refresh lab, cancel 10.0.0.4, refresh lab, released 10.0.0.5"},
		"whose outcome is unknown":  {[]error{unknown}, nil, txn.ErrUnavailable, "", "released 10.0.0.2"},
		"that can't be learnt from": {[]error{conflict}, late, late, "", "cancel 10.0.0.2, refresh lab"},
		"that can't be taken back":  {[]error{unknown, conflict}, nil, txn.ErrUnavailable, "10.0.0.2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, l, m := fakeService(nil)
			l.outcomes, m.refresh = c.outcomes, c.refresh
			_, err := s.Claim(context.Background(), Ask{Config: []byte(lab), Owner: owner(1)}, nil)
			var claimed []string
			for _, have := range l.claims {
				claimed = append(claimed, have.Addr.String())
			}
			if !errors.Is(err, c.want) || strings.Join(claimed, ", ") != c.claimed || strings.Join(m.told, ", ") != c.told {
				t.Errorf("%v, claimed %v, told %v", err, claimed, m.told)
			}
		})
	}
	s, _, _ := fakeService(nil)
	for _, a := range []Ask{{Network: "plain"}, {Network: "plain", Requested: requests(t, "10.9.0.9/16")}} {
		if _, err := s.Claim(context.Background(), a, fakeHolders{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `network plain has no "ipam"`) {
			t.Errorf("without a pool: %v", err)
		}
	}
	s.Modes = nil
	if _, err := s.Claim(context.Background(), Ask{Config: []byte(lab)}, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "pool lab has mode node, which this daemon does not have") {
		t.Errorf("without the mode: %v", err)
	}
}

func TestReleaseFreesWhatIsKnownAndTellsTheModes(t *testing.T) {
	s, l, m := fakeService(nil)
	ctx := context.Background()
	known, unknown := Claim{"lab", netip.MustParseAddr("10.0.0.2"), owner(1)}, Claim{"lab", netip.MustParseAddr("10.0.0.3"), Owner{}}
	l.claims, l.outcomes = []Claim{known, unknown}, []error{txn.ErrConflict}
	if err := errors.Join(s.Release(ctx, nil), s.Release(ctx, []Claim{unknown})); err != nil || len(l.outcomes) != 1 || m.told != nil {
		t.Errorf("nothing to free: %v, told %v", err, m.told)
	}
	if err := s.Release(ctx, []Claim{known}); !errors.Is(err, txn.ErrConflict) || m.told != nil {
		t.Errorf("refused: %v, told %v", err, m.told)
	}
	if err := s.Release(ctx, []Claim{known}); err != nil || !reflect.DeepEqual(l.claims, []Claim{unknown}) || !slices.Contains(m.told, "released 10.0.0.2") {
		t.Errorf("freed: %v, left %v, told %v", err, l.claims, m.told)
	}
}

func TestOwnedLooksEverywhereWithoutAPoolsName(t *testing.T) {
	s, l, m := fakeService(nil)
	mine, elsewhere, broken := owner(1), owner(1), Owner{}
	elsewhere.Node = "n2"
	for i, o := range []Owner{mine, elsewhere, broken, owner(2), mine} {
		l.claims = append(l.claims, Claim{fmt.Sprint("p", i), netip.MustParseAddr("10.0.0.9"), o})
	}
	ask := Owner{ContainerID: "c1", IfName: "net1"} // of this node, whatever it says
	if got, err := s.Owned(context.Background(), "", ask); err != nil || len(got) != 2 || got[0].Pool != "p0" || got[1].Pool != "p4" {
		t.Errorf("%v, %v", got, err)
	}
	m.owned = l.claims[:1]
	if got, err := s.Owned(context.Background(), "p0", ask); err != nil || !reflect.DeepEqual(got, m.owned) {
		t.Errorf("%v, %v", got, err)
	}
	m.ownedErr = errors.New("down")
	if _, err := s.Owned(context.Background(), "p0", ask); !errors.Is(err, m.ownedErr) {
		t.Error(err)
	}
}

func TestIPAMClaimsAreToldTheirAddressesAndFreedWhenGone(t *testing.T) {
	ipamClaims := fakeIPAMClaims{"ns/a": {}}
	s, l, _ := fakeService(ipamClaims)
	ctx := context.Background()
	r, err := s.Reserve(ctx, Ask{Config: []byte(lab), IPAMClaim: "ns/a", Owner: owner(1)}, fakeHolders{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Publish(ctx, r), s.Publish(ctx, nil), s.Publish(ctx, &Reservation{})); err != nil || !reflect.DeepEqual(ipamClaims["ns/a"].IPs, []string{"10.0.0.2/24"}) {
		t.Errorf("%v: %v", err, ipamClaims["ns/a"])
	}
	r.ipamClaim = "ns/gone"
	if err := s.Publish(ctx, r); !errors.Is(err, ErrNoIPAMClaim) || !strings.Contains(err.Error(), "IPAMClaim ns/gone") {
		t.Error(err)
	}
	for i, o := range []Owner{{Node: "n1", IPAMClaim: "ns/gone"}, {Node: "n1", IPAMClaim: "ns/a"}, {Node: "n2", IPAMClaim: "ns/gone"}, {Node: "n1", IPAMClaim: "ns/used"}, owner(1)} {
		l.claims = append(l.claims, Claim{"lab", netip.MustParseAddr(fmt.Sprint("10.0.0.", i)), o})
	}
	all := slices.Clone(l.claims)
	ipamClaims["ns/a"].IPs = []string{"10.0.0.1/24"}
	s.IPAMClaims = nil
	if err := s.ReleaseForgotten(ctx, all, fakeHolders{}); err != nil || len(l.claims) != len(all) {
		t.Errorf("without an API server: %v, left %v", err, l.claims)
	}
	s.IPAMClaims = ipamClaims
	if err := s.ReleaseForgotten(ctx, all, fakeHolders{"ns/used": "default/q"}); err != nil || !reflect.DeepEqual(l.claims, all[1:]) {
		t.Errorf("%v, left %v", err, l.claims)
	}
	ipamClaims["ns/a"].IPs = []string{"10.0.0.9/24"} // another node was first
	if err := s.ReleaseForgotten(ctx, all[1:], fakeHolders{"ns/used": "default/q"}); err != nil || !reflect.DeepEqual(l.claims, all[2:]) {
		t.Errorf("of an IPAMClaim with another address: %v, left %v", err, l.claims)
	}
}
