package cni

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// delWait bounds how long a DEL holds its caller: what is not done by then is the daemon's own to do. It is
// longer than what a transaction waits for etcd, so that a caller is told of what is refused.
const delWait = 9 * time.Second

// del answers a DEL, done or put into the queue: whatever is away, it must not hold a pod in Terminating.
func (s *Server) del(plugin string, c *call) error {
	if s.Away() || plugin != ipamPlugin && !s.isReady() {
		return s.enqueue(plugin, c)
	}
	done := make(chan error, 1)
	s.dels.Go(func() { done <- s.Drain(s.working, delqueue.Call{Plugin: plugin, Request: *c.Request}) })
	select {
	case err := <-done:
		if fault.Of(err) != fault.Unavailable {
			return err
		}
		return s.enqueue(plugin, c)
	case <-time.After(delWait):
		return s.enqueue(plugin, c)
	}
}

func (s *Server) enqueue(plugin string, c *call) error {
	if err := failpoint.Hit("del-enqueue"); err != nil {
		return err
	}
	if err := delqueue.Put(s.Queue, delqueue.Call{Plugin: plugin, Request: *c.Request}); err != nil {
		return types.NewError(types.ErrTryAgainLater, "the DEL can't be done now, and not be queued", err.Error())
	}
	if err := failpoint.Hit("del-enqueued"); err != nil {
		return err
	}
	s.Log.Info("DEL is queued", "sandbox", c.ContainerID, "interface", c.IfName)
	return nil
}

// delFirst does the DELs of a sandbox that wait: done later, they would unmake what its ADD makes. The IPAM
// does its own alone: it may be called for a plugin of an ADD that is under way.
func (s *Server) delFirst(ctx context.Context, plugin string, c *call) error {
	waiting, _ := delqueue.Waiting(s.Queue) // who drains the queue reports what is wrong with it
	for _, w := range waiting {
		if w.Request.ContainerID != c.ContainerID || plugin == ipamPlugin && w.Plugin != plugin {
			continue
		}
		if err := s.Finish(ctx, w); err != nil {
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("an earlier DEL of sandbox %s is not done yet", c.ContainerID), err.Error())
		}
	}
	return nil
}

// Finish does a DEL that waits in the queue and takes it out, or sets it aside if it can never be done: once, whether
// the queue comes to it first or an ADD of the sandbox. The second would unmake what that ADD has made.
func (s *Server) Finish(ctx context.Context, w delqueue.Entry) error {
	release, err := s.finishing.lock(ctx, w.Name)
	if err != nil {
		return err
	}
	defer release()
	if waits, err := w.Waits(); err != nil || !waits {
		return err
	}
	if err := neverDone(w.Call); err != nil {
		s.Log.Error("queued DEL", "sandbox", w.Request.ContainerID, "error", w.SetAside(err))
		return nil
	}
	if err := s.Drain(ctx, w.Call); err != nil {
		return err
	}
	if err := failpoint.Hit("queue-drained"); err != nil {
		return err
	}
	s.Log.Info("queued DEL is done", "sandbox", w.Request.ContainerID)
	return w.Done()
}

// neverDone says why a call from the queue can't be done whenever it is tried: it is none that the shim, or we, have put
// there.
func neverDone(queued delqueue.Call) error {
	c, err := newCall(&queued.Request)
	switch {
	case err != nil:
		return err
	case queued.Request.Command != "DEL":
		return fmt.Errorf("it is no DEL, but %s", queued.Request.Command)
	case queued.Plugin == ipamPlugin && c.conf.IPAM == nil:
		return errNoIPAM
	}
	return checkPlugin(queued.Plugin)
}

// A turnstile lets one call through for each name at a time.
type turnstile struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the call is through
}

func (t *turnstile) lock(ctx context.Context, name string) (release func(), err error) {
	for {
		t.mu.Lock()
		busy := t.busy[name]
		if busy == nil {
			through := make(chan struct{})
			t.busy[name] = through
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.busy, name)
				close(through)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Drain does a DEL that has waited. A panic is an error of the call: it must not end the daemon, now and at
// each start.
func (s *Server) Drain(ctx context.Context, queued delqueue.Call) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			s.Log.Error("panic in a DEL", "sandbox", queued.Request.ContainerID, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := failpoint.Hit("del-drain"); err != nil {
		return err
	}
	c, err := newCall(&queued.Request)
	if err == nil {
		_, err = s.dispatch(ctx, queued.Plugin, c)
	}
	return err
}
