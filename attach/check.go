package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
)

// repair mends attachments that have lost their port, link, address or route: those named, or all.
func (e *Engine) repair(ctx context.Context, slot *slot, s *Sandbox, interfaces ...string) error {
	d, err := e.enter(s)
	if err != nil {
		return nil // a namespace that is gone is for DEL, or GC
	}
	defer d.Netns.Close()
	var errs []error
	for _, a := range s.Attachments {
		if a.Status.Result == nil || a.Status.Phase != Ready || !a.hasInterface() || len(interfaces) > 0 && !slices.Contains(interfaces, a.Spec.Interface) {
			continue
		}
		work := a.work()
		lost, err := e.Delegates.Mend(ctx, d, work)
		if lost == nil {
			continue
		}
		e.logger(s).Warn("interface is damaged", "interface", a.Spec.Interface, "network", a.Spec.Network, "error", lost)
		if err != nil {
			errs = append(errs, fmt.Errorf("mend %s: %w", a.Spec.Interface, err))
			e.tell(Notice{Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Warning: true, Reason: ReasonDamaged,
				Message: fmt.Sprintf("%s: %v, and can't be mended: %v", a.describe(), lost, err)})
			continue
		}
		a.Status.Result = work.Result
		s = s.with(a)
		if err := e.Records.Save(ctx, s, nil); err != nil {
			return err
		}
		e.put(slot, s)
		e.Meter.Repaired("interface")
		e.notify(s, ReasonRepaired, a.describe()+": mended, as "+lost.Error())
	}
	return errors.Join(errs...)
}

// Check compares a sandbox with its record: all attachments, hot-attached ones too.
func (e *Engine) Check(ctx context.Context, containerID string) error {
	slot, release, err := e.lock(ctx, containerID)
	if err != nil {
		return err
	}
	defer release()
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
	if err := e.Delegates.Check(ctx, d, []*delegates.Attachment{a.work()}); err != nil {
		return err
	}
	missing, err := e.IPAM.Missing(ctx, a.Status.Claims)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s: address %s of pool %s is not reserved for it any more", a.Spec.Interface, missing[0].Addr, missing[0].Pool)
}
