package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
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
			continue
		}
		s := slot.record
		e.logger(s).Warn("interface is damaged", "interface", a.Spec.Interface, "network", a.Spec.Network, "error", lost)
		if err != nil {
			errs = append(errs, fmt.Errorf("mend %s: %w", a.Spec.Interface, err))
			e.tell(s.metaPod(), Notice{Warning: true, Reason: ReasonDamaged, Message: fmt.Sprintf("%s: %v, and can't be mended: %v", a.describe(), lost, err)})
			continue
		}
		a.Status.Result = work.Result
		if err := e.saveChanged(ctx, slot, a); err != nil {
			return err
		}
		e.Meter.Repaired("interface")
		e.notify(s, ReasonRepaired, a.describe()+": mended, as "+lost.Error())
	}
	return errors.Join(errs...)
}

// saveChanged records an attachment that has changed.
func (e *Engine) saveChanged(ctx context.Context, slot *slot, a Attachment) error {
	next := slot.record.with(a)
	if err := e.Records.Save(ctx, next, nil); err != nil {
		return fmt.Errorf("record sandbox %s: %w", slot.id, err)
	}
	e.put(slot, next)
	return nil
}

// Check compares a sandbox with its record: all attachments, hot-attached ones too.
func (e *Engine) Check(ctx context.Context, containerID string) error {
	return e.lock(ctx, containerID, e.checkLocked)
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
	if err := e.Delegates.Check(ctx, d, []*delegates.Attachment{a.work()}); err != nil {
		return err
	}
	missing, err := e.IPAM.Missing(ctx, a.Status.Claims)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s: address %s of pool %s is not reserved for it any more", a.Spec.Interface, missing[0].Addr, missing[0].Pool)
}
