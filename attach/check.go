package attach

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/link"
)

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
		if a.Status.Result == nil || a.Status.Phase != Ready || !a.hasInterface() {
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

// damage says what an attachment has lost. No plugin is executed for that. While Open vSwitch is away
// nothing is known, and an interface that may be forwarding is left alone.
func (e *Engine) damage(ctx context.Context, d delegates.Sandbox, a Attachment) error {
	if e.delegate(a.Spec.Config) != e.Native {
		return d.Netns.Do(a.nic().Check)
	}
	if !e.Native.Connected() {
		return nil
	}
	err := e.Native.Check(ctx, d, []*delegates.Attachment{a.work()})
	var away *types.Error
	if errors.As(err, &away) && away.Code == types.ErrTryAgainLater {
		return nil
	}
	return err
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
	if err := errors.Join(e.Native.Del(ctx, d, work)...); err != nil {
		return a, err
	}
	if err := e.Native.Add(ctx, d, work); err != nil {
		return a, err
	}
	a.Status.Result = work[0].Result
	return a, nil
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
