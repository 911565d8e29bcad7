package attach

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// sweepWait bounds how long calls are held up by what Recover has left.
const sweepWait = 2 * time.Second

// Collect is one round of looking after what is: a sandbox whose namespace is provably gone, seen so
// twice and a grace apart, is unmade; what a call could not undo is tried again; interfaces that
// have lost their port, an address or a route are mended, or, if a plugin made them, reported.
func (e *Engine) Collect(ctx context.Context) error {
	var errs []error
	for _, s := range e.Sandboxes() {
		if !s.over() && e.provenGone(s) {
			e.logger(s).Warn("sandbox is gone and was never deleted: collected")
			e.Meter.Leaked("sandbox", 1)
			errs = append(errs, e.Del(ctx, s.ContainerID))
			continue
		}
		errs = append(errs, e.hold(ctx, s.ContainerID, e.reconcile))
		if e.Mend {
			errs = append(errs, e.hold(ctx, s.ContainerID, e.mendAll))
		}
	}
	if e.unswept.Load() {
		ctx, cancel := context.WithTimeout(ctx, sweepWait)
		errs = append(errs, e.alone(ctx, e.sweep))
		cancel()
	}
	errs = append(errs, e.IPAM.ReleaseForgotten(ctx, e.IPAM.Persistent(), e))
	return errors.Join(errs...)
}

// provenGone reports whether a sandbox's namespace is gone, and was gone a grace ago.
func (e *Engine) provenGone(s *Sandbox) bool {
	d, err := e.enter(s)
	if err == nil {
		_ = d.Netns.Close()
	}
	gone := errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrOther)
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[s.ContainerID]
	switch {
	case slot == nil:
		return false
	case slot.record != s || !gone:
		slot.goneAt = time.Time{}
		return false
	case slot.goneAt.IsZero():
		slot.goneAt = time.Now()
		return false
	}
	return time.Since(slot.goneAt) >= e.GCGrace
}

// RunGC collects every interval until the context ends. It begins with what was given up: whatever was
// in the way may have gone with the daemon before.
func (e *Engine) RunGC(ctx context.Context, interval time.Duration) {
	for _, s := range e.Sandboxes() {
		if err := e.hold(ctx, s.ContainerID, e.retry); err != nil && ctx.Err() == nil {
			e.logger(s).Error("what was given up can't be removed yet", "error", err)
		}
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := e.Collect(ctx); err != nil {
				e.Log.Error("garbage collection", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// retry tries to unmake what was given up of a sandbox.
func (e *Engine) retry(ctx context.Context, slot *slot) error {
	s := slot.record
	if s == nil || !slices.ContainsFunc(s.Attachments, isAbandoned) {
		return nil
	}
	return e.remove(ctx, slot, s, where(s.Attachments, isAbandoned)...)
}

// GC is the runtime's: sandboxes whose container ID is not among the valid attachments are unmade.
// The container ID is the unit, as the runtime does not know of interfaces that were attached later.
// The plugins of every known network are told too.
func (e *Engine) GC(ctx context.Context, valid []types.GCAttachment) error {
	return e.alone(ctx, func(ctx context.Context) error { return e.collectInvalid(ctx, valid) })
}

func (e *Engine) collectInvalid(ctx context.Context, valid []types.GCAttachment) error {
	var errs []error
	lists := map[string]*cniconf.List{}
	attachments := map[string][]types.GCAttachment{}
	for _, s := range e.Sandboxes() {
		if s.over() {
			continue // nobody waits for what is left of it
		}
		alive := slices.ContainsFunc(valid, func(v types.GCAttachment) bool { return v.ContainerID == s.ContainerID })
		for _, a := range s.Attachments {
			name := a.Spec.Config.Name
			lists[name] = a.Spec.Config
			if alive {
				attachments[name] = append(attachments[name], types.GCAttachment{ContainerID: s.ContainerID, IfName: a.Spec.Interface})
			}
		}
		if !alive {
			e.logger(s).Warn("the runtime no longer knows this sandbox: collected")
			errs = append(errs, e.lock(ctx, s.ContainerID, e.delLocked))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		errs = append(errs, e.Delegates.GC(ctx, lists[name], attachments[name]))
	}
	return errors.Join(errs...)
}
