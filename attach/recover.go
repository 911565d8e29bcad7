package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	records, unreadable, err := e.Records.Load(ctx)
	if err != nil {
		return err
	}
	for _, id := range unreadable {
		e.unreadable[id] = true
	}
	for _, s := range records {
		slot, release, err := e.lock(ctx, s.ContainerID)
		if err != nil {
			return err
		}
		e.put(slot, s)
		release()
	}
	return nil
}

// Recover drives what is to what is recorded, after a start: attachments that were never answered
// for are unmade, sandboxes of an earlier boot are dropped, interfaces that lost their port or link
// are made again, and what has no record is removed. It goes on after errors and returns them all.
// Calls in progress are waited for and new ones wait.
//
// With lost, this node's records are known to be incomplete: an interface without a record may be a
// running pod's, and is kept. kept reports whether there are such.
func (e *Engine) Recover(ctx context.Context, lost bool) (kept bool, err error) {
	end, err := e.alone(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	var errs []error
	for _, s := range e.Sandboxes() {
		if err := e.reconcile(ctx, s.ContainerID, mending); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s (pod %s/%s): %w", s.ContainerID, s.Namespace, s.Pod, err))
		}
	}
	e.lost.Store(lost)
	kept, err = e.sweep(ctx)
	return kept, errors.Join(append(errs, err)...)
}

// sweep removes what no record accounts for. What can't be removed now is left to Collect.
func (e *Engine) sweep(ctx context.Context) (kept bool, err error) {
	names, err := e.removeLeftovers(ctx, e.lost.Load())
	if err == nil || len(names) > 0 { // else it is not known, and what was kept still is
		e.kept.Store(&names)
	}
	e.unswept.Store(err != nil)
	return len(names) > 0, err
}

// Unreadable are the sandboxes whose records can't be read.
func (e *Engine) Unreadable() []string { return slices.Sorted(maps.Keys(e.unreadable)) }

// Kept are the interfaces without a record that the last Recover kept.
func (e *Engine) Kept() []string { return *e.kept.Load() }

// An effort is what reconcile does.
type effort int

const (
	unmaking effort = iota // unmakes what was never answered for, or could not be unmade
	mending                // mends the rest, too
)

// reconcile drives what is of a sandbox to what is recorded.
func (e *Engine) reconcile(ctx context.Context, containerID string, how effort) error {
	slot, release, err := e.lock(ctx, containerID)
	if err != nil {
		return err
	}
	defer release()
	s := slot.record
	if s == nil {
		return nil
	}
	if err := failpoint.Hit(failpoint.RecoverSandbox); err != nil {
		return err
	}
	if s.BootID != e.bootID && !s.over() {
		e.logger(s).Info("sandbox is of an earlier boot: dropped")
		return e.remove(ctx, slot, s, nil)
	}
	now := time.Now()
	next, undone := s.with(), slices.DeleteFunc(slices.Clone(s.Attachments), func(a Attachment) bool { return !e.due(a, now) })
	// The release before did not record that an ADD was not answered yet.
	next.Ending = s.Ending || len(s.Attachments) > 0 && !slices.ContainsFunc(s.Attachments, func(a Attachment) bool {
		return a.Status.Phase != Pending || a.Spec.Source == meta.SourceAPI
	})
	if len(undone) > 0 {
		e.logger(s).Info("unmaking what an interrupted or failed call left", "interfaces", len(undone))
		if err := e.removeThese(ctx, slot, s, next, undone); err != nil || slot.record == nil {
			return err
		}
	}
	if how == unmaking {
		return nil
	}
	return e.repair(ctx, slot, slot.record)
}

// removeLeftovers removes ports, links and claims of this node that no record accounts for. With lost, it
// returns the ports whose links are there, and leaves them.
func (e *Engine) removeLeftovers(ctx context.Context, lost bool) (kept []string, err error) {
	if err := failpoint.Hit(failpoint.RecoverLeftovers); err != nil {
		return nil, err
	}
	names, err := e.leftoverPorts(ctx)
	if lost {
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
	if allErr == nil {
		allErr = e.IPAM.ReleaseForgotten(ctx, all, e)
	}
	claims, claimErr := e.leftoverClaims(ctx)
	if lost && (err != nil || len(kept) > 0) {
		claims = nil // they may be those of the interfaces that are kept
	}
	if claimErr == nil && len(claims) > 0 {
		e.Log.Warn("freeing addresses without a record", "count", len(claims))
		claimErr = e.IPAM.Release(ctx, claims)
		e.Meter.Leaked("address", len(claims))
	}
	return kept, errors.Join(err, allErr, claimErr)
}

// isLink reports whether the host has a link of that name. A veth goes with its pod's namespace: where
// it is there, so is the pod.
func isLink(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// leftoverPorts are the ports and links that neither a record nor a call in progress accounts for.
func (e *Engine) leftoverPorts(ctx context.Context) ([]string, error) {
	return e.Delegates.Leftovers(ctx, e.accounted, e.owners)
}

// owners returns the interfaces that a record or a call in progress accounts for.
func (e *Engine) owners() []delegates.Owner {
	e.mu.Lock()
	defer e.mu.Unlock()
	owners := slices.Collect(maps.Keys(e.making))
	for id, slot := range e.sandboxes {
		if slot.record != nil {
			for _, ifName := range slot.record.Interfaces() {
				owners = append(owners, delegates.Owner{ContainerID: id, Interface: ifName})
			}
		}
	}
	return owners
}

// Knows reports whether a record or a call in progress accounts for an interface of a sandbox.
func (e *Engine) Knows(containerID, ifName string) bool {
	return e.accounted(delegates.Owner{ContainerID: containerID, Interface: ifName})
}

// accounted reports whether a record or a call in progress accounts for an interface.
func (e *Engine) accounted(o delegates.Owner) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[o.ContainerID]
	return e.making[o] > 0 || e.unreadable[o.ContainerID] || slot != nil && slot.record != nil && slot.record.Find(o.Interface) != nil
}

// leftoverClaims are this node's claims that no attachment accounts for. Those made by
// patchbay-ipam for a plugin belong to that plugin's attachment, or to a runtime that calls the
// plugin without us; the latter's are the runtime's to free.
func (e *Engine) leftoverClaims(ctx context.Context) ([]ipam.Claim, error) {
	all, err := e.IPAM.Claims(ctx, "")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(c ipam.Claim) bool {
		return c.Owner.Node != e.Node || c.Owner.Via != "" || c.Owner.IPAMClaim != "" || e.accountsFor(c)
	}), nil
}

func (e *Engine) accountsFor(c ipam.Claim) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.making[delegates.Owner{ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName}] > 0 || e.unreadable[c.Owner.ContainerID] {
		return true
	}
	slot := e.sandboxes[c.Owner.ContainerID]
	if slot == nil || slot.record == nil {
		return false
	}
	a := slot.record.Find(c.Owner.IfName)
	return a != nil && slices.ContainsFunc(a.Status.Claims, func(have ipam.Claim) bool { return have.Pool == c.Pool && have.Addr == c.Addr })
}
