package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Load reads the records; call it once, before Recover and before any other call.
func (e *Engine) Load(ctx context.Context) error {
	records, err := e.Records.Load(ctx)
	if err != nil {
		return err
	}
	for _, s := range records {
		slot, err := e.acquire(ctx, s.ContainerID)
		if err != nil {
			return err
		}
		e.put(slot, s.ContainerID, s)
		e.release(s.ContainerID, slot)
	}
	return nil
}

// Recover drives what is to what is recorded, after a start: attachments that were never answered
// for are unmade, sandboxes of an earlier boot are dropped, interfaces that lost their port or link
// are made again, and what has no record is removed. It goes on after errors and returns them all.
// Calls in progress are waited for and new ones wait.
func (e *Engine) Recover(ctx context.Context) error {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	var errs []error
	for _, s := range e.Sandboxes() {
		if err := e.reconcile(ctx, s.ContainerID, true); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s (pod %s/%s): %w", s.ContainerID, s.Namespace, s.Pod, err))
		}
	}
	errs = append(errs, e.removeOrphans(ctx))
	return errors.Join(errs...)
}

// reconcile unmakes what was never answered for and, with mend, repairs the rest.
func (e *Engine) reconcile(ctx context.Context, containerID string, mend bool) error {
	slot, err := e.acquire(ctx, containerID)
	if err != nil {
		return err
	}
	defer e.release(containerID, slot)
	s := slot.record
	if s == nil {
		return nil
	}
	if err := failpoint.Hit(failpoint.RecoverSandbox); err != nil {
		return err
	}
	if s.BootID != e.bootID {
		e.logger(s).Info("sandbox is of an earlier boot: dropped")
		return e.remove(ctx, slot, s, nil)
	}
	kept := s.without()
	kept.Attachments = slices.DeleteFunc(kept.Attachments, func(a Attachment) bool { return a.Status.Phase != Ready })
	if len(kept.Attachments) < len(s.Attachments) {
		e.logger(s).Info("unmaking what an interrupted call left")
		rest := kept
		if len(kept.Attachments) == 0 {
			rest = nil // the ADD itself was interrupted; the runtime adds again or has given up
		}
		if err := e.remove(ctx, slot, s, rest); err != nil || rest == nil {
			return err
		}
	}
	if !mend {
		return nil
	}
	return e.repair(ctx, slot, slot.record)
}

// removeOrphans removes ports, links and claims of this node that no record accounts for.
func (e *Engine) removeOrphans(ctx context.Context) error {
	if err := failpoint.Hit(failpoint.RecoverOrphans); err != nil {
		return err
	}
	names, err := e.leftoverPorts(ctx)
	if err == nil && len(names) > 0 {
		e.Log.Warn("removing ports and links without a record", "ports", names)
		err = e.Native.RemoveLeftovers(ctx, names)
		e.Meter.Leaked("port", len(names))
	}
	all, allErr := e.IPAM.Claims(ctx, "")
	if allErr == nil {
		allErr = e.releaseClaims(ctx, all)
	}
	claims, claimErr := e.leftoverClaims(ctx)
	if claimErr == nil && len(claims) > 0 {
		e.Log.Warn("freeing addresses without a record", "count", len(claims))
		claimErr = e.IPAM.Release(ctx, claims)
		e.Meter.Leaked("address", len(claims))
	}
	return errors.Join(err, allErr, claimErr)
}

func (e *Engine) leftoverPorts(ctx context.Context) ([]string, error) {
	known, names := map[ovs.Owner]bool{}, map[string]bool{}
	for _, s := range e.Sandboxes() {
		for _, a := range s.Attachments {
			known[ovs.Owner{ContainerID: s.ContainerID, Interface: a.Spec.Interface}] = true
			names[ovs.HostName(s.ContainerID, a.Spec.Interface)] = true
		}
	}
	return e.Native.Leftovers(ctx, func(o ovs.Owner) bool { return known[o] }, func(n string) bool { return names[n] })
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
		return c.Owner.Node != e.Node || c.Owner.Via != "" || c.Owner.Claim != "" || e.accountsFor(c)
	}), nil
}

func (e *Engine) accountsFor(c ipam.Claim) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[c.Owner.ContainerID]
	if slot == nil || slot.record == nil {
		return false
	}
	a := slot.record.Find(c.Owner.IfName)
	return a != nil && slices.ContainsFunc(a.Status.Claims, func(have ipam.Claim) bool { return have.Pool == c.Pool && have.Addr == c.Addr })
}

// Leftovers is what doctor reports: things of ours without a record. Calls in progress are waited
// for, so that nothing half-made is counted.
type Leftovers struct {
	Ports     []string     `json:"ports"`     // ports and links
	Claims    []ipam.Claim `json:"claims"`    // addresses without an owner
	Unclaimed []ipam.Claim `json:"unclaimed"` // owners whose address is not claimed
}

// Inspect looks for leftovers and changes nothing.
func (e *Engine) Inspect(ctx context.Context) (Leftovers, error) {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	l := Leftovers{Ports: []string{}, Claims: []ipam.Claim{}, Unclaimed: []ipam.Claim{}}
	ports, err := e.leftoverPorts(ctx)
	if err != nil {
		return l, err
	}
	l.Ports = append(l.Ports, ports...)
	claims, err := e.leftoverClaims(ctx)
	if err != nil {
		return l, err
	}
	l.Claims = append(l.Claims, claims...)
	for _, s := range e.Sandboxes() {
		missing, err := e.IPAM.Missing(ctx, claimsOf(s.Attachments))
		if err != nil {
			return l, err
		}
		l.Unclaimed = append(l.Unclaimed, missing...)
	}
	return l, nil
}
