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
	// ErrPodsOwn says that an interface is the pod's own, which the runtime has asked for with the pod.
	ErrPodsOwn = fault.New(fault.Forbidden, "it is the pod's own interface, which goes with the pod")
	// ErrNoLeftover says that there is no such leftover.
	ErrNoLeftover = fault.New(fault.NotFound, "no such leftover")
	// ErrChanged says that somebody else has changed a sandbox's record, so that it is kept as it is.
	ErrChanged = fault.New(fault.Conflict, "somebody else has changed it since this node has written it; it is kept as it is")
	// ErrConflict says that the interface exists with another specification.
	ErrConflict = fault.New(fault.Conflict, "the interface exists with another specification")
)

// Records keeps sandboxes. Only this node's daemon writes them.
type Records interface {
	// Load returns the sandboxes, and the container IDs of those whose records can't be read.
	Load(ctx context.Context) (all []*Sandbox, unreadable []string, err error)
	// Save writes the record and, in the same transaction, what with changes; Remove removes it likewise.
	// With may be nil. The errors are txn.ErrConflict, txn.ErrUnavailable, and ErrChanged where the record is not the
	// one that was written or loaded last.
	Save(ctx context.Context, s *Sandbox, with txn.Txn) error
	Remove(ctx context.Context, s *Sandbox, with txn.Txn) error
}

