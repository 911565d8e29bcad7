package attach

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/semaphore"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

var (
	// ErrNoPod says that no running pod of that name is recorded on this node.
	ErrNoPod = fault.New(fault.NotFound, "no running pod of that name on this node")
	// ErrNoAttachment says that the pod has no such interface of ours.
	ErrNoAttachment = fault.New(fault.NotFound, "no such attachment")
	// ErrNoLeftover says that there is no such leftover.
	ErrNoLeftover = fault.New(fault.NotFound, "no such leftover")
	// ErrConflict says that the interface exists with another specification.
	ErrConflict = fault.New(fault.Conflict, "the interface exists with another specification")
)

// Records keeps sandboxes. One writer: this node's daemon.
type Records interface {
	// Load returns the sandboxes, and the container IDs of those whose records can't be read.
	Load(ctx context.Context) (all []*Sandbox, unreadable []string, err error)
	// Save writes the record and, in the same transaction, what with changes; Remove removes it likewise.
	// With may be nil. The errors are txn.ErrConflict and txn.ErrUnavailable.
	Save(ctx context.Context, s *Sandbox, with txn.Txn) error
	Remove(ctx context.Context, s *Sandbox, with txn.Txn) error
}

// Options are what an Engine is made of.
type Options struct {
	Node      string
	Records   Records
	Delegates *delegates.Chain
	IPAM      *ipam.Service
	GCGrace   time.Duration
	GiveUp    GiveUp
	// Mend says whether damaged interfaces are mended while the engine runs; Recover always does.
	Mend  bool
	Log   *slog.Logger
	Meter Meter
}

// A Meter counts.
type Meter interface {
	// Observe is told how long a stage of a command took.
	Observe(command, stage string, d time.Duration)
	// Repaired counts interfaces that were lost and made again, Leaked what was found without an
	// owner and removed; kind is interface, port or address.
	Repaired(kind string)
	Leaked(kind string, n int)
}

// An Engine drives what is to what is wanted: per sandbox one call at a time, all sandboxes in
// parallel. Its invariants:
//
//   - An attachment is recorded as Pending, with the addresses it claims, before a plugin is
//     executed for it, and before a caller is told of it as Ready. What is made natively before
//     that carries its owner's name.
//   - Everything that is made and not recorded as Ready is unmade: by the call itself, by the next
//     call for the sandbox, or by recovery.
//   - Addresses are freed after everything that used them is gone, in the transaction that removes
//     the attachment from the record.
//   - A record that a DEL could not act on stays, and the DEL says so, until it has failed so often and
//     for so long that the attachment is given up: then the pod may end, and what is left is kept as a
//     leftover that keeps its addresses.
type Engine struct {
	Options
	bootID string
	log    *log
	kept   atomic.Pointer[[]string] // see Kept
	lost   atomic.Bool              // records are missing: interfaces without one may be running pods'
	// unswept says that Recover could not remove all that has no record.
	unswept atomic.Bool

	// calls are in progress; what must be alone, such as GC (CNI 3), takes the whole weight.
	calls *semaphore.Weighted

	mu        sync.Mutex
	sandboxes map[string]*slot // by container ID
	byPod     map[podKey]string
	making    map[delegates.Owner]int // what calls in progress make, and no record tells yet

	unreadable map[string]bool // sandboxes whose records can't be read; never changed after Load
}

type podKey struct{ namespace, name string }

// A slot is the place of one sandbox: a lock and the record, nil if there is none. Who holds the
// lock may replace the record; who reads it without does so under the engine's mutex.
type slot struct {
	id     string // the sandbox's container ID
	lock   chan struct{}
	users  int
	record *Sandbox
	goneAt time.Time // the first observation that the namespace is gone
}

// New returns an engine. Call Recover before the first call from outside.
func New(o Options) (*Engine, error) {
	boot, err := netns.BootID()
	if err != nil {
		return nil, err
	}
	e := &Engine{Options: o, bootID: boot, log: newLog(), calls: semaphore.NewWeighted(maxCalls), sandboxes: map[string]*slot{}, byPod: map[podKey]string{}, making: map[delegates.Owner]int{}, unreadable: map[string]bool{}}
	e.kept.Store(&[]string{})
	return e, nil
}

const maxCalls = 1 << 30

// begin waits until nothing runs that must be alone, and returns what ends the call.
func (e *Engine) begin(ctx context.Context) (end func(), err error) { return e.weigh(ctx, 1) }

// alone waits until no call is in progress; new ones wait until end is called.
func (e *Engine) alone(ctx context.Context) (end func(), err error) { return e.weigh(ctx, maxCalls) }

func (e *Engine) weigh(ctx context.Context, weight int64) (end func(), err error) {
	if e.calls.Acquire(ctx, weight) != nil {
		return nil, types.NewError(types.ErrTryAgainLater, "garbage collection or recovery is still running", "")
	}
	return func() { e.calls.Release(weight) }, nil
}

