package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/netns"
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

// repair mends attachments that have lost their port, link, address or route: what the kernel has
// lost of an interface is restored; natively made ones are made again if that is not enough.
func (e *Engine) repair(ctx context.Context, slot *slot, s *Sandbox) error {
	d, err := e.enter(s)
	if err != nil {
		return nil // a namespace that is gone is for DEL, or GC
	}
	defer d.Netns.Close()
	var errs []error
	for _, a := range s.Attachments {
		if a.Status.Result == nil || a.Status.Phase != Ready {
			continue
		}
		lost := e.damage(ctx, d, a)
		if lost == nil {
			continue
		}
		e.logger(s).Warn("interface is damaged", "interface", a.Spec.Interface, "network", a.Spec.Network, "error", lost)
		a, err := e.mend(ctx, d, a)
		if err != nil {
			errs = append(errs, fmt.Errorf("mend %s: %w", a.Spec.Interface, err))
			e.Reporter.Notify(Notice{Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Warning: true, Reason: ReasonDamaged,
				Message: fmt.Sprintf("%s: %v, and can't be mended: %v", a.describe(), lost, err)})
			continue
		}
		s = s.with(a)
		if err := e.Records.Save(ctx, s, etcd.Txn{}); err != nil {
			return err
		}
		e.put(slot, s.ContainerID, s)
		e.Meter.Repaired("interface")
		e.notify(s, ReasonRepaired, a.describe()+": mended, as "+lost.Error())
	}
	return errors.Join(errs...)
}

// damage says what an attachment has lost. No plugin is executed for that.
func (e *Engine) damage(ctx context.Context, d delegates.Sandbox, a Attachment) error {
	if e.delegate(a.Spec.Config) == e.Native {
		return e.Native.Check(ctx, d, []*delegates.Attachment{a.work()})
	}
	return d.Netns.Do(a.nic().Check)
}

func (a Attachment) nic() link.NIC {
	return link.NIC{Name: a.Spec.Interface, Result: a.Status.Result, AnyRoutes: len(a.Spec.Config.Plugins) > 1}
}

func (e *Engine) mend(ctx context.Context, d delegates.Sandbox, a Attachment) (Attachment, error) {
	err := d.Netns.Do(a.nic().Apply)
	if err == nil && e.damage(ctx, d, a) == nil {
		return a, nil
	}
	if e.delegate(a.Spec.Config) != e.Native {
		return a, errors.Join(err, e.damage(ctx, d, a))
	}
	work := []*delegates.Attachment{a.work()}
	work[0].Addresses = a.Status.Result
	if err := e.Native.Del(ctx, d, work); err != nil {
		return a, err
	}
	if err := e.Native.Add(ctx, d, work); err != nil {
		return a, err
	}
	a.Status.Result = work[0].Result
	return a, nil
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
	claims, claimErr := e.leftoverClaims(ctx)
	if claimErr == nil && len(claims) > 0 {
		e.Log.Warn("freeing addresses without a record", "count", len(claims))
		claimErr = e.IPAM.Release(ctx, claims)
		e.Meter.Leaked("address", len(claims))
	}
	return errors.Join(err, claimErr)
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
		return c.Owner.Node != e.Node || c.Owner.Via != "" || e.accountsFor(c)
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

// Collect is one round of looking after what is: a sandbox whose namespace is provably gone, seen so
// twice and a grace apart, is unmade; what a call could not undo is tried again; interfaces that
// have lost their port, an address or a route are mended, or, if a plugin made them, reported.
func (e *Engine) Collect(ctx context.Context) error {
	var errs []error
	for _, s := range e.Sandboxes() {
		switch {
		case e.provenGone(s):
			e.logger(s).Warn("sandbox is gone and was never deleted: collected")
			e.Meter.Leaked("sandbox", 1)
			errs = append(errs, e.Del(ctx, s.ContainerID))
		default:
			e.collecting.RLock()
			errs = append(errs, e.reconcile(ctx, s.ContainerID, e.Mend))
			e.collecting.RUnlock()
		}
	}
	return errors.Join(errs...)
}

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
	case slot == nil || slot.record != s || !gone:
		if slot != nil {
			slot.goneAt = time.Time{}
		}
		return false
	case slot.goneAt.IsZero():
		slot.goneAt = time.Now()
		return false
	}
	return time.Since(slot.goneAt) >= e.GCGrace
}

// RunGC collects every interval until the context ends.
func (e *Engine) RunGC(ctx context.Context, interval time.Duration) {
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

// GC is the runtime's: sandboxes whose container ID is not among the valid attachments are unmade.
// The container ID is the unit, as the runtime does not know of interfaces that were attached later.
// The plugins of every known network are told too.
func (e *Engine) GC(ctx context.Context, valid []types.GCAttachment) error {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	alive := map[string]bool{}
	for _, v := range valid {
		alive[v.ContainerID] = true
	}
	var errs []error
	lists := map[string]*cniconf.List{}
	attachments := map[string][]types.GCAttachment{}
	for _, s := range e.Sandboxes() {
		for _, a := range s.Attachments {
			name := a.Spec.Config.Name
			lists[name] = a.Spec.Config
			if alive[s.ContainerID] {
				attachments[name] = append(attachments[name], types.GCAttachment{ContainerID: s.ContainerID, IfName: a.Spec.Interface})
			}
		}
		if !alive[s.ContainerID] {
			e.logger(s).Warn("the runtime no longer knows this sandbox: collected")
			errs = append(errs, e.del(ctx, s.ContainerID))
		}
	}
	for name, list := range lists {
		errs = append(errs, e.Plugins.GC(ctx, list, attachments[name]))
	}
	return errors.Join(errs...)
}

// Check compares a sandbox with its record: all attachments, hot-attached ones too.
func (e *Engine) Check(ctx context.Context, containerID string) error {
	slot, err := e.acquire(ctx, containerID)
	if err != nil {
		return err
	}
	defer e.release(containerID, slot)
	s := slot.record
	if s == nil {
		return types.NewError(types.ErrUnknownContainer, "sandbox "+containerID+" is not known", "it was never added, or is deleted")
	}
	d, err := e.enter(s)
	if err != nil {
		return err
	}
	defer d.Netns.Close()
	for _, a := range s.Attachments {
		if a.Status.Phase != Ready {
			return fmt.Errorf("%s: %s: %s", a.Spec.Interface, a.Status.Phase, a.Status.Message)
		}
		if a.Spec.Config.DisableCheck {
			continue
		}
		if err := e.checkOne(ctx, d, a); err != nil {
			return fmt.Errorf("check %s/%s: %w", s.Namespace, s.Pod, err)
		}
	}
	return nil
}

// checkOne checks an attachment and the reservation of its addresses.
func (e *Engine) checkOne(ctx context.Context, d delegates.Sandbox, a Attachment) error {
	work := []*delegates.Attachment{a.work()}
	del := e.delegate(a.Spec.Config)
	if err := del.Check(ctx, d, work); err != nil {
		return err
	}
	if typ := e.foreignIPAM(a.Spec.Config); typ != "" {
		if _, err := e.Plugins.IPAM(ctx, "CHECK", typ, d, work[0]); err != nil {
			return fmt.Errorf("%s: %w", a.Spec.Interface, err)
		}
	}
	missing, err := e.IPAM.Missing(ctx, a.Status.Claims)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s: address %s of pool %s is not reserved for it any more", a.Spec.Interface, missing[0].Addr, missing[0].Pool)
}
