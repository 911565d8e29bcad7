package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

var (
	soakFor  = flag.Duration("soak.for", 3*time.Minute, "TestSoak: how long pods come and go")
	soakSeed = flag.Uint64("soak.seed", 0, "TestSoak: decides what is done; 0: one is chosen, and told")
	soakTo   = flag.String("soak.to", "", "TestSoak: the directory for soak.csv and soak.svg, and for soak-logs if it fails; none: they are not written")
)

const (
	soakWorkers = 6 // each has one pod at a time
	soakHands   = 2 // each does one fault at a time
	// soakPatience is for what must happen once every fault is over. It is for what never comes: a loaded
	// machine takes much less.
	soakPatience = 3 * time.Minute
)

// limited is a network that leaves more in Open vSwitch than a port.
const limited = `{"cniVersion": "1.1.0", "name": "limited", "type": "patchbay-ovs", "network": "control", "qos": {"ingressRate": "50M", "egressRate": "50M"},
 "ipam": {"type": "patchbay-ipam", "network": "10.16.0.0/16", "subnetLen": 24, "routes": [{"dst": "10.16.0.0/16", "scope": 253}], "cooldown": "0s"}}`

// TestSoak has pods come and go on both nodes, with faults of all kinds at random times. Now and then it lets
// all faults heal, looks whether everything is as it should be, to the last address, and samples what the
// daemons need. The daemon of n1 is never killed, so that what it needs would show what it leaks.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	defer s.report()
	round := min(*soakFor/6, 2*time.Minute)
	s.round(round, false)                                                       // what is kept from the first use on is not growth
	for n := 0; (n < 2 || time.Since(s.begin) < *soakFor) && !t.Failed(); n++ { // two can be compared
		s.round(round, true)
	}
	if !t.Failed() {
		s.empty()
		s.judge()
	}
}

// A soak is what is done to the cluster, and what is known of it.
type soak struct {
	t       *testing.T
	ns      string
	begin   time.Time
	etcd    *clientv3.Client
	owners  *owners
	workers []*worker
	faults  *deck
	samples []sample

	mu     sync.Mutex
	pids   map[string]int // of the daemons, as they should be
	counts map[string]int // what was done
	lost   map[string]int // what was wrong, by kind
	taken  time.Duration  // of the longest wait for everything to be right
}

func newSoak(t *testing.T) *soak {
	seed := cmp.Or(*soakSeed, rand.Uint64())
	t.Logf("to do the same again: -soak.seed=%d", seed)
	s := &soak{t: t, ns: namespace(t), begin: time.Now(), etcd: soakEtcd(t), pids: map[string]int{}, counts: map[string]int{}, lost: map[string]int{}}
	apply(t, s.ns, nad("limited", limited)+"---\n"+claim("keep", "data", "net1"))
	s.owners = follow(t, s.etcd)
	s.faults = newDeck(s, random(seed, 0))
	for i := range soakWorkers {
		s.workers = append(s.workers, &worker{s: s, id: i, rng: random(seed, uint64(i)+1)})
	}
	for _, n := range c.Nodes {
		s.known(n)
	}
	return s
}

func random(seed, part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, part)) }

// round has pods come and go for a while, and looks when all faults are over.
func (s *soak) round(d time.Duration, faults bool) {
	s.t.Helper()
	end := time.Now().Add(d)
	var pods, hands sync.WaitGroup
	for _, w := range s.workers {
		pods.Go(func() { w.churn(end) })
	}
	if faults {
		for range soakHands {
			hands.Go(func() { s.faults.play(end) })
		}
	}
	hands.Wait()
	left := s.leftovers()
	pods.Wait()
	if s.t.Failed() {
		return
	}
	if !s.settle("what every pod has") {
		return
	}
	s.sample(left, faults)
	x := s.samples[len(s.samples)-1]
	s.t.Logf("%6.0f s: %d pods so far, %d leftovers when the faults were over, none now; n1's daemon has %.0f MiB, %.0f goroutines, %.0f files", x.at.Seconds(), s.done("pods made"), left,
		x.values["n1_memory_mib"], x.values["n1_goroutines"], x.values["n1_files"])
}

// settle looks until nothing is wrong, or for too long.
func (s *soak) settle(what string) (right bool) {
	s.t.Helper()
	begin := time.Now()
	var wrong []finding
	var history []string
	for wrong = s.look(); len(wrong) > 0 && time.Since(begin) < soakPatience; wrong = s.look() {
		history = append(history, fmt.Sprintf("after %s %d things, such as %s: %s", time.Since(begin).Round(time.Second), len(wrong), wrong[0].kind, wrong[0].text))
		time.Sleep(time.Second) // nothing can tell that everything is right
	}
	if took := time.Since(begin); took > 20*time.Second {
		s.t.Logf("%s took %s to be right:\n%s", what, took.Round(time.Second), strings.Join(history, "\n"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = max(s.taken, time.Since(begin))
	for _, f := range wrong {
		s.lost[f.kind]++
		s.t.Errorf("%s, %s after the faults are over: %s: %s", what, time.Since(begin).Round(time.Second), f.kind, f.text)
	}
	return len(wrong) == 0
}

// empty ends all pods, and looks for what is left of them.
func (s *soak) empty() {
	s.t.Helper()
	if out, err := c.Kubectl("delete", "ipamclaims", "--all", "-n", s.ns); err != nil {
		s.t.Error(out)
	}
	var wg sync.WaitGroup
	for _, w := range s.workers {
		wg.Go(w.remove)
	}
	wg.Wait()
	s.settle("what is left of the pods")
}

func (s *soak) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

func (s *soak) done(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// fail says what was lost. It may be called from any goroutine.
func (s *soak) fail(kind, format string, args ...any) {
	s.mu.Lock()
	s.lost[kind]++
	s.mu.Unlock()
	s.t.Errorf(kind+": "+format, args...)
}

// report prints what was done and what was lost, and writes the samples.
func (s *soak) report() {
	if *soakTo != "" {
		s.write(*soakTo)
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "fault\ttimes\tseconds in all\n")
	s.faults.report(table)
	fmt.Fprintf(table, "\nwhat pods went through\ttimes\n")
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		fmt.Fprintf(table, "%s\t%d\n", what, s.counts[what])
	}
	fmt.Fprintf(table, "\nlost\ttimes\n")
	for _, kind := range kinds {
		fmt.Fprintf(table, "%s\t%d\n", kind, s.lost[kind])
	}
	_ = table.Flush() // to memory
	s.t.Logf("%s with %d looks, the longest wait for all to be right %s\n%s", time.Since(s.begin).Round(time.Second), len(s.samples), s.taken.Round(100*time.Millisecond), b.String())
}

// known remembers which process the node's daemon is.
func (s *soak) known(n *cluster.Node) {
	pid, err := pidOf(n, "patchbayd")
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids[n.Name] = pid
}

// ask calls a node's daemon. The node may have been booted since the last call.
func ask[T any](n *cluster.Node, call func(context.Context, *client.Client) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := client.New("unix://"+n.Path("/run/patchbay/api.sock"), "")
	if err != nil {
		var none T
		return none, err
	}
	defer d.Close()
	return call(ctx, d)
}
