package attach

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netns"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// TestMain runs the tests where they may make namespaces: the engine enters a real one for each pod.
func TestMain(m *testing.M) { testnode.Main(m) }

var (
	runs = flag.Int("sim.runs", defaultRuns, "how many seeds TestSimulation tries")
	seed = flag.Uint64("sim.seed", 0, "the one seed to try, if not 0")
)

// TestSimulation drives the engine, with its chain of delegates and its IPAM, through calls that
// interleave and fail as a seed says, kills it in between, and checks the invariants I1 to I9 once all is
// quiet. A failure names its seed: -sim.seed repeats it.
func TestSimulation(t *testing.T) {
	namespaces := makeNamespaces(t)
	first, last := uint64(1), uint64(*runs)
	if *seed > 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last && !t.Failed(); s++ {
		synctest.Test(t, func(t *testing.T) { newSimulation(t, s, namespaces).run() })
	}
}

// makeNamespaces makes a namespace for each pod of a simulation.
func makeNamespaces(t *testing.T) []string {
	t.Helper()
	var paths []string
	for i := range podCount {
		t.Cleanup(func() { _ = netns.DeleteNamed(fmt.Sprintf("sim%d", i)) })
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, in that namespace
			name := fmt.Sprintf("sim%d", i)
			_, err := netns.NewNamed(name)
			paths = append(paths, filepath.Join("/run/netns", name))
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

const (
	podCount = 3
	rounds   = 3 // operations of each client
)

// A simulation is one run: a few clients, each of which calls one thing after another.
type simulation struct {
	*world
	namespaces []string
	engine     *Engine
	open       atomic.Int32 // clients that are not done
	pods       [podCount]pod
	changes    *Cursor         // of the daemon that is alive
	mirror     map[string]bool // what the changes say that pods have
}

// A pod as the container runtime knows it.
type pod struct {
	id    string // of its sandbox; empty: it has none
	turns int
	added bool // the ADD has been answered
}

func newSimulation(t *testing.T, seed uint64, namespaces []string) *simulation {
	s := &simulation{world: newWorld(t, seed), namespaces: namespaces}
	s.engine = s.start()
	return s
}

// follow brings the mirror up to date, and compares it with what the engine says (I8).
func (s *simulation) follow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	entries, _ := s.changes.Next(ended)
	for _, entry := range entries {
		for _, e := range entry.Events {
			key := e.Sandbox.Pod + " " + e.Attachment.Spec.Interface
			if had := s.mirror[key]; had != (e.Type != "ADDED") {
				s.fault("I8: %s is told to be %s, and was there before: %v", key, e.Type, had)
			}
			if e.Type == "DELETED" {
				delete(s.mirror, key)
			} else {
				s.mirror[key] = true
			}
		}
	}
	all, _ := s.engine.Follow()
	if now := mirrored(all); fmt.Sprint(now) != fmt.Sprint(s.mirror) {
		s.fault("I8: pods have %v, and were told to have %v", now, s.mirror)
	}
}

func mirrored(all []*Sandbox) map[string]bool {
	m := map[string]bool{}
	for _, s := range all {
		for _, a := range s.Attachments {
			m[s.Pod+" "+a.Spec.Interface] = true
		}
	}
	return m
}

// start starts a daemon.
func (s *simulation) start() *Engine {
	gen := s.gen
	native := &fakeDelegate{s.world, gen, nativeType, s.ports}
	e, err := New(Options{Node: "n1", Records: fakeRecords{s.world, gen}, Log: slog.New(slog.DiscardHandler), Meter: noMeter{},
		Delegates: delegates.NewChain(&fakeDelegate{s.world, gen, executedType, s.plugged}, native), IPAM: s.addresses(gen),
		Runtime: noRuntime{}, GCGrace: time.Second, GiveUp: GiveUp{Attempts: 1000, After: time.Hour}, Mend: true})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := e.Load(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	now, changes := e.Follow()
	s.mirror, s.changes = mirrored(now), changes
	return e
}

func (s *simulation) run() {
	s.recover()
	s.chaos = true
	for i := range s.pods {
		s.client(fmt.Sprint("runtime ", i), func(round int) { s.runtime(i, round) })
		s.client(fmt.Sprint("hot ", i), func(int) { s.hot(i) })
	}
	s.client("gc", func(int) { s.collect() })
	kills := s.rng.IntN(3)
	for n := 0; s.open.Load() > 0; n++ {
		if kills > 0 && n > 5 && s.rng.IntN(20) == 0 {
			kills--
			s.restart()
		}
		s.until("a call", func() bool { return s.open.Load() == 0 || s.rng.IntN(3) == 0 })
	}
	s.chaos = false
	s.settle()
	for i := range s.pods {
		s.end(i)
	}
	s.settle()
	if len(s.records) > 0 || len(s.engine.Sandboxes()) > 0 {
		s.fault("I2: all pods have ended, and there are records: %v, %d", keys(s.records), len(s.engine.Sandboxes()))
	}
	s.quiet(s.engine)
	if len(s.faults) > 0 {
		s.fail("%v", s.faults)
	}
}

// client begins a client: do is called round after round.
func (s *simulation) client(name string, do func(round int)) {
	s.open.Add(1)
	go func() {
		defer s.open.Add(-1)
		for round := range rounds {
			_ = s.take(client, name, fmt.Sprint("round ", round), func() error { return nil })
			do(round)
		}
	}()
}

// call does something and lets the world go on until it is answered.
func (s *simulation) call(what string, do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	s.until(what, func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

func (s *simulation) recover() {
	s.call("recovery", func() { _ = s.engine.Recover(context.Background(), false) })
}

// restart kills the daemon and starts it again.
func (s *simulation) restart() {
	s.kill()
	synctest.Wait()
	s.engine = s.start()
	s.recover()
}

// settle waits until what is left of failures is tried again.
func (s *simulation) settle() {
	for range 3 {
		s.call("collection", func() { _ = s.engine.Collect(context.Background()) })
		time.Sleep(2 * time.Second)
	}
	s.quiet(s.engine)
	s.follow()
}
