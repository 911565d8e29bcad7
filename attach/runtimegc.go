package attach

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
)

// busyWait bounds how long the runtime's GC waits for a call of a sandbox or a network: the next GC comes.
const busyWait = 5 * time.Second

// GC is the runtime's, for the pods that it has added under one network's name: those whose container ID is
// not among the valid attachments are unmade. The container ID is the unit, as the runtime does not know of
// interfaces that were attached later. The plugins of every known network are told too.
func (e *Engine) GC(ctx context.Context, network string, valid []types.GCAttachment) error {
	return e.collectInvalid(ctx, func(ctx context.Context, slot *slot) error {
		s := slot.record
		if network == "" || s.CNINetwork != network || slices.ContainsFunc(valid, func(v types.GCAttachment) bool { return v.ContainerID == s.ContainerID }) {
			return nil
		}
		if e.Rehearse {
			e.logger(s).Warn("the runtime no longer knows this sandbox: gc.dryRun keeps it", "network", network)
			return nil
		}
		e.logger(s).Warn("the runtime no longer knows this sandbox: collected", "network", network)
		return e.delLocked(ctx, slot)
	})
}

// GCInterfaces is the runtime's, for single interfaces that it has added under one network's name: those
// that are not among the valid attachments are unmade.
func (e *Engine) GCInterfaces(ctx context.Context, network string, valid []types.GCAttachment) error {
	return e.collectInvalid(ctx, func(ctx context.Context, slot *slot) error {
		for _, a := range slot.record.Attachments {
			if a.Spec.Source != meta.SourceDirect || a.Spec.Config.Name != network ||
				slices.Contains(valid, types.GCAttachment{ContainerID: slot.id, IfName: a.Spec.Interface}) {
				continue
			}
			log := e.logger(slot.record).With("interface", a.Spec.Interface, "network", network)
			if e.Rehearse {
				log.Warn("the runtime no longer knows this interface: gc.dryRun keeps it")
				continue
			}
			log.Warn("the runtime no longer knows this interface: collected")
			if err := e.delInterfaceLocked(a.Spec.Interface)(ctx, slot); err != nil {
				return err
			}
		}
		return nil
	})
}

// collectInvalid calls unmake with each sandbox that was there when the call came, and then tells the plugins
// of every network that had attachments which are left. A sandbox with a call in progress is that call's, and
// the next GC's.
func (e *Engine) collectInvalid(ctx context.Context, unmake func(context.Context, *slot) error) error {
	running, begun := e.Running(), e.lastBegun() // nobody waits for what is left of the others
	lists := map[string]*cniconf.List{}
	for _, s := range running {
		for _, a := range s.Attachments {
			lists[a.Spec.Config.Name] = a.Spec.Config
		}
	}
	err := each(running, func(s *Sandbox) error {
		waiting, cancel := context.WithTimeout(ctx, busyWait)
		defer cancel()
		return e.holdWithin(waiting, ctx, s.ContainerID, func(ctx context.Context, slot *slot) error {
			if slot.record == nil || slot.begun > begun {
				return nil // what it has was made meanwhile, and the runtime's list can't know of it
			}
			return unmake(ctx, slot)
		})
	})
	if e.Rehearse {
		return err
	}
	return errors.Join(err, e.tellPlugins(ctx, lists))
}

// tellPlugins tells the plugins of networks which attachments are valid, all networks at once. They free what the
// others have: a list that may lack a running pod's is not told.
func (e *Engine) tellPlugins(ctx context.Context, lists map[string]*cniconf.List) error {
	if unreadable, kept := e.Unreadable(), e.Kept(); len(unreadable)+len(kept) > 0 {
		e.Log.Warn("records are lost or can't be read: plugins are not told which attachments are valid", "unreadable", unreadable, "kept", kept)
		return nil
	}
	var mu sync.Mutex
	var errs []error
	var calls sync.WaitGroup
	for name, list := range lists {
		if len(e.Delegates.Executed(list)) == 0 {
			continue
		}
		calls.Go(func() {
			err := e.alone(ctx, name, func() error { return e.Delegates.GC(ctx, list, e.attachmentsOf(name)) })
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// attachmentsOf are all attachments to a network, those that could not be unmade too.
func (e *Engine) attachmentsOf(network string) []types.GCAttachment {
	var all []types.GCAttachment
	for _, s := range e.Sandboxes() {
		for _, a := range s.Attachments {
			if a.Spec.Config.Name == network {
				all = append(all, types.GCAttachment{ContainerID: s.ContainerID, IfName: a.Spec.Interface})
			}
		}
	}
	return all
}