// Options are what an Engine is made of.
type Options struct {
	Node      string
	Records   Records
	Delegates *delegates.Chain
	IPAM      *ipam.Service
	// Runtime is asked whether a sandbox has ended whose namespace is gone for GCGrace. If there is none, it
	// must be gone for UnaskedGrace.
	Runtime               Runtime
	GCGrace, UnaskedGrace time.Duration
	GiveUp                GiveUp
	// Rehearse has everything that nobody has asked to be removed kept, and logged.
	Rehearse bool
	// Suspended says why nothing may be made or removed; nil: it may.
	Suspended func() error
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
//   - What hangs holds up its own sandbox only, and what a network's plugins do, that network.
type Engine struct {
	Options
	bootID  string
	entries *log                     // of what happens to records, and notices
	kept    atomic.Pointer[[]string] // see Kept
	lost    atomic.Bool              // see Recover
	unswept atomic.Bool              // Recover could not remove all that has no record

	networks  networks            // of which plugins are executed
	beginning *semaphore.Weighted // a call takes it to note what it will make, and who removes what has no record to do so
	// behind and behindPlugins bound the sandboxes that are looked after behind the calls, see behindCalls.
	behind, behindPlugins *semaphore.Weighted

	mu         sync.Mutex
	sandboxes  map[string]*slot // by container ID
	begun      uint64           // counts the calls that make something
	unreadable []string         // see Unreadable
}

// A slot is the place of one sandbox: a lock and the record, nil if there is none. Who holds the
// lock may replace the record; who doesn't reads it under the engine's mutex.
type slot struct {
	id     string // the sandbox's container ID
	lock   *semaphore.Weighted
	users  int
	record *Sandbox
	making *Sandbox  // what a call in progress makes, and the record does not tell yet
	begun  uint64    // when it began, among all such calls
	goneAt time.Time // the first observation that the namespace is gone
	lost   bool      // something of it is told to be lost, and waits to be mended

	unsaved bool // etcd could not be told of the record; who holds the lock knows
}

// New returns an engine. Call Recover before the first call from outside.
func New(o Options) (*Engine, error) {
	boot, err := netns.BootID()
	if err != nil {
		return nil, err
	}
	e := &Engine{Options: o, bootID: boot, entries: &log{changed: make(chan struct{})}, sandboxes: map[string]*slot{},
		beginning: semaphore.NewWeighted(1), behind: semaphore.NewWeighted(abreast), behindPlugins: semaphore.NewWeighted(abreast)}
	e.Records = steady{o.Records, o.Log}
	e.kept.Store(&[]string{})
	return e, nil
}

// hold calls do with a sandbox's slot, made if need be, which no other call has meanwhile.
func (e *Engine) hold(ctx context.Context, containerID string, do func(context.Context, *slot) error) error {
	return e.holdWithin(ctx, ctx, containerID, do)
}

// holdWithin is hold, but waits for other calls only until the first context ends.
func (e *Engine) holdWithin(waiting, ctx context.Context, containerID string, do func(context.Context, *slot) error) error {
	s := e.use(containerID)
	defer e.leave(s)
	if s.lock.Acquire(waiting, 1) != nil {
		return types.NewError(types.ErrTryAgainLater, "another call for sandbox "+containerID+" is still running", "")
	}
	defer s.lock.Release(1)
	if err := e.suspended(); err != nil {
		return err
	}
	return do(ctx, s)
}

// suspended says why nothing may be made or removed.
func (e *Engine) suspended() error {
	if e.Suspended == nil {
		return nil
	}
	return e.Suspended()
}

// holdIdle is hold, but calls nothing while another call has the slot.
func (e *Engine) holdIdle(ctx context.Context, containerID string, do func(context.Context, *slot) error) error {
	s := e.use(containerID)
	defer e.leave(s)
	if !s.lock.TryAcquire(1) {
		return nil
	}
	defer s.lock.Release(1)
	if err := e.suspended(); err != nil {
		return err
	}
	return do(ctx, s)
}

// use returns a sandbox's slot, made if need be, which stays until leave is called.
func (e *Engine) use(containerID string) *slot {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sandboxes[containerID]
	if s == nil {
		s = &slot{id: containerID, lock: semaphore.NewWeighted(1)}
		e.sandboxes[containerID] = s
	}
	s.users++
	return s
}

func (e *Engine) leave(s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.users--; s.users == 0 && s.record == nil {
		delete(e.sandboxes, s.id)
	}
}

// noteMaking notes what a call is about to make for a sandbox. It waits while something without a record is
// being removed: what the call makes could bear the same name.
func (e *Engine) noteMaking(ctx context.Context, s *slot, record *Sandbox) error {
	if e.beginning.Acquire(ctx, 1) != nil {
		return types.NewError(types.ErrTryAgainLater, "leftovers are still being removed", "")
	}
	defer e.beginning.Release(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun++
	s.making, s.begun = record, e.begun
	return nil
}

// noteMade notes that the call is through: what it has made is recorded, or unmade.
func (e *Engine) noteMade(s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.making = nil
}

// lastBegun is the number of the call that was the last to begin to make something.
func (e *Engine) lastBegun() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun
}

// whileNoneBegins calls do while no call begins to make something. Those that have begun go on: what they make
// is accounted for.
func (e *Engine) whileNoneBegins(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, sweepWait)
	defer cancel()
	if e.beginning.Acquire(ctx, 1) != nil {
		return types.NewError(types.ErrTryAgainLater, "leftovers are still being removed", "")
	}
	defer e.beginning.Release(1)
	if err := e.suspended(); err != nil {
		return err
	}
	return do(ctx)
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

// Running returns the records of all sandboxes but those of which only given up attachments are left.
func (e *Engine) Running() []*Sandbox {
	return slices.DeleteFunc(e.Sandboxes(), (*Sandbox).over)
}

// enter returns the sandbox as delegates want it, with its namespace open if it is still the one
// that was recorded. The caller closes it.
func (e *Engine) enter(s *Sandbox) (d delegates.Sandbox, err error) {
	d = s.forDelegates()
	if s.BootID != e.bootID {
		return d, fmt.Errorf("%s: %w: it was made before the last boot", s.Netns, netns.ErrGone)
	}
	d.Netns, err = netns.OpenIdentity(s.Netns, s.NetnsCookie)
	return d, err
}

func (e *Engine) logger(s *Sandbox) *slog.Logger {
	return e.Log.With("pod", s.Namespace+"/"+s.Pod, "sandbox", s.ContainerID)
}
