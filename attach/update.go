package attach

import (
	"context"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// Update gives an attachment that is Ready other addresses, with their routes and DNS, than it was made
// with: those of a lease that was renewed, or none for one that was lost. The interface in the pod
// follows, then the record. It may be repeated; an attachment that is not there is ErrNoAttachment.
func (e *Engine) Update(ctx context.Context, o delegates.Owner, addresses *types100.Result) error {
	return e.hold(ctx, o.ContainerID, func(ctx context.Context, slot *slot) error {
		s := slot.record
		have := s.Find(o.Interface)
		if have == nil || have.Status.Phase != Ready {
			return fmt.Errorf("interface %s of sandbox %s: %w", o.Interface, o.ContainerID, ErrNoAttachment)
		}
		d, err := e.enter(s)
		if err != nil {
			return fmt.Errorf("pod %s/%s: %w", s.Namespace, s.Pod, err)
		}
		defer d.Netns.Close()
		a := *have
		a.Status.Result = readdressed(have.Status.Result, o.Interface, addresses)
		a = s.settled(a)
		nic := link.NIC{Name: o.Interface, Result: a.Status.Result}
		if err := d.Netns.Do(func() error { return nic.Change(have.Status.Result) }); err != nil {
			return fmt.Errorf("update %s/%s %s: %w", s.Namespace, s.Pod, o.Interface, err)
		}
		if err := e.saveChanged(ctx, slot, a); err != nil {
			return err
		}
		e.notify(s, ReasonUpdated, a.describe())
		return nil
	})
}

// readdressed is a result with other addresses on an interface of the pod.
func readdressed(made *types100.Result, ifName string, addresses *types100.Result) *types100.Result {
	res := *made
	res.IPs, res.Routes, res.DNS = nil, addresses.Routes, addresses.DNS
	for _, ip := range addresses.IPs {
		ip = ip.Copy()
		if i := indexOf(ifName, made); i >= 0 {
			ip.Interface = types100.Int(i)
		}
		res.IPs = append(res.IPs, ip)
	}
	return &res
}
