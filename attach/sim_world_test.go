package attach

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-cni/patchbay/delegates"
)

// A world is what outlives a daemon: the records, the claims, the switch, and what plugins have made. All
// that a daemon does to it are steps. A step waits for its turn, which the seed gives to one at a time; the
// turn may also say that the step fails, or that its answer is lost.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	seed uint64

	mu      sync.Mutex
	chaos   bool // steps may fail
	gen     int  // of the daemon that is alive
	parked  []*step
	records map[string][]byte
	claims  map[string]string // address -> owner
	ports   map[delegates.Owner]bool
	plugged map[delegates.Owner]bool   // by executed plugins
	leases  map[delegates.Owner]bool   // of another IPAM plugin
	network map[delegates.Owner]string // on which a plugin has made something
	doomed  map[delegates.Owner]bool   // may be unmade: somebody has asked for it, or nobody was promised it
	trace   []string
	faults  []string
}

// A step is a call that waits for its turn.
type step struct {
	caller, name string
	turn         chan verdict
}

func (s *step) compare(o *step) int {
	return cmp.Or(cmp.Compare(s.caller, o.caller), cmp.Compare(s.name, o.name))
}

// A verdict is what becomes of a step.
type verdict int

const (
	done       verdict = iota
	refused            // nothing happens, and the caller is told
	unanswered         // it happens, and the caller is told that it failed
	dead               // the daemon has been killed: nothing happens any more
)

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), seed: seed, records: map[string][]byte{}, claims: map[string]string{foreignAddress: `{"node":"n2","containerID":"c","ifname":"net1"}`},
		ports: map[delegates.Owner]bool{foreign: true}, plugged: map[delegates.Owner]bool{foreign: true}, leases: map[delegates.Owner]bool{foreign: true}, network: map[delegates.Owner]string{}, doomed: map[delegates.Owner]bool{}}
}

// What is not ours must still be there in the end (I6).
var foreign = delegates.Owner{ContainerID: "foreign", Interface: "net1"}

const foreignAddress = "10.0.0.200"

// fault notes a broken invariant.
func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// client takes the place of a daemon's number in the steps of those who call daemons.
const client = -1

// take waits for a turn, and does the step in it.
func (w *world) take(gen int, caller, name string, do func() error) error {
	s := &step{caller, name, make(chan verdict)}
	w.mu.Lock()
	if gen != client && gen != w.gen {
		w.mu.Unlock()
		return errDead
	}
	w.parked = append(w.parked, s)
	w.mu.Unlock()
	v := <-s.turn
	w.mu.Lock()
	defer w.mu.Unlock()
	if v != dead && gen != client && gen != w.gen {
		v = dead
	}
	w.trace = append(w.trace, fmt.Sprintf("%s %s: %s", caller, name, []string{"done", "refused", "answer lost", "killed"}[v]))
	switch v {
	case dead:
		return errDead
	case refused:
		return errRefused
	}
	err := do()
	if err == nil && v == unanswered {
		err = errLost
	}
	return err
}

var (
	errDead    = errors.New("the daemon is dead")
	errRefused = errors.New("injected failure")
	errLost    = errors.New("injected loss of the answer")
)

// next gives one waiting step its turn, and reports whether one was waiting.
func (w *world) next() bool {
	synctest.Wait()
	w.mu.Lock()
	if len(w.parked) == 0 {
		w.mu.Unlock()
		return false
	}
	slices.SortFunc(w.parked, (*step).compare)
	i := w.rng.IntN(len(w.parked))
	s := w.parked[i]
	w.parked = slices.Delete(w.parked, i, i+1)
	v := done
	if w.chaos {
		switch w.rng.IntN(12) {
		case 0:
			v = refused
		case 1:
			v = unanswered
		}
	}
	w.mu.Unlock()
	s.turn <- v
	synctest.Wait()
	return true
}

