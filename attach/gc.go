package attach

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// sweepWait bounds how long calls that begin are held up by the removal of what has no record.
const sweepWait = 5 * time.Second

// abreast is how many sandboxes are looked after at once of those that plugins are executed for, and of the others. It
// is also how many rounds may be under way.
const abreast = 64

// Collect is one round of looking after what is: a sandbox whose namespace is provably gone, seen so
// twice and a grace apart, is unmade; what a call could not undo is tried again; interfaces that
// have lost their port, an address or a route are mended, or, if a plugin made them, reported. A sandbox with
// a call in progress is for the next round.
func (e *Engine) Collect(ctx context.Context) error {
	err := each(e.Sandboxes(), func(s *Sandbox) error { return e.tend(ctx, s) })
	if e.unswept.Load() {
		err = errors.Join(err, e.sweep(ctx))
	}
	if e.Rehearse {
		return err
	}
	return errors.Join(err, e.IPAM.ReleaseForgotten(ctx, e.IPAM.Persistent(), e))
}

// each calls do with all sandboxes at once, so that one which takes long keeps the others from nothing, and
// returns all errors.
func each(all []*Sandbox, do func(*Sandbox) error) error {
	errs := make([]error, len(all))
	var calls sync.WaitGroup
	for i, s := range all {
		calls.Go(func() { errs[i] = do(s) })
	}
	calls.Wait()
	return errors.Join(errs...)
}

// tend looks after one sandbox.
func (e *Engine) tend(ctx context.Context, s *Sandbox) error {
	return e.behindCalls(ctx, s, func() error {
		gone := !s.over() && e.provenGone(ctx, s)
		return e.holdIdle(ctx, s.ContainerID, func(ctx context.Context, slot *slot) error {
			if gone && slot.record == s { // else it has changed since
				return e.collectGone(ctx, slot)
			}
			err := e.reconcile(ctx, slot)
			if e.Mend {
				err = errors.Join(err, e.mendAll(ctx, slot))
			}
			return err
		})
	})
}

func (e *Engine) collectGone(ctx context.Context, slot *slot) error {
	log := e.logger(slot.record)
	if e.Rehearse {
		log.Warn("sandbox is gone and was never deleted: gc.dryRun keeps it")
		return nil
	}
	log.Warn("sandbox is gone and was never deleted: collected")
	e.Meter.Leaked("sandbox", 1)
	return e.delLocked(ctx, slot)
}

// behindCalls does for a sandbox what no caller waits for, with so many others of its kind at most. Plugins may hang: a
// sandbox for which none is executed waits for none that has some.
func (e *Engine) behindCalls(ctx context.Context, s *Sandbox, do func() error) error {
	places := e.behind
	if e.executes(s) {
		places = e.behindPlugins
	}
	if err := places.Acquire(ctx, 1); err != nil {
		return err
	}
	defer places.Release(1)
	return do()
}

// executes reports whether plugins are executed for a sandbox.
func (e *Engine) executes(s *Sandbox) bool {
	return s != nil && slices.ContainsFunc(s.Attachments, func(a Attachment) bool {
		return len(e.Delegates.Executed(a.Spec.Config)) > 0 || e.Delegates.OtherIPAM(a.Spec.Config) != ""
	})
}

// RunGC collects every interval until the context ends, and looks at once after a sandbox, by container ID,
// that lost tells of, or all if it is "", and after all when resumed tells that the node is no longer suspended. It
// begins with what was given up: whatever was in the way may have gone with the daemon before.
func (e *Engine) RunGC(ctx context.Context, interval time.Duration, lost <-chan string, resumed <-chan struct{}) {
	var rounds errgroup.Group // one that waits for plugins that hang keeps the next ones from nothing
	rounds.SetLimit(abreast)
	var mending sync.WaitGroup // each sandbox is waited for once
	defer func() {
		_ = rounds.Wait() // no error is returned to it
		mending.Wait()
	}()
	tell := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			e.Log.Error(what, "error", err)
		}
	}
	if !e.Rehearse {
		mending.Go(func() {
			tell("what was given up can't be removed yet", each(e.Sandboxes(), func(s *Sandbox) error { return e.hold(ctx, s.ContainerID, e.retry) }))
		})
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	mend := func(containerID string) {
		mending.Go(func() { tell("what was lost is not mended yet", e.mendLost(ctx, containerID)) })
	}
	for {
		select {
		case <-tick.C:
			rounds.TryGo(func() error {
				tell("garbage collection", e.Collect(ctx))
				return nil
			})
		case id := <-lost:
			mend(id)
		case <-resumed:
			mend("")
		case <-ctx.Done():
			return
		}
	}
}

// mendLost mends what a sandbox has lost, or all sandboxes if it is "".
func (e *Engine) mendLost(ctx context.Context, containerID string) error {
	if !e.Mend {
		return nil
	}
	all := e.Running()
	if containerID != "" {
		all = slices.DeleteFunc(all, func(s *Sandbox) bool { return s.ContainerID != containerID })
	}
	return each(all, func(s *Sandbox) error {
		if !e.noteLost(s.ContainerID) {
			return nil
		}
		held := false
		err := e.hold(ctx, s.ContainerID, func(ctx context.Context, slot *slot) error {
			held = true
			e.noteFound(s.ContainerID)
			if slot.record == nil {
				return nil // it is its DEL that has removed the port
			}
			return e.behindCalls(ctx, slot.record, func() error { return e.mendAll(ctx, slot) })
		})
		if !held { // the node is suspended: what is lost later is to be mended all the same
			e.noteFound(s.ContainerID)
		}
		return err
	})
}

// noteLost notes that a sandbox has lost something, and reports whether that is new: else somebody waits to
// mend it already.
func (e *Engine) noteLost(containerID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[containerID]
	if slot == nil || slot.lost {
		return false
	}
	slot.lost = true
	return true
}

func (e *Engine) noteFound(containerID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slot := e.sandboxes[containerID]; slot != nil {
		slot.lost = false
	}
}

// retry tries to unmake what was given up of a sandbox.
func (e *Engine) retry(ctx context.Context, slot *slot) error {
	s := slot.record
	if s == nil || !slices.ContainsFunc(s.Attachments, isAbandoned) {
		return nil
	}
	return e.behindCalls(ctx, s, func() error { return e.remove(ctx, slot, s, where(s.Attachments, isAbandoned)...) })
}
