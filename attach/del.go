package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Del unmakes a sandbox: everything recorded of it, hot-attached interfaces too, and everything on
// Open vSwitch that bears its name. An unknown sandbox is a success.
func (e *Engine) Del(ctx context.Context, containerID string) error {
	e.collecting.RLock()
	defer e.collecting.RUnlock()
	return e.del(ctx, containerID)
}

func (e *Engine) del(ctx context.Context, containerID string) error {
	slot, err := e.acquire(ctx, containerID)
	if err != nil {
		return err
	}
	defer e.release(containerID, slot)
	s := slot.record
	if s == nil {
		return e.removeUnrecorded(ctx, containerID)
	}
	if err := e.remove(ctx, slot, s, nil); err != nil {
		e.Failed(ReasonFailedDetach, s.pod(), err)
		return err
	}
	e.routine(s, ReasonDetached, s.Attachments...)
	return nil
}

// DelInterface unmakes one attachment of a sandbox; an unknown one is a success.
func (e *Engine) DelInterface(ctx context.Context, containerID, ifName string) error {
	e.collecting.RLock()
	defer e.collecting.RUnlock()
	slot, err := e.acquire(ctx, containerID)
	if err != nil {
		return err
	}
	defer e.release(containerID, slot)
	s := slot.record
	if s == nil || s.Find(ifName) == nil {
		return nil
	}
	rest := s.without(ifName)
	if len(rest.Attachments) == 0 {
		rest = nil
	}
	if err := e.remove(ctx, slot, s, rest); err != nil {
		e.Failed(ReasonFailedDetach, s.pod(), err)
		return err
	}
	e.routine(s, ReasonDetached, *s.Find(ifName))
	return nil
}

// Detach unmakes one attachment of a running pod.
func (e *Engine) Detach(ctx context.Context, namespace, pod, ifName string) error {
	e.collecting.RLock()
	defer e.collecting.RUnlock()
	have, err := e.Pod(namespace, pod)
	if err != nil {
		return err
	}
	slot, err := e.acquire(ctx, have.ContainerID)
	if err != nil {
		return err
	}
	defer e.release(have.ContainerID, slot)
	if slot.record == nil || slot.record.Find(ifName) == nil {
		return fmt.Errorf("interface %s of pod %s/%s: %w", ifName, namespace, pod, ErrNoAttachment)
	}
	s, a := slot.record, slot.record.Find(ifName)
	if err := e.remove(ctx, slot, s, s.without(ifName)); err != nil {
		e.Failed(ReasonFailedDetach, s.pod(), err)
		return err
	}
	e.notify(s, ReasonDetached, a.describe())
	return nil
}

// remove unmakes the attachments of a recorded sandbox that rest, nil for none, does not have, and
// leaves rest as the record. On an error everything stays recorded.
func (e *Engine) remove(ctx context.Context, slot *slot, s, rest *Sandbox) error {
	if err := failpoint.Hit(failpoint.DelBegin); err != nil {
		return err
	}
	clock := e.stages("DEL")
	d, err := e.enter(s)
	if err == nil {
		defer d.Netns.Close()
	} // else it is gone, or another's by now, and nothing in it is touched
	var as []Attachment
	var names []string
	for _, a := range s.Attachments {
		if rest == nil || rest.Find(a.Spec.Interface) == nil {
			as, names = append(as, a), append(names, a.Spec.Interface)
		}
	}
	if err := e.unmake(ctx, d, as); err != nil {
		e.logger(s).Error("detach failed", "interface", names, "error", err)
		return fmt.Errorf("detach %s/%s %s: %w", s.Namespace, s.Pod, strings.Join(names, ", "), err)
	}
	clock("unmake")
	if err := failpoint.Hit(failpoint.DelUnmade); err != nil {
		return err
	}
	if d.Netns != nil && rest != nil {
		if rest, err = restoreDefaultRoutes(d, rest); err != nil {
			e.logger(s).Warn("default route is not restored", "error", err)
		}
	}
	if err := e.forget(ctx, slot, s, rest, releasable(as)); err != nil {
		return err
	}
	clock("record")
	for _, a := range as {
		e.logger(s).Info("detached", "network", a.Spec.Network, "interface", a.Spec.Interface)
	}
	return failpoint.Hit(failpoint.DelRecorded)
}