// kill ends the daemon that is alive: what its calls still want to do does not happen.
func (w *world) kill() {
	w.mu.Lock()
	w.gen++
	parked := w.parked
	w.parked = nil
	w.trace = append(w.trace, "--- kill -9")
	w.mu.Unlock()
	slices.SortFunc(parked, (*step).compare)
	for _, s := range parked {
		s.turn <- dead
		synctest.Wait()
	}
}

// until gives turns until cond holds. A call that takes more than 100 s is a fault (I7).
func (w *world) until(what string, cond func() bool) {
	for begin := time.Now(); !cond(); {
		if w.next() {
			continue
		}
		if cond() {
			return
		}
		if time.Since(begin) > 100*time.Second {
			w.fail("I7: %s takes more than 100 s", what)
		}
		time.Sleep(time.Second) // the bubble's clock: what waits for a time-out goes on
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Fatalf("seed %d: %s\n%s", w.seed, fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}

// gone notes that what an owner had is unmade: not without a reason, if it was promised (I5).
func (w *world) gone(from map[delegates.Owner]bool, o delegates.Owner) {
	if from[o] && !w.doomed[o] {
		w.fault("I5: %v was unmade, and nobody had asked for it", o)
	}
	delete(from, o)
}

// recorded returns what is in the store.
func (w *world) recorded() map[string]*Sandbox {
	all := map[string]*Sandbox{}
	for id, b := range w.records {
		s := &Sandbox{}
		if err := json.Unmarshal(b, s); err != nil {
			w.fault("record of %s: %v", id, err)
			continue
		}
		all[id] = s
	}
	return all
}

// quiet checks what must hold when no call is in progress and garbage was collected: what is recorded is
// there, and nothing else is (I2, I4, I6, I8), and no address has two owners (I1).
func (w *world) quiet(e *Engine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ports, plugged, leases := map[delegates.Owner]bool{foreign: true}, map[delegates.Owner]bool{foreign: true}, map[delegates.Owner]bool{foreign: true}
	claims, owners := map[string]bool{foreignAddress: true}, map[string]delegates.Owner{}
	for id, s := range w.recorded() {
		ending := w.doomed[delegates.Owner{ContainerID: id}] // a DEL was called, and will be called again
		if len(s.Attachments) == 0 {
			w.fault("I2: sandbox %s is recorded with nothing", id)
		}
		for _, a := range s.Attachments {
			o := delegates.Owner{ContainerID: id, Interface: a.Spec.Interface}
			if a.Status.Phase != Ready && !ending {
				w.fault("I4: %v is recorded as %s: %s", o, a.Status.Phase, a.Status.Message)
			}
			for _, p := range a.Spec.Config.Plugins {
				want, has := ports, w.ports
				if p.Type == executedType {
					want, has = plugged, w.plugged
				}
				if !ending || has[o] {
					want[o] = true
				}
			}
			if a.Spec.Config.Plugins[0].IPAMType == otherIPAM && (!ending || w.leases[o]) {
				leases[o] = true
			}
			for _, c := range a.Status.Claims {
				claims[c.Addr.String()] = true
				if other, taken := owners[c.Addr.String()]; taken {
					w.fault("I1: %s has two owners: %v and %v", c.Addr, other, o)
				}
				owners[c.Addr.String()] = o
			}
		}
	}
	for _, part := range []struct {
		what      string
		want, has any
	}{{"ports", ports, w.ports}, {"plugged interfaces", plugged, w.plugged}, {"claims", claims, keys(w.claims)}, {"leases", leases, w.leases}} {
		if fmt.Sprint(part.want) != fmt.Sprint(part.has) {
			w.fault("I2, I8: %s are %v, and by the records %v", part.what, part.has, part.want)
		}
	}
	known := map[string]bool{}
	for _, s := range e.Sandboxes() {
		known[s.ContainerID] = true
	}
	if want := keys(w.records); fmt.Sprint(known) != fmt.Sprint(want) {
		w.fault("I8: the engine knows %v, recorded are %v", known, want)
	}
}

func keys[V any](m map[string]V) map[string]bool {
	all := map[string]bool{}
	for k := range maps.Keys(m) {
		all[k] = true
	}
	return all
}
