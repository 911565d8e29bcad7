package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/node"
)

var (
	// ErrNoPod says that no running pod of that name is recorded on this node.
	ErrNoPod = errors.New("no running pod of that name on this node")
	// ErrNoAttachment says that the pod has no such interface of ours.
	ErrNoAttachment = errors.New("no such attachment")
	// ErrNoLeftover says that there is no such leftover.
	ErrNoLeftover = errors.New("no such leftover")
	// ErrConflict says that the interface exists with another specification.
	ErrConflict = errors.New("the interface exists with another specification")
)

// Records keeps sandboxes. One writer: this node's daemon.
type Records interface {
	Load(ctx context.Context) ([]*Sandbox, error)
	// Save writes the record and, in the same transaction, with.
	Save(ctx context.Context, s *Sandbox, with etcd.Txn) error
	Remove(ctx context.Context, s *Sandbox, with []clientv3.Op) error
}

// Native is the delegate of ours.
type Native interface {
	delegates.Delegate
	Handles(pluginType string) bool
	// Connected reports whether Open vSwitch answers now.
	Connected() bool
	Leftovers(ctx context.Context, known func(ovs.Owner) bool, knownName func(string) bool) ([]string, error)
	RemoveLeftovers(ctx context.Context, names []string) error
}

// Plugins is the delegate that executes.
type Plugins interface {
	delegates.Delegate
	Installed(list *cniconf.List, path []string) error
	GC(ctx context.Context, list *cniconf.List, valid []types.GCAttachment) error
	IPAM(ctx context.Context, command, typ string, s delegates.Sandbox, a *delegates.Attachment) (*types100.Result, error)
}

// Options are what an Engine is made of.
type Options struct {
	Node    string
	Records Records
	Native  Native
	Plugins Plugins
	IPAM    *node.Allocator
	Pools   map[string]ipam.Config
	Claims  Claims // IPAMClaims; nil without Kubernetes
	GCGrace time.Duration
	GiveUp  GiveUp
	// Mend says whether damaged interfaces are mended while the engine runs; Recover always does.
	Mend  bool
	Log   *slog.Logger
	Meter Meter
	// Reporter tells Kubernetes; Silent where there is none.
	Reporter Reporter
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
	hub    *hub
	kept   atomic.Pointer[[]string] // see Kept

	// collecting is held for writing while GC runs: no ADD or DEL is in progress then (CNI 3, GC).
	collecting sync.RWMutex

	mu        sync.Mutex
	sandboxes map[string]*slot // by container ID
	byPod     map[podKey]string
}

type podKey struct{ namespace, name string }

// A slot is the place of one sandbox: a lock and the record, nil if there is none. Who holds the
// lock may replace the record; who reads it without does so under the engine's mutex.
type slot struct {
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
	e := &Engine{Options: o, bootID: boot, hub: newHub(), sandboxes: map[string]*slot{}, byPod: map[podKey]string{}}
	e.kept.Store(&[]string{})
	return e, nil
}

// acquire locks a sandbox's slot, making it if need be.
func (e *Engine) acquire(ctx context.Context, containerID string) (*slot, error) {
	e.mu.Lock()
	s := e.sandboxes[containerID]
	if s == nil {
		s = &slot{lock: make(chan struct{}, 1)}
		e.sandboxes[containerID] = s
	}
	s.users++
	e.mu.Unlock()
	select {
	case s.lock <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		e.leave(containerID, s)
		return nil, types.NewError(types.ErrTryAgainLater, "another call for sandbox "+containerID+" is still running", "")
	}
}

func (e *Engine) release(containerID string, s *slot) {
	<-s.lock
	e.leave(containerID, s)
}

func (e *Engine) leave(containerID string, s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.users--; s.users == 0 && s.record == nil {
		delete(e.sandboxes, containerID)
	}
}

// put shows a record, nil for none, to everybody.
func (e *Engine) put(s *slot, containerID string, record *Sandbox) {
	e.mu.Lock()
	old := s.record
	s.record = record
	if old != nil && e.byPod[podKey{old.Namespace, old.Pod}] == containerID && record == nil {
		delete(e.byPod, podKey{old.Namespace, old.Pod})
	}
	if old != nil && record != nil && record.Ending && e.byPod[podKey{old.Namespace, old.Pod}] == containerID {
		delete(e.byPod, podKey{old.Namespace, old.Pod})
	}
	if record != nil && record.Pod != "" && !record.Ending {
		e.byPod[podKey{record.Namespace, record.Pod}] = containerID
	}
	e.mu.Unlock()
	e.hub.publish(old, record)
	if record == nil {
		record = old
	}
	if record != nil {
		e.Reporter.Changed(record)
	}
}

// Sandboxes returns all records, in no order.
func (e *Engine) Sandboxes() []*Sandbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*Sandbox
	for _, s := range e.sandboxes {
		if s.record != nil {
			all = append(all, s.record)
		}
	}
	return all
}

// Running returns the records of sandboxes that are not over: of which there is more than what was
// given up.
func (e *Engine) Running() []*Sandbox {
	return slices.DeleteFunc(e.Sandboxes(), func(s *Sandbox) bool { return s.over() })
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

// Watch tells fn of every change from now on until the context ends; slow receivers are cut off.
func (e *Engine) Watch(ctx context.Context) <-chan Event { return e.hub.subscribe(ctx) }

// delegate chooses who makes an attachment.
func (e *Engine) delegate(list *cniconf.List) delegates.Delegate {
	if len(list.Plugins) == 1 && e.Native.Handles(list.Plugins[0].Type) {
		return e.Native
	}
	return e.Plugins
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
