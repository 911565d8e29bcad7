package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

var linearOps = flag.Int("linear.ops", 20000, "operations of TestHistoryIsLinearizable")

// hot is how many addresses the clients are after: fewer take porcupine too long, more and they hardly meet.
const hot = 12

// TestHistoryIsLinearizable records what 32 clients of three allocators for one node, as if further
// daemons had been started by mistake, claim, look up and release of 12 addresses, and has porcupine look for
// an order in which no address ever has two owners and each look-up finds the owner. Each allocator has its own
// connection to etcd, which is cut, slow, or loses answers.
func TestHistoryIsLinearizable(t *testing.T) {
	server := testnode.StartEtcd(t, testnode.ShortDir(t))
	var allocators []*daemon
	for range 3 {
		allocators = append(allocators, startDaemon(t, server))
	}
	h := &history{begin: time.Now()}
	var wg, meddling sync.WaitGroup
	over := make(chan bool)
	meddling.Go(func() { meddle(allocators, over) })
	for client := range 32 {
		wg.Go(func() {
			c := &linearClient{history: h, number: client, rand: rand.New(rand.NewPCG(uint64(client), 7)), allocators: allocators}
			for h.len() < *linearOps {
				c.round(t)
			}
		})
	}
	wg.Wait()
	close(over)
	meddling.Wait()
	lost := 0
	for _, d := range allocators {
		lost += d.proxy.Lost()
	}
	unsure := h.unsure()
	t.Logf("%d operations in %s, %d of unknown outcome, %d answers lost", h.len(), time.Since(h.begin).Round(time.Millisecond), unsure, lost)
	if unsure*100 > h.len() {
		t.Errorf("the outcome of %d of %d operations is unknown: that proves little", unsure, h.len())
	}
	if result := porcupine.CheckOperationsTimeout(oneOwner, h.all, 2*time.Minute); result != porcupine.Ok {
		t.Errorf("%s: there is no order of the %d operations in which each address has one owner at a time", result, len(h.all))
	}
}

// A daemon is an allocator of pool x with a connection of its own. Another one takes its place now and then, as it
// does not hear of what others have freed.
type daemon struct {
	kv    *clientv3.Client
	proxy *testnode.Proxy
	now   atomic.Pointer[service]
}

func startDaemon(t *testing.T, server *testnode.Etcd) *daemon {
	t.Helper()
	d := &daemon{proxy: testnode.StartProxy(t, "tcp", "127.0.0.1:0", strings.TrimPrefix(server.Endpoint, "http://"))}
	var err error
	if d.kv, err = etcd.Dial(etcd.Options{Endpoints: []string{"http://" + d.proxy.Addr()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.kv.Close() })
	d.restart()
	return d
}

func (d *daemon) restart() {
	s := open(d.kv, "n1")
	d.now.Store(&s)
}

// meddle does to the connections what networks do, until over is closed.
func meddle(all []*daemon, over chan bool) {
	r := rand.New(rand.NewPCG(7, 7))
	for {
		p := all[r.IntN(len(all))].proxy
		switch r.IntN(4) {
		case 0:
			p.Cut()
		case 1:
			p.Lose(1 + r.IntN(3))
		case 2:
			p.Delay(time.Duration(r.IntN(5)) * time.Millisecond)
		case 3:
			p.Hang()
		}
		select {
		case <-over:
			return
		case <-time.After(100 * time.Millisecond): // as long as it lasts
			p.Pass()
		}
	}
}

// A linearClient claims, looks up and releases, one after the other.
type linearClient struct {
	*history
	number     int
	rand       *rand.Rand
	allocators []*daemon
	owners     int
}

func (c *linearClient) any() service { return *c.allocators[c.rand.IntN(len(c.allocators))].now.Load() }

func (c *linearClient) round(t *testing.T) {
	d := c.allocators[c.rand.IntN(len(c.allocators))]
	a := *d.now.Load()
	c.owners++
	o := owner(c.number*1_000_000 + c.owners) // none is used twice
	addr := netip.MustParseAddr(fmt.Sprintf("10.12.0.%d", 2+c.rand.IntN(hot)))
	c.look(t, a, addr)
	call := c.now()
	got, err := a.Claim(context.Background(), `{"pool": "x", "network": "10.12.0.0/28", "subnetLen": 28, "cooldown": "0s"}`, o, []ipam.Request{{Addr: addr}})
	switch {
	case err == nil:
		c.record(c.number, step{claimStep, addr, o.ContainerID, true}, call)
		c.look(t, c.any(), addr)
		call = c.now()
		for a.Release(context.Background(), got.Claims) != nil { // as a runtime repeats its DEL
			a = c.any()
		}
		c.record(c.number, step{releaseStep, addr, o.ContainerID, true}, call)
	case errors.Is(err, txn.ErrUnavailable):
		c.record(c.number, step{claimStep, addr, o.ContainerID, false}, call)
		o.Node = "n1"
		for a.Release(context.Background(), []ipam.Claim{{Pool: "x", Addr: addr, Owner: o}}) != nil {
			a = c.any()
		}
		c.record(c.number, step{releaseStep, addr, o.ContainerID, false}, call)
	case !errors.Is(err, ipam.ErrTaken) && !errors.Is(err, txn.ErrConflict): // a refusal claims nothing, on old news perhaps
		t.Error(err)
	case c.rand.IntN(8) == 0:
		d.restart()
	}
}

// look has an allocator look up the owner of an address of pool x.
func (c *linearClient) look(t *testing.T, a service, addr netip.Addr) {
	t.Helper()
	call := c.now()
	has, err := a.Holder(context.Background(), "x", addr)
	if errors.Is(err, txn.ErrUnavailable) {
		return
	}
	if err != nil && !errors.Is(err, ipam.ErrNoClaim) {
		t.Error(err)
	}
	c.record(c.number, step{lookStep, addr, has.Owner.ContainerID, true}, call)
}

// A step is one operation on an address. Who looks it up finds the owner.
type step struct {
	kind  stepKind
	addr  netip.Addr
	owner string // a container; empty if it has none
	sure  bool   // else it may have happened, or may happen at any time
}

type stepKind int

const (
	claimStep stepKind = iota
	releaseStep
	lookStep
)

// oneOwner is an address with at most one owner, which is the state. What may not have happened is put where it
// changes nothing.
var oneOwner = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[netip.Addr][]porcupine.Operation{}
		for _, o := range all {
			addr := o.Input.(step).addr
			by[addr] = append(by[addr], o)
		}
		return slices.Collect(maps.Values(by))
	},
	Init: func() any { return "" },
	Step: func(state, in, _ any) (bool, any) {
		s := in.(step)
		before, after := "", s.owner
		switch s.kind {
		case releaseStep:
			before, after = s.owner, ""
		case lookStep:
			before = s.owner
		}
		if state == before {
			return true, after
		}
		return !s.sure, state
	},
}