// hold begins a call for a sandbox, and locks its slot; done ends both.
func (e *Engine) hold(ctx context.Context, containerID string) (s *slot, done func(), err error) {
	end, err := e.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, release, err := e.lock(ctx, containerID)
	if err != nil {
		end()
		return nil, nil, err
	}
	return s, func() {
		release()
		end()
	}, nil
}

// lock locks a sandbox's slot, making it if need be.
func (e *Engine) lock(ctx context.Context, containerID string) (s *slot, release func(), err error) {
	e.mu.Lock()
	if s = e.sandboxes[containerID]; s == nil {
		s = &slot{id: containerID, lock: make(chan struct{}, 1)}
		e.sandboxes[containerID] = s
	}
	s.users++
	e.mu.Unlock()
	select {
	case s.lock <- struct{}{}:
		return s, func() {
			<-s.lock
			e.leave(s)
		}, nil
	case <-ctx.Done():
		e.leave(s)
		return nil, nil, types.NewError(types.ErrTryAgainLater, "another call for sandbox "+containerID+" is still running", "")
	}
}

func (e *Engine) leave(s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.users--; s.users == 0 && s.record == nil {
		delete(e.sandboxes, s.id)
	}
}

// put shows a record, nil for none, to everybody.
func (e *Engine) put(s *slot, record *Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := s.record
	s.record = record
	shown := record
	if shown == nil {
		shown = old
	}
	if shown == nil {
		return
	}
	var events []Event
	key := podKey{shown.Namespace, shown.Pod}
	if record == nil || record.Ending {
		if e.byPod[key] == s.id {
			delete(e.byPod, key)
		}
	} else if record.Pod != "" {
		if old == nil {
			events = e.succeeded(key, s.id)
		}
		e.byPod[key] = s.id
	}
	if !e.superseded(shown) {
		events = append(events, diff(old, record)...)
	}
	e.log.append(Entry{Sandbox: shown, Events: events})
}

// succeeded tells the ends of what earlier sandboxes of a pod still have: a new one has its name from now
// on, and interfaces are known by pod and name. Call it with the mutex held.
func (e *Engine) succeeded(key podKey, containerID string) []Event {
	var events []Event
	for id, slot := range e.sandboxes {
		if r := slot.record; id != containerID && r != nil && (podKey{r.Namespace, r.Pod}) == key && !e.superseded(r) {
			events = append(events, diff(r, nil)...)
		}
	}
	return events
}

// superseded reports whether another sandbox has the pod's name. Call it with the mutex held.
func (e *Engine) superseded(s *Sandbox) bool {
	id := e.byPod[podKey{s.Namespace, s.Pod}]
	return id != "" && id != s.ContainerID
}

// begins notes that a call makes an interface, until the function that it returns is called.
func (e *Engine) begins(o delegates.Owner) (ends func()) {
	e.mu.Lock()
	e.making[o]++
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.making[o]--; e.making[o] == 0 {
			delete(e.making, o)
		}
	}
}

// Sandboxes returns all records, by container ID.
func (e *Engine) Sandboxes() []*Sandbox {
	e.mu.Lock()
	var all []*Sandbox
	for _, s := range e.sandboxes {
		if s.record != nil {
			all = append(all, s.record)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(all, func(a, b *Sandbox) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	return all
}

// Running returns the records of sandboxes that are not over: of which there is more than what was
// given up.
func (e *Engine) Running() []*Sandbox {
	return slices.DeleteFunc(e.Sandboxes(), func(s *Sandbox) bool { return s.over() })
}

// Current returns the records of running pods: of each, that of the sandbox which has its name.
func (e *Engine) Current() []*Sandbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current()
}

func (e *Engine) current() []*Sandbox {
	var all []*Sandbox
	for _, s := range e.sandboxes {
		if s.record != nil && !s.record.over() && !e.superseded(s.record) {
			all = append(all, s.record)
		}
	}
	return all
}

// Follow returns the records of running pods, and a reader of everything that happens after them.
func (e *Engine) Follow() (now []*Sandbox, changes *Cursor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current(), e.log.cursor()
}

// Pod returns the record of a running pod, or ErrNoPod.
func (e *Engine) Pod(namespace, name string) (*Sandbox, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sandboxes[e.byPod[podKey{namespace, name}]]; s != nil && s.record != nil {
		return s.record, nil
	}
	return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNoPod)
}

// enter returns the sandbox as delegates want it, with its namespace open if it is still the one
// that was recorded. Close it.
func (e *Engine) enter(s *Sandbox) (delegates.Sandbox, error) {
	d := delegates.Sandbox{ContainerID: s.ContainerID, NetnsPath: s.Netns, Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Args: s.CNIArgs, Path: s.CNIPath}
	if s.BootID != e.bootID {
		return d, fmt.Errorf("%s: %w: it was made before the last boot", s.Netns, netns.ErrGone)
	}
	h, err := netns.OpenIdentity(s.Netns, s.NetnsCookie)
	if err != nil {
		return d, err
	}
	d.Netns = h
	return d, nil
}

func (e *Engine) logger(s *Sandbox) *slog.Logger {
	return e.Log.With("pod", s.Namespace+"/"+s.Pod, "sandbox", s.ContainerID)
}
