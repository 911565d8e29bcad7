package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// Load reads the records; call it once, before Recover and before any other call. What a record that
// can't be read may account for is left alone.
func (e *Engine) Load(ctx context.Context) error {
	if err := failpoint.Hit("recover-load"); err != nil {
		return err
	}
	records, unreadable, err := e.Records.Load(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.unreadable = unreadable
	e.mu.Unlock()
	for _, s := range records {
		err := e.lock(ctx, s.ContainerID, func(_ context.Context, slot *slot) error {
			e.put(slot, s)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Recover drives what is to what is recorded, after a start: attachments that were never answered
// for are unmade, sandboxes of an earlier boot are dropped, interfaces that lost their port or link
// are made again, and what has no record is removed. It goes on after errors and returns them all.
// Calls in progress are waited for and new ones wait.
//
// With lost, this node's records are known to be incomplete: an interface without a record may be a
// running pod's, and is kept (see Kept).
func (e *Engine) Recover(ctx context.Context, lost bool) error {
	return e.alone(ctx, func(ctx context.Context) error {
		var errs []error
		for _, s := range e.Sandboxes() {
			err := errors.Join(e.lock(ctx, s.ContainerID, e.reconcile), e.lock(ctx, s.ContainerID, e.mendAll))
			if err != nil {
				errs = append(errs, fmt.Errorf("sandbox %s (pod %s/%s): %w", s.ContainerID, s.Namespace, s.Pod, err))
			}
		}
		e.lost = lost
		return errors.Join(append(errs, e.sweep(ctx))...)
	})
}

// Unreadable are the sandboxes whose records can't be read.
func (e *Engine) Unreadable() []string { return e.unreadable }

// Kept are the interfaces without a record that the last Recover kept.
func (e *Engine) Kept() []string { return *e.kept.Load() }

// reconcile unmakes what of a sandbox was never answered for, or could not be unmade: all of it, if it is
// of an earlier boot.
func (e *Engine) reconcile(ctx context.Context, slot *slot) error {
	s := slot.record
	if s == nil {
		return nil
	}
	if err := failpoint.Hit("recover-sandbox"); err != nil {
		return err
	}
	if s.BootID != e.bootID && !s.over() {
		e.logger(s).Info("sandbox is of an earlier boot: dropped")
		return e.removeAll(ctx, slot)
	}
	now := time.Now()
	undone := where(s.Attachments, func(a Attachment) bool { return e.due(a, now) })
	if len(undone) == 0 {
		return nil
	}
	e.logger(s).Info("unmaking what an interrupted or failed call left", "interfaces", len(undone))
	next := s.with()
	// The release before did not record that an ADD was not answered yet.
	next.Ending = s.Ending || !slices.ContainsFunc(s.Attachments, func(a Attachment) bool {
		return a.Status.Phase != Pending || a.Spec.Source == meta.SourceAPI
	})
	return e.remove(ctx, slot, next, undone...)
}

// sweep removes ports, links and claims of this node that no record accounts for. If records are lost it
// keeps the ports whose links are there. What can't be removed now is left to Collect.
func (e *Engine) sweep(ctx context.Context) error {
	e.unswept.Store(true)
	if err := failpoint.Hit("recover-leftovers"); err != nil {
		return err
	}
	names, err := e.leftoverPorts(ctx)
	var kept []string
	if e.lost {
		kept = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !isLink(n) })
		names = slices.DeleteFunc(names, isLink)
		if len(kept) > 0 {
			e.Log.Error("etcd has lost records of this node: interfaces without a record are kept; patchctl leftovers lists them", "ports", kept)
		}
	}
	if err == nil && len(names) > 0 {
		e.Log.Warn("removing ports and links without a record", "ports", names)
		err = e.Delegates.RemoveLeftovers(ctx, names)
		e.Meter.Leaked("port", len(names))
	}
	all, allErr := e.IPAM.Claims(ctx, "")
	allErr = errors.Join(allErr, e.IPAM.ReleaseForgotten(ctx, all, e))
	claims, claimErr := e.leftoverClaims(ctx)
	if e.lost && (err != nil || len(kept) > 0) {
		claims = nil // they may be those of the interfaces that are kept
	}
	if claimErr == nil && len(claims) > 0 {
		e.Log.Warn("freeing addresses without a record", "count", len(claims))
		claimErr = e.IPAM.Release(ctx, claims)
		e.Meter.Leaked("address", len(claims))
	}
	err = errors.Join(err, allErr, claimErr)
	if err == nil || len(kept) > 0 { // else it is not known, and what was kept still is
		e.kept.Store(&kept)
	}
	e.unswept.Store(err != nil)
	return err
}

// isLink reports whether the host has a link of that name. A veth goes with its pod's namespace: where
// it is there, so is the pod.
func isLink(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// leftoverPorts are the ports and links that neither a record nor a call in progress accounts for.
func (e *Engine) leftoverPorts(ctx context.Context) ([]string, error) {
	return e.Delegates.Leftovers(ctx, e.Accounted, e.owners)
}

// owners returns the interfaces that a record or a call in progress accounts for.
func (e *Engine) owners() []delegates.Owner {
	e.mu.Lock()
	defer e.mu.Unlock()
	var owners []delegates.Owner
	for id, slot := range e.sandboxes {
		for _, ifName := range slices.Concat(slot.record.Interfaces(), slot.making.Interfaces()) {
			owners = append(owners, delegates.Owner{ContainerID: id, Interface: ifName})
		}
	}
	return owners
}

// Accounted reports whether a record or a call in progress accounts for an interface.
func (e *Engine) Accounted(o delegates.Owner) bool {
	a, unsure := e.lookUp(o)
	return a != nil || unsure
}

// lookUp returns an interface's attachment by the record, nil if it has none. It is unsure where a call in
// progress makes one, or the record can't be read.
func (e *Engine) lookUp(o delegates.Owner) (a *Attachment, unsure bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	unsure = slices.Contains(e.unreadable, o.ContainerID)
	if slot := e.sandboxes[o.ContainerID]; slot != nil {
		a, unsure = slot.record.Find(o.Interface), unsure || slot.making.Find(o.Interface) != nil
	}
	return a, unsure
}

// leftoverClaims are this node's claims that no attachment accounts for.
func (e *Engine) leftoverClaims(ctx context.Context) ([]ipam.Claim, error) {
	all, err := e.IPAM.Claims(ctx, "")
	return slices.DeleteFunc(all, func(c ipam.Claim) bool { return !e.isLeftover(c) }), err
}

// isLeftover reports whether no attachment accounts for a claim of this node. One made by patchbay-ipam for
// a plugin belongs to that plugin's attachment, or to a runtime that calls the plugin without us; the
// latter's are the runtime's to free.
func (e *Engine) isLeftover(c ipam.Claim) bool {
	if c.Owner.Node != e.Node || c.Owner.Via != "" || c.Owner.IPAMClaim != "" {
		return false
	}
	a, unsure := e.lookUp(delegates.Owner{ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName})
	return !unsure && (a == nil || !slices.ContainsFunc(a.Status.Claims, func(has ipam.Claim) bool { return has.Pool == c.Pool && has.Addr == c.Addr }))
}
