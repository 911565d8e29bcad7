package attach

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/semaphore"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

// networks keep the GC of a network's plugins apart from their ADDs and DELs, as they need not bear both at
// once (CNI 1.1, section 3, "Lifecycle & Ordering"). Each network has a lock of its own.
type networks struct {
	mu    sync.Mutex
	locks map[string]*networkLock // by the name of the configuration
}

type networkLock struct {
	*semaphore.Weighted
	users int
}

// exclusive is a lock's weight: an ADD or DEL weighs 1.
const exclusive = math.MaxInt64

// lock takes so much of a network's lock, until release is called.
func (n *networks) lock(ctx context.Context, name string, weight int64) (release func(), err error) {
	n.mu.Lock()
	if n.locks == nil {
		n.locks = map[string]*networkLock{}
	}
	l := n.locks[name]
	if l == nil {
		l = &networkLock{Weighted: semaphore.NewWeighted(exclusive)}
		n.locks[name] = l
	}
	l.users++
	n.mu.Unlock()
	leave := func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(n.locks, name)
		}
	}
	if l.Acquire(ctx, weight) != nil {
		leave()
		return nil, types.NewError(types.ErrTryAgainLater, "the plugins of network "+name+" are still at work", "")
	}
	return func() {
		l.Release(weight)
		leave()
	}, nil
}

// executing waits until plugins of these lists may be executed for a sandbox, and keeps GC from them until
// release is called. A call does it once: it would wait for a GC that waits for it.
func (e *Engine) executing(ctx context.Context, lists []*cniconf.List) (release func(), err error) {
	var names []string
	for _, l := range lists {
		if len(e.Delegates.Executed(l)) > 0 {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names) // as all calls do, so that no two wait for each other
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	for _, name := range slices.Compact(names) {
		r, err := e.networks.lock(ctx, name, 1)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}

// alone calls do while no plugin of a network is executed for a sandbox. If that takes long, it is left out:
// others would have to wait for the plugin that hangs.
func (e *Engine) alone(ctx context.Context, network string, do func() error) error {
	waiting, cancel := context.WithTimeout(ctx, busyWait)
	defer cancel()
	release, err := e.networks.lock(waiting, network, exclusive)
	if err != nil {
		return err
	}
	defer release()
	return do()
}

func listsOf(as []Attachment) []*cniconf.List {
	lists := make([]*cniconf.List, len(as))
	for i, a := range as {
		lists[i] = a.Spec.Config
	}
	return lists
}
