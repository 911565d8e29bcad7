package attach

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// fakeLedger are the world's claims, as one daemon reaches them.
type fakeLedger struct {
	w   *world
	gen int
}

func (l fakeLedger) Node() string { return "n1" }

func (l fakeLedger) NodeClaims(context.Context, string) ([]ipam.Claim, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	var all []ipam.Claim
	for a, value := range l.w.claims {
		c := ipam.Claim{Pool: "10.0.0.0-29", Addr: netip.MustParseAddr(a)}
		if err := json.Unmarshal([]byte(value), &c.Owner); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b ipam.Claim) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

func (l fakeLedger) Missing(_ context.Context, claims []ipam.Claim) ([]ipam.Claim, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(claims), func(c ipam.Claim) bool { return l.w.claims[c.Addr.String()] == c.Owner.Value() }), nil
}

func (l fakeLedger) Releasing(_ context.Context, claims []ipam.Claim) (txn.Txn, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	t := fakeTxn{free: map[string]string{}}
	for _, c := range claims {
		t.free[c.Addr.String()] = c.Owner.Value()
	}
	return t, nil
}

func (l fakeLedger) Commit(_ context.Context, t txn.Txn) error {
	return l.w.take(l.gen, "ledger", fmt.Sprint(t), func() error { return l.w.apply(t) })
}

func (l fakeLedger) Holder(ctx context.Context, pool string, a netip.Addr) (ipam.Claim, error) {
	all, err := l.NodeClaims(ctx, pool)
	if i := slices.IndexFunc(all, func(c ipam.Claim) bool { return c.Addr == a && c.Pool == pool }); i >= 0 {
		return all[i], err
	}
	return ipam.Claim{}, ipam.ErrNoClaim
}

func (l fakeLedger) GiveBack(context.Context, string, netip.Prefix) error      { return nil }
func (l fakeLedger) ForceBack(context.Context, string, netip.Prefix) error     { return nil }
func (l fakeLedger) RemovePool(context.Context, string) error                  { return nil }
func (l fakeLedger) Pools(context.Context, ipam.Page) ([]ipam.PoolInfo, error) { return nil, nil }
func (l fakeLedger) Faults(context.Context) (faults []string, err error)       { return nil, nil }

// fakeMode chooses the lowest of five addresses that it takes to be free. It hears of others' claims only
// from Refresh, and of the claims of the daemon before it not at all: they must be found by their refusal.
type fakeMode struct {
	w    *world
	mu   sync.Mutex
	used map[netip.Addr]ipam.Owner
}

type fakeHold struct {
	m     *fakeMode
	claim ipam.Claim
	isNew bool
}

func (h fakeHold) Txn() txn.Txn {
	return fakeTxn{claim: map[string]string{h.claim.Addr.String(): h.claim.Owner.Value()}}
}

func (h fakeHold) Cancel() {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.isNew {
		delete(h.m.used, h.claim.Addr)
	}
}

func (m *fakeMode) Reserve(_ context.Context, p *ipam.Pool, o ipam.Owner, _ []ipam.Request) (*ipam.Reservation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.Node = "n1"
	for a := netip.MustParseAddr("10.0.0.2"); a.String() != "10.0.0.7"; a = a.Next() {
		have, used := m.used[a]
		if used && !have.SameInterface(o) {
			continue
		}
		m.used[a] = o
		c := ipam.Claim{Pool: p.Name, Addr: a, Owner: o}
		return ipam.NewReservation(p, []ipam.Claim{c}, []int{29}, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, fakeHold{m, c, !used}), nil
	}
	return nil, ipam.ErrExhausted
}

func (m *fakeMode) Refresh(ctx context.Context, _ string) error {
	claims, err := fakeLedger{w: m.w}.NodeClaims(ctx, "")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		m.used[c.Addr] = c.Owner
	}
	return err
}

func (m *fakeMode) Owned(context.Context, string, ipam.Owner) ([]ipam.Claim, error) { return nil, nil }
func (m *fakeMode) Persistent() []ipam.Claim                                        { return nil }

func (m *fakeMode) Releasing([]ipam.Claim) {}

func (m *fakeMode) Released(claims []ipam.Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		if m.used[c.Addr].SameInterface(c.Owner) {
			delete(m.used, c.Addr)
		}
	}
}

// addresses is the IPAM of one daemon.
func (s *simulation) addresses(gen int) *ipam.Service {
	return &ipam.Service{Ledger: fakeLedger{s.world, gen},
		Modes: map[string]ipam.Mode{ipam.ModeNode: &fakeMode{w: s.world, used: map[netip.Addr]ipam.Owner{}}}}
}