type history struct {
	begin time.Time

	mu  sync.Mutex
	all []porcupine.Operation
}

func (h *history) now() int64 { return time.Since(h.begin).Nanoseconds() }

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// unsure counts what may not have happened.
func (h *history) unsure() (n int) {
	for _, o := range h.all {
		if !o.Input.(step).sure {
			n++
		}
	}
	return n
}

// record adds an operation that has ended. One of unknown outcome never has.
func (h *history) record(client int, s step, call int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := porcupine.Operation{ClientId: client, Input: s, Call: call, Return: h.now()}
	if !s.sure {
		o.Return = math.MaxInt64
	}
	h.all = append(h.all, o)
}

// TestAPoolGivesWhatIsFreeAndIsExhaustedOnlyThen records what clients of one allocator get of four addresses, in many
// short histories: some free address each time, or that there is none.
func TestAPoolGivesWhatIsFreeAndIsExhaustedOnlyThen(t *testing.T) {
	kv := startEtcd(t)
	exhausted := 0
	for n := range 20 {
		a := open(kv, "n1")
		p := newPool(t, fmt.Sprintf(`{"network": "10.12.%d.0/29", "subnetLen": 29, "exclude": ["10.12.%d.6/31"], "cooldown": "0s"}`, n, n))
		h := &history{begin: time.Now()}
		var wg sync.WaitGroup
		for client := range 8 {
			wg.Go(func() {
				for round := range 10 {
					call := h.now()
					got, err := a.Claim(context.Background(), p, owner(client*100+round), nil)
					if errors.Is(err, ipam.ErrExhausted) {
						h.record(client, step{kind: claimStep, sure: true}, call)
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					addr := got.Addrs[0].Addr()
					h.record(client, step{kind: claimStep, addr: addr, sure: true}, call)
					call = h.now()
					if err := a.Release(context.Background(), got.Claims); err != nil {
						t.Error(err)
					}
					h.record(client, step{kind: releaseStep, addr: addr, sure: true}, call)
				}
			})
		}
		wg.Wait()
		for _, o := range h.all {
			if !o.Input.(step).addr.IsValid() {
				exhausted++
			}
		}
		if result := porcupine.CheckOperationsTimeout(wholePool, h.all, time.Minute); result != porcupine.Ok {
			t.Errorf("history %d: %s", n, result)
		}
	}
	if exhausted == 0 {
		t.Error("the pool was never exhausted")
	}
}

// wholePool is four addresses, of which those that have an owner are the state, by their last bits.
var wholePool = porcupine.Model{
	Init: func() any { return uint8(0) },
	Step: func(state, in, _ any) (bool, any) {
		s, used := in.(step), state.(uint8)
		if !s.addr.IsValid() {
			return bits.OnesCount8(used) == 4, used
		}
		b := s.addr.As4()
		bit := uint8(1) << (b[3] & 7)
		return (used&bit == 0) == (s.kind == claimStep), used ^ bit
	},
}
