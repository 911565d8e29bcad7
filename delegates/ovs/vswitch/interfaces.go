package vswitch

import (
	"context"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// switchWait is how long ovs-vswitchd may take to open or close an interface.
const switchWait = 10 * time.Second

// Patience bounds the waiting for ovs-vswitchd.
func Patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, switchWait, errSwitchSlow)
}

// A Wait is for ovs-vswitchd's word on a new interface.
type Wait struct {
	d    *DB
	name string
	done chan struct{}
	once sync.Once
	row  Interface
}

// Expect begins to wait for an interface. Call it before the transaction that makes the interface, and
// End in the end.
func (d *DB) Expect(name string) *Wait {
	w := &Wait{d: d, name: name, done: make(chan struct{})}
	d.mu.Lock()
	d.waiters[name] = w
	d.mu.Unlock()
	return w
}

// End ends the waiting.
func (w *Wait) End() {
	w.d.mu.Lock()
	delete(w.d.waiters, w.name)
	w.d.mu.Unlock()
}

// Opened returns the interface once ovs-vswitchd has opened it, or has said that it can't.
func (w *Wait) Opened(ctx context.Context) (Interface, error) {
	select {
	case <-w.done:
		return w.row, nil
	case <-ctx.Done():
		return Interface{}, waitError(ctx)
	}
}

// tell passes on that ovs-vswitchd has opened an interface, or why not.
func (d *DB) tell(i *Interface) {
	if i.Ofport == nil && !i.Failed() {
		return
	}
	if i.Failed() {
		d.LookForErrors()
	}
	d.mu.Lock()
	w := d.waiters[i.Name]
	d.mu.Unlock()
	if w != nil {
		w.once.Do(func() {
			w.row = *i
			close(w.done)
		})
	}
}

// Closed waits until ovs-vswitchd has closed what was removed and had the name. Links are made after
// that: ovs-vswitchd sets a closed link's flags back by name, which is down.
func (d *DB) Closed(ctx context.Context, name string) error {
	if d.removals.wait(ctx, name) != nil {
		return waitError(ctx)
	}
	return nil
}

// Failing tells, soon after, that an interface may be in error.
func (d *DB) Failing() <-chan struct{} { return d.failing }

// LookForErrors has whoever receives from Failing look at the interfaces.
func (d *DB) LookForErrors() {
	select {
	case d.failing <- struct{}{}:
	default: // it is to be done already
	}
}

var errSwitchSlow = fault.New(fault.RetryLater, "ovs-vswitchd takes too long")

// waitError says why a wait has ended. That ovs-vswitchd is slow is CNI error 11: the runtime tries again.
func waitError(ctx context.Context) error {
	if err := context.Cause(ctx); err != errSwitchSlow {
		return err
	}
	return types.NewError(types.ErrTryAgainLater, "not within "+switchWait.String(), "is ovs-vswitchd running?")
}
