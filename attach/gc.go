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
	"github.com/patchbay-cni/patchbay/meta"
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

// RunGC collects every interval until the context ends, and looks at once after a sandbox, by container ID,
// that lost tells of, or all if it is "". It begins with what was given up: whatever was in the way may have
// gone with the daemon before.
func (e *Engine) RunGC(ctx context.Context, interval time.Duration, lost <-chan string) {
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
		case id := <-lost:
			e.mendLost(ctx, id)
		case <-ctx.Done():
			return
		}
	}
}

// mendLost mends what a sandbox has lost, or all sandboxes if it is "".
func (e *Engine) mendLost(ctx context.Context, containerID string) {
	if !e.Mend {
		return
	}
	ids := []string{containerID}
	if containerID == "" {
		ids = nil
		for _, s := range e.Running() {
			ids = append(ids, s.ContainerID)
		}
	}
	for _, id := range ids {
		err := e.hold(ctx, id, func(ctx context.Context, slot *slot) error {
			if slot.record == nil {
				return nil // it is its DEL that has removed the port
			}
			return e.mendAll(ctx, slot)
		})
		if err != nil && ctx.Err() == nil {
			e.Log.Error("what was lost is not mended yet", "sandbox", id, "error", err)
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

// GC is the runtime's, for the pods that it has added under one network's name: those whose container ID is
// not among the valid attachments are unmade. The container ID is the unit, as the runtime does not know of
// interfaces that were attached later. The plugins of every known network are told too.
func (e *Engine) GC(ctx context.Context, network string, valid []types.GCAttachment) error {
	return e.collectInvalid(ctx, func(s *Sandbox) error {
		if network == "" || s.CNINetwork != network || slices.ContainsFunc(valid, func(v types.GCAttachment) bool { return v.ContainerID == s.ContainerID }) {
			return nil
		}
		e.logger(s).Warn("the runtime no longer knows this sandbox: collected", "network", network)
		return e.lock(ctx, s.ContainerID, e.delLocked)
	})
}

// GCInterfaces is the runtime's, for single interfaces that it has added under one network's name: those
// that are not among the valid attachments are unmade.
func (e *Engine) GCInterfaces(ctx context.Context, network string, valid []types.GCAttachment) error {
	return e.collectInvalid(ctx, func(s *Sandbox) error {
		var errs []error
		for _, a := range s.Attachments {
			if a.Spec.Source != meta.SourceDirect || a.Spec.Config.Name != network ||
				slices.Contains(valid, types.GCAttachment{ContainerID: s.ContainerID, IfName: a.Spec.Interface}) {
				continue
			}
			e.logger(s).Warn("the runtime no longer knows this interface: collected", "interface", a.Spec.Interface, "network", network)
			errs = append(errs, e.lock(ctx, s.ContainerID, e.delInterfaceLocked(a.Spec.Interface)))
		}
		return errors.Join(errs...)
	})
}

// collectInvalid calls unmake with each sandbox, while no call is in progress, and then tells the plugins of
// every network that had attachments which are left.
func (e *Engine) collectInvalid(ctx context.Context, unmake func(*Sandbox) error) error {
	return e.alone(ctx, func(ctx context.Context) error {
		var errs []error
		lists := map[string]*cniconf.List{}
		for _, s := range e.Running() { // nobody waits for what is left of the others
			for _, a := range s.Attachments {
				lists[a.Spec.Config.Name] = a.Spec.Config
			}
			errs = append(errs, unmake(s))
		}
		attachments := map[string][]types.GCAttachment{}
		for _, s := range e.Sandboxes() {
			for _, a := range s.Attachments {
				attachments[a.Spec.Config.Name] = append(attachments[a.Spec.Config.Name], types.GCAttachment{ContainerID: s.ContainerID, IfName: a.Spec.Interface})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(lists)) {
			errs = append(errs, e.Delegates.GC(ctx, lists[name], attachments[name]))
		}
		return errors.Join(errs...)
	})
}
