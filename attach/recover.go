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
		err := e.hold(ctx, s.ContainerID, func(_ context.Context, slot *slot) error {
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
// Sandboxes are recovered in parallel, and each keeps the calls for it waiting until it is: calls may begin
// meanwhile.
//
// With lost, this node's records are known to be incomplete: an interface without a record may be a
// running pod's, and is kept (see Kept).
func (e *Engine) Recover(ctx context.Context, lost bool) error {
	e.lost.Store(lost)
	err := each(e.Sandboxes(), func(s *Sandbox) error {
		err := e.hold(ctx, s.ContainerID, func(ctx context.Context, slot *slot) error {
			return e.behindCalls(ctx, slot.record, func() error { return errors.Join(e.reconcile(ctx, slot), e.mendAll(ctx, slot)) })
		})
		if err != nil {
			err = fmt.Errorf("sandbox %s (pod %s/%s): %w", s.ContainerID, s.Namespace, s.Pod, err)
		}
		return err
	})
	return errors.Join(err, e.sweep(ctx))
}

// Unreadable are the sandboxes whose records can't be read, or were changed by somebody else.
func (e *Engine) Unreadable() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unreadable
}

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
		if e.Rehearse {
			e.logger(s).Warn("sandbox is of an earlier boot: gc.dryRun keeps it")
			return nil
		}
		e.logger(s).Info("sandbox is of an earlier boot: dropped")
		return e.removeAll(ctx, slot)
	}
	now := time.Now()
	undone := where(s.Attachments, func(a Attachment) bool { return e.due(a, now) })
	if len(undone) == 0 && slot.unsaved {
		return e.forget(ctx, slot, s, nil)
	}
	if len(undone) == 0 {
		return nil
	}
	if e.Rehearse {
		e.logger(s).Warn("an interrupted or failed call has left interfaces: gc.dryRun keeps them", "interfaces", len(undone))
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
//
// It looks once beside the calls. What it has found it looks for again, and removes, while none begins: what a
// call has made or removed meanwhile is not found twice, and no call makes what bears a name that is removed.
func (e *Engine) sweep(ctx context.Context) error {
	e.unswept.Store(true)
	if err := failpoint.Hit("recover-leftovers"); err != nil {
		return err
	}
	all, err := e.IPAM.NodeClaims(ctx, "")
	if err == nil && !e.Rehearse {
		err = e.IPAM.ReleaseForgotten(ctx, all, e)
	}
	ports, portErr := e.leftoverPorts(ctx)
	claims, claimErr := e.leftoverClaims(ctx)
	if err = errors.Join(err, portErr, claimErr); len(ports)+len(claims) > 0 {
		err = errors.Join(err, e.whileNoneBegins(ctx, e.removeUnaccounted))
	} else if err == nil {
		e.kept.Store(&[]string{})
	}
	e.unswept.Store(err != nil)
	return err
}

// removeUnaccounted is sweep's second look, while no call begins.
func (e *Engine) removeUnaccounted(ctx context.Context) error {
	names, err := e.leftoverPorts(ctx)
	var kept []string
	if e.lost.Load() {
		kept = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !isLink(n) })
		names = slices.DeleteFunc(names, isLink)
		if len(kept) > 0 {
			e.Log.Error("etcd has lost records of this node: interfaces without a record are kept; patchctl leftovers lists them", "ports", kept)
		}
	}
	claims, claimErr := e.leftoverClaims(ctx)
	if e.lost.Load() && (err != nil || len(kept) > 0) {
		claims = nil // they may be those of the interfaces that are kept
	}
	if e.Rehearse {
		if len(names)+len(claims) > 0 {
			e.Log.Warn("ports, links and addresses have no record: gc.dryRun keeps them", "ports", names, "addresses", addresses(claims))
		}
		e.kept.Store(&kept)
		return errors.Join(err, claimErr)
	}
	if err == nil && len(names) > 0 {
		e.Log.Warn("removing ports and links without a record", "ports", names)
		err = e.Delegates.RemoveLeftovers(ctx, names)
		e.Meter.Leaked("port", len(names))
	}
	if claimErr == nil && len(claims) > 0 {
		e.Log.Warn("freeing addresses without a record", "addresses", addresses(claims))
		claimErr = e.IPAM.Release(ctx, claims)
		e.Meter.Leaked("address", len(claims))
	}
	err = errors.Join(err, claimErr)
	if err == nil || len(kept) > 0 { // else it is not known, and what was kept still is
		e.kept.Store(&kept)
	}
	return err
}

func addresses(claims []ipam.Claim) []string {
	var all []string
	for _, c := range claims {
		all = append(all, c.Pool+"/"+c.Addr.String())
	}
	return all
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
	all, err := e.IPAM.NodeClaims(ctx, "")
	return slices.DeleteFunc(all, func(c ipam.Claim) bool { return !e.isLeftover(c) }), err
}

// isLeftover reports whether no attachment accounts for a claim of this node. One made by patchbay-ipam for
// a plugin belongs to that plugin's attachment, or to a runtime that calls the plugin without us; the
// latter's are the runtime's to free, as long as the node is not booted anew.
func (e *Engine) isLeftover(c ipam.Claim) bool {
	if c.Owner.Node != e.Node || c.Owner.IPAMClaim != "" {
		return false
	}
	if c.Owner.Via != "" {
		return c.Owner.BootID != "" && c.Owner.BootID != e.bootID && e.isRuntimes(c)
	}
	a, unsure := e.lookUp(delegates.Owner{ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName})
	return !unsure && (a == nil || !slices.ContainsFunc(a.Status.Claims, func(has ipam.Claim) bool { return has.Pool == c.Pool && has.Addr == c.Addr }))
}

// isRuntimes reports whether a claim of this node was made by patchbay-ipam under a runtime that called the plugin
// without us: we don't know whether its pod is there.
func (e *Engine) isRuntimes(c ipam.Claim) bool {
	return c.Owner.Node == e.Node && c.Owner.Via != "" && !e.Accounted(delegates.Owner{ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName})
}
