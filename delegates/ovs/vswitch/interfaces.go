package vswitch

import (
	"context"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// switchWait is how long ovs-vswitchd may take to open or close an interface.
const switchWait = 10 * time.Second

// Patience bounds the waiting for ovs-vswitchd. The cause is then CNI error 11, for the runtime to try again.
func Patience(ctx context.Context) (context.Context, context.CancelFunc) {
	slow := types.NewError(types.ErrTryAgainLater, "not within "+switchWait.String(), "is ovs-vswitchd running?")
	return context.WithTimeoutCause(ctx, switchWait, slow)
}

// Expect returns a channel on which a new interface comes once ovs-vswitchd has opened it, or has said that it
// can't. Call it before the transaction that makes the interface, and call end when it is not needed any more.
func (d *DB) Expect(name string) (opened <-chan Interface, end func()) {
	c := make(chan Interface, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiters[name] = c
	return c, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiters, name)
	}
}

// report tells whoever expects an interface that ovs-vswitchd has opened it, or why not.
func (d *DB) report(i *Interface) {
	if i.Failed() {
		d.LookForErrors()
	} else if i.Ofport == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case d.waiters[i.Name] <- *i:
	default: // nobody expects it, or it was reported before
	}
}

// Closed waits until ovs-vswitchd has closed removed ports of that name. Make a link of the name only then:
// ovs-vswitchd resets the flags of a link that it closes, by name, and so would set the new one down.
func (d *DB) Closed(ctx context.Context, name string) error { return d.removals.wait(ctx, name) }

// Failing returns a channel on which something comes when an interface may be in error.
func (d *DB) Failing() <-chan struct{} { return d.failing }

// LookForErrors has whoever receives from Failing look at the interfaces.
func (d *DB) LookForErrors() {
	select {
	case d.failing <- struct{}{}:
	default: // somebody is to look already
	}
}
