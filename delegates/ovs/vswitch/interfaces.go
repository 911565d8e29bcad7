package vswitch

import (
	"context"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// switchWait is how long ovs-vswitchd may take to open or close an interface.
const switchWait = 10 * time.Second

// Patience bounds the waiting for ovs-vswitchd. That it is slow is CNI error 11: the runtime tries again.
func Patience(ctx context.Context) (context.Context, context.CancelFunc) {
	slow := types.NewError(types.ErrTryAgainLater, "not within "+switchWait.String(), "is ovs-vswitchd running?")
	return context.WithTimeoutCause(ctx, switchWait, slow)
}

// A Wait is for ovs-vswitchd's word on a new interface.
type Wait struct {
	db   *DB
	name string
	row  chan Interface // has room for one
}

// Expect begins to wait for an interface. Call it before the transaction that makes the interface, and
// End in the end.
func (d *DB) Expect(name string) *Wait {
	w := &Wait{d, name, make(chan Interface, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiters[name] = w
	return w
}

// End ends the waiting.
func (w *Wait) End() {
	w.db.mu.Lock()
	defer w.db.mu.Unlock()
	delete(w.db.waiters, w.name)
}

// Opened returns the interface once ovs-vswitchd has opened it, or has said that it can't.
func (w *Wait) Opened(ctx context.Context) (Interface, error) {
	select {
	case row := <-w.row:
		return row, nil
	case <-ctx.Done():
		return Interface{}, context.Cause(ctx)
	}
}

// report tells whoever expects an interface that ovs-vswitchd has opened it, or why not.
func (d *DB) report(i *Interface) {
	if i.Ofport == nil && !i.Failed() {
		return
	}
	if i.Failed() {
		d.LookForErrors()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.waiters[i.Name]; w != nil {
		select {
		case w.row <- *i:
		default: // the first report counts
		}
	}
}

// Closed waits until ovs-vswitchd has closed what was removed and had the name. Links are made after
// that: ovs-vswitchd sets a closed link's flags back by name, which is down.
func (d *DB) Closed(ctx context.Context, name string) error { return d.removals.wait(ctx, name) }

// Failing tells, soon after, that an interface may be in error.
func (d *DB) Failing() <-chan struct{} { return d.failing }

// LookForErrors has whoever receives from Failing look at the interfaces.
func (d *DB) LookForErrors() {
	select {
	case d.failing <- struct{}{}:
	default: // it is to be done already
	}
}
