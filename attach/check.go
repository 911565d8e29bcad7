package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
)

// mendAll mends all attachments of a sandbox.
func (e *Engine) mendAll(ctx context.Context, slot *slot) error {
	return e.mend(ctx, slot, slot.record.Interfaces()...)
}

// mend mends those of the attachments that have lost their port, link, address or route.
func (e *Engine) mend(ctx context.Context, slot *slot, interfaces ...string) error {
	if len(interfaces) == 0 {
		return nil
	}
	d, err := e.enter(slot.record)
	if err != nil {
		return nil // a namespace that is gone is for DEL, or GC
	}
	defer d.Netns.Close()
	var errs []error
	for _, a := range slot.record.Attachments {
		if a.Status.Result == nil || a.Status.Phase != Ready || !a.hasInterface() || !slices.Contains(interfaces, a.Spec.Interface) {
			continue
		}
		work := a.work()
		lost, err := e.Delegates.Mend(ctx, d, work)
		if lost == nil {
			if !fault.Of(err).Passes() {
				errs = append(errs, err)
			}
			continue
		}
		s := slot.record
		e.logger(s).Warn("interface is damaged", "interface", a.Spec.Interface, "network", a.Spec.Network, "error", lost)
		if err != nil {
			errs = append(errs, fmt.Errorf("mend %s: %w", a.Spec.Interface, err))
			e.tell(s.metaPod(), Notice{Warning: true, Reason: ReasonDamaged, Message: fmt.Sprintf("%s: %v, and can't be mended: %v", a.describe(), lost, err)})
			continue
		}
		a.Status.Result, a.Status.Bridge, a.Status.Port = work.Result, work.Bridge, work.Port
		if err := e.saveChanged(ctx, slot, a); err != nil {
			return err
		}
		e.Meter.Repaired("interface")
		e.notify(s, ReasonRepaired, a.describe()+": mended, as "+lost.Error())
	}
	if next := e.returnDefaultRoutes(d, slot.record); next.displaced() < slot.record.displaced() {
		errs = append(errs, e.save(ctx, slot, next))
	}
	return errors.Join(errs...)
}

// saveChanged records an attachment that has changed.
func (e *Engine) saveChanged(ctx context.Context, slot *slot, a Attachment) error {
	return e.save(ctx, slot, slot.record.with(a))
}

func (e *Engine) save(ctx context.Context, slot *slot, next *Sandbox) error {
	if err := failpoint.Hit("mend-record"); err != nil {
		return err
	}
	if err := e.record(ctx, next, nil); err != nil {
		return fmt.Errorf("record sandbox %s: %w", slot.id, err)
	}
	e.put(slot, next)
	return nil
}

// Check compares a sandbox with its record: all attachments, hot-attached ones too.
func (e *Engine) Check(ctx context.Context, containerID string) error {
	return e.hold(ctx, containerID, e.checkLocked)
}

func (e *Engine) checkLocked(ctx context.Context, slot *slot) error {
	s := slot.record
	if s == nil {
		return types.NewError(types.ErrUnknownContainer, "sandbox "+slot.id+" is not known", "it was never added, or is deleted")
	}
	d, err := e.enter(s)
	if err != nil {
		return err
	}
	defer d.Netns.Close()
	if err := failpoint.Hit("check-begin"); err != nil {
		return err
	}
	var work []*delegates.Attachment
	var claims []ipam.Claim
	for _, a := range s.Attachments {
		if a.Status.Phase != Ready {
			return fmt.Errorf("%s: %s: %s", a.Spec.Interface, a.Status.Phase, a.Status.Message)
		}
		if !a.Spec.Config.DisableCheck {
			work, claims = append(work, a.work()), append(claims, a.Status.Claims...)
		}
	}
	if err := e.Delegates.Check(ctx, d, work); err != nil {
		return fmt.Errorf("check %s/%s: %w", s.Namespace, s.Pod, err)
	}
	if err := failpoint.Hit("check-claims"); err != nil {
		return err
	}
	missing, err := e.IPAM.Missing(ctx, claims)
	if err == nil && len(missing) > 0 {
		c := missing[0]
		err = fmt.Errorf("check %s/%s: address %s of pool %s is not reserved for %s any more", s.Namespace, s.Pod, c.Addr, c.Pool, c.Owner)
	}
	return err
}