func claimsOf(as []Attachment) []ipam.Claim {
	var claims []ipam.Claim
	for _, a := range as {
		claims = append(claims, a.Status.Claims...)
	}
	return claims
}

// releasable are the claims that end with the attachments; an IPAMClaim's end with it.
func releasable(as []Attachment) []ipam.Claim {
	return slices.DeleteFunc(claimsOf(as), func(c ipam.Claim) bool { return c.Owner.Claim != "" })
}

// forget records what is left of a sandbox, nil for nothing, and frees addresses in the same
// transaction.
func (e *Engine) forget(ctx context.Context, slot *slot, s, rest *Sandbox, claims []ipam.Claim) error {
	var err error
	ops := e.IPAM.ReleaseOps(claims)
	if rest == nil {
		err = e.Records.Remove(ctx, s, ops)
	} else {
		err = e.Records.Save(ctx, rest, etcd.Txn{Then: ops})
	}
	if err != nil {
		return fmt.Errorf("record sandbox %s: %w", s.ContainerID, err)
	}
	e.IPAM.Released(claims)
	e.put(slot, s.ContainerID, rest)
	return nil
}

// unmake has the delegates unmake attachments, in reverse order. One that fails doesn't keep the
// others from theirs.
func (e *Engine) unmake(ctx context.Context, d delegates.Sandbox, as []Attachment) error {
	work := make([]*delegates.Attachment, len(as))
	for i, a := range as {
		work[i] = a.work()
	}
	var errs []error
	for end := len(work); end > 0; {
		del := e.delegate(work[end-1].Config)
		begin := end - 1
		for del == e.Native && begin > 0 && e.delegate(work[begin-1].Config) == del {
			begin--
		}
		err := del.Del(ctx, d, work[begin:end])
		switch {
		case err != nil && as[begin].neverMade() && definite(err):
			// A plugin that made nothing and refuses to unmake it too will not do better next time.
			e.Log.Warn("DEL after a failed ADD is refused", "sandbox", d.ContainerID, "interface", work[begin].Interface, "error", err)
		case err != nil:
			errs = append(errs, err)
		default:
			errs = append(errs, e.foreignRelease(ctx, d, work[begin:end]))
		}
		end = begin
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return cleanDevices(d.ContainerID, as)
}

// work is an attachment as delegates want it.
func (a Attachment) work() *delegates.Attachment {
	return &delegates.Attachment{Interface: a.Spec.Interface, Network: a.Spec.Network, Config: a.Spec.Config,
		RuntimeConfig: a.Spec.RuntimeConfig, Args: a.Spec.cniArgs(), Result: a.Status.Result}
}

// neverMade reports that no plugin has answered an ADD of the attachment with success.
func (a Attachment) neverMade() bool { return a.Status.Phase != Ready && a.Status.Result == nil }

// definite reports that an error is a plugin's own word, not a time-out or something being away.
func definite(err error) bool {
	var e *types.Error
	return errors.As(err, &e) && e.Code != types.ErrTryAgainLater
}

// foreignRelease has other IPAM plugins free the addresses of natively made attachments.
func (e *Engine) foreignRelease(ctx context.Context, d delegates.Sandbox, as []*delegates.Attachment) error {
	var errs []error
	for _, a := range as {
		if typ := e.foreignIPAM(a.Config); typ != "" {
			if _, err := e.Plugins.IPAM(ctx, "DEL", typ, d, a); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// removeUnrecorded frees what a sandbox without a record has on Open vSwitch, found by the name it
// bears there.
func (e *Engine) removeUnrecorded(ctx context.Context, containerID string) error {
	names, err := e.Native.Leftovers(ctx,
		func(o ovs.Owner) bool { return o.ContainerID != containerID },
		func(string) bool { return true })
	if err != nil {
		return err
	}
	return e.Native.RemoveLeftovers(ctx, names)
}
