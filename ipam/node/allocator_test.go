package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

func startEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pb")
	if err != nil {
		t.Fatal(err)
	}
	e, err := etcd.StartEmbedded(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		_ = os.RemoveAll(dir)
	})
	return e.Client
}

// newPool checks the configuration of a pool.
func newPool(t *testing.T, config string) string {
	t.Helper()
	if _, err := ipam.ParseConfig([]byte(config), nil); err != nil {
		t.Fatal(err)
	}
	return config
}

func specOf(t *testing.T, config string) string {
	t.Helper()
	p, err := ipam.ParseConfig([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.Spec.Value()
}

// A service is the IPAM of one node's daemon; pools are given by their configuration.
type service struct{ *ipam.Service }

// open returns one that keeps what rests in memory.
func open(kv *clientv3.Client, node string) service { return openAt(kv, node, "") }

// openAt returns one that keeps what rests in a file.
func openAt(kv *clientv3.Client, node, file string) service {
	l := newLedger(kv, node)
	a, err := New(l, file, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	return service{&ipam.Service{Ledger: l, Modes: map[string]ipam.Mode{ipam.ModeNode: a}}}
}

func newLedger(kv *clientv3.Client, node string) *ledger.Ledger {
	return ledger.New(kv, etcd.NewCommitter(kv), "/p", node)
}

// A reserved is a reservation with its addresses in a form to compare.
type reserved struct {
	*ipam.Reservation
	Addrs    []netip.Prefix
	Gateways []netip.Addr
}

func read(r *ipam.Reservation, err error) (*reserved, error) {
	if err != nil {
		return nil, err
	}
	all := &reserved{Reservation: r}
	for _, ip := range r.Result.IPs {
		all.Addrs = append(all.Addrs, netip.MustParsePrefix(ip.Address.String()))
		all.Gateways = append(all.Gateways, netip.MustParseAddr(ip.Gateway.String()))
	}
	return all, nil
}

func (s service) Claim(ctx context.Context, pool string, o ipam.Owner, requested []ipam.Request) (*reserved, error) {
	return read(s.Service.Claim(ctx, ipam.Ask{Config: []byte(pool), Owner: o, Requested: requested}, nil))
}

func (s service) Reserve(ctx context.Context, pool string, o ipam.Owner, requested []ipam.Request) (*reserved, error) {
	return read(s.Service.Reserve(ctx, ipam.Ask{Config: []byte(pool), Owner: o, Requested: requested}, nil))
}

func owner(i int) ipam.Owner {
	return ipam.Owner{ContainerID: fmt.Sprintf("c%d", i), IfName: "net1", Pod: "default/p"}
}

func TestEachNodeGetsASubnetOfItsOwn(t *testing.T) {
	kv := startEtcd(t)
	p := newPool(t, `{"network": "10.12.0.0/16", "subnetLen": 24, "subnetMin": "10.12.8.0", "subnetMax": "10.12.15.0"}`)
	var mu sync.Mutex
	subnets := map[string]string{} // node -> its subnet
	var wg sync.WaitGroup
	for i := range 9 { // nodes claim at once; one of them finds none
		wg.Go(func() {
			node := fmt.Sprintf("n%d", i)
			r, err := open(kv, node).Claim(context.Background(), p, owner(1), nil)
			if errors.Is(err, ipam.ErrExhausted) && strings.Contains(err.Error(), "all 8 /24 subnets") {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			subnets[node] = r.Addrs[0].Masked().String()
			mu.Unlock()
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, s := range subnets {
		seen[s] = true
	}
	if len(subnets) != 8 || len(seen) != 8 {
		t.Fatalf("%v", subnets)
	}
	// A restarted daemon finds its own; a node whose name begins with another one's does not.
	for winner, subnet := range subnets {
		r, err := open(kv, winner).Claim(context.Background(), p, owner(2), nil)
		if err != nil || r.Addrs[0].Masked().String() != subnet {
			t.Errorf("%s: %+v, %v, want %s", winner, r, err, subnet)
		}
		if _, err := open(kv, winner+"0").Claim(context.Background(), p, owner(2), nil); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("%s0: %v", winner, err)
		}
	}
}

func TestClaimsSurviveARestartAndAreIdempotent(t *testing.T) {
	kv := startEtcd(t)
	ctx := context.Background()
	p := newPool(t, `{"networks": ["10.12.0.0/16", "fd00:12::/48"], "subnetLen": 24, "cooldown": "0s"}`)
	first, err := open(kv, "n1").Claim(ctx, p, owner(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := open(kv, "n1")
	again, err := a.Claim(ctx, p, owner(1), nil)
	if err != nil || fmt.Sprint(again.Addrs) != fmt.Sprint(first.Addrs) {
		t.Errorf("%v, then %v (%v)", first.Addrs, again.Addrs, err)
	}
	other, err := a.Claim(ctx, p, owner(2), nil)
	if err != nil || other.Addrs[0] == first.Addrs[0] {
		t.Errorf("%v, %v", other, err)
	}
	_, err = a.Claim(ctx, p, owner(3), []ipam.Request{{Addr: first.Addrs[0].Addr()}})
	if !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), "pod default/p net1") {
		t.Error(err)
	}
	for range 3 {
		if err := a.Release(ctx, first.Claims); err != nil {
			t.Error(err)
		}
	}
	claims, err := a.NodeClaims(ctx, "")
	if err != nil || len(claims) != 2 {
		t.Errorf("%+v, %v", claims, err)
	}
	got, err := a.Claim(ctx, p, owner(3), []ipam.Request{{Addr: first.Addrs[0].Addr()}})
	if err != nil || got.Addrs[0] != first.Addrs[0] || len(got.Addrs) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAPoolCantBeRedefined(t *testing.T) {
	kv := startEtcd(t)
	a := open(kv, "n1")
	if _, err := a.Claim(context.Background(), newPool(t, `{"pool": "x", "network": "10.12.0.0/16", "subnetLen": 24}`), owner(1), nil); err != nil {
		t.Fatal(err)
	}
	_, err := a.Claim(context.Background(), newPool(t, `{"pool": "x", "network": "10.13.0.0/16", "subnetLen": 24}`), owner(2), nil)
	if !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "10.12.0.0/16") || !strings.Contains(err.Error(), "10.13.0.0/16") {
		t.Error(err)
	}
}

// Two networks with addresses in common would give one address to two pods.
func TestPoolsThatOverlapAreRefused(t *testing.T) {
	kv := startEtcd(t)
	claim := func(config string) error {
		a := open(kv, "n1")
		_, err := a.Claim(context.Background(), newPool(t, config), owner(1), nil)
		return err
	}
	for _, c := range []struct{ name, config, want string }{
		{"the first", `{"network": "10.12.0.0/16", "subnetLen": 24}`, ""},
		{"the same network is the same pool", `{"network": "10.12.0.0/16", "subnetLen": 24}`, ""},
		{"a part of it", `{"network": "10.12.4.0/22", "subnetLen": 24}`, "pool 10.12.4.0-22 (10.12.4.0/22 in subnets of /24) overlaps pool 10.12.0.0-16 (10.12.0.0/16 in subnets of /24)"},
		{"all of it and more", `{"network": "10.0.0.0/8", "subnetLen": 24}`, "overlaps pool 10.12.0.0-16"},
		{"under another name", `{"pool": "mine", "network": "10.12.0.0/16", "subnetLen": 24}`, "pool mine (10.12.0.0/16 in subnets of /24) overlaps pool 10.12.0.0-16"},
		{"its second network", `{"networks": ["10.13.0.0/16", "10.12.0.0/16"], "subnetLen": 24}`, "overlaps pool 10.12.0.0-16"},
		{"allowed by one of them only", `{"pool": "lab", "network": "10.12.0.0/16", "subnetLen": 24, "overlap": "allow"}`, "overlaps pool 10.12.0.0-16"},
		{"the first allows it now", `{"network": "10.12.0.0/16", "subnetLen": 24, "overlap": "allow"}`, ""},
		{"allowed by both", `{"pool": "lab", "network": "10.12.0.0/16", "subnetLen": 24, "overlap": "allow"}`, ""},
		{"the first takes it back", `{"network": "10.12.0.0/16", "subnetLen": 24}`, "pool 10.12.0.0-16 (10.12.0.0/16 in subnets of /24) overlaps pool lab"},
		{"a part of a network that is left out by subnetMax", `{"network": "10.14.0.0/16", "subnetLen": 24, "subnetMax": "10.14.99.0"}`, ""},
		{"the part that was left out", `{"network": "10.14.128.0/17", "subnetLen": 24}`, ""},
		{"named after its network", `{"network": "10.77.0.0/16", "subnetLen": 24}`, ""},
		{"named after a network with the same address", `{"network": "10.77.0.0/20", "subnetLen": 24}`, "pool 10.77.0.0-20 (10.77.0.0/20 in subnets of /24) overlaps pool 10.77.0.0-16"},
		{"IPv6", `{"network": "fd00:14::/48", "subnetLen": 64}`, ""},
		{"a part of the IPv6 network", `{"network": "fd00:14:0:8000::/49", "subnetLen": 64}`, "overlaps pool fd00:14::-48"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := claim(c.config)
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Sixteen nodes define pools at once, of which any two overlap: one pool is left.
func TestOfPoolsDefinedAtOnceOneWins(t *testing.T) {
	kv := startEtcd(t)
	var nodes []service
	for i := range 12 {
		nodes = append(nodes, open(kv, fmt.Sprintf("n%d", i)))
	}
	for round := range 10 { // on a busy machine they may come one after the other
		won := make(chan string, len(nodes))
		var wg sync.WaitGroup
		for i, a := range nodes {
			name := fmt.Sprintf("p%d-%d", round, i)
			p := newPool(t, fmt.Sprintf(`{"pool": %q, "network": "10.%d.0.0/%d", "subnetLen": 28}`, name, round, 16+i))
			wg.Go(func() {
				_, err := a.Claim(context.Background(), p, owner(i), nil)
				if err == nil {
					won <- name
				} else if !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "overlaps pool") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Errorf("%d pools were defined", len(won))
		}
	}
}

func TestARequestedLengthMustBeTheSubnets(t *testing.T) {
	kv := startEtcd(t)
	a := open(kv, "n1")
	p := newPool(t, `{"network": "10.50.0.0/24", "subnetLen": 24}`)
	request := func(text string) error {
		r, err := ipam.ParseRequest(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Claim(context.Background(), p, owner(1), []ipam.Request{r})
		return err
	}
	if err := request("10.50.0.9/8"); !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "10.50.0.9/8") || !strings.Contains(err.Error(), "ask for 10.50.0.9/24") {
		t.Error(err)
	}
	if err := errors.Join(request("10.50.0.9/24"), request("10.50.0.9")); err != nil {
		t.Error(err)
	}
}

// Of two requested addresses the second one is taken: the first one is nobody's, then.
func TestARefusedReservationKeepsNoAddress(t *testing.T) {
	a := open(startEtcd(t), "n1")
	ctx := context.Background()
	p := newPool(t, `{"network": "10.50.0.0/24", "subnetLen": 24}`)
	taken, free := ipam.Request{Addr: netip.MustParseAddr("10.50.0.9")}, ipam.Request{Addr: netip.MustParseAddr("10.50.0.8")}
	if _, err := a.Claim(ctx, p, owner(1), []ipam.Request{taken}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Claim(ctx, p, owner(2), []ipam.Request{free, taken}); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("%v, want %v", err, ipam.ErrTaken)
	}
	if _, err := a.Claim(ctx, p, owner(3), []ipam.Request{free}); err != nil {
		t.Error(err)
	}
}
