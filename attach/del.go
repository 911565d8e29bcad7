package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// Del unmakes a sandbox: everything recorded of it, hot-attached interfaces too, and everything on
// Open vSwitch that bears its name. An unknown sandbox is a success.
func (e *Engine) Del(ctx context.Context, containerID string) error {
	return e.hold(ctx, containerID, e.delLocked)
}

// delLocked is Del for a slot that is locked.
func (e *Engine) delLocked(ctx context.Context, slot *slot) error {
	s := slot.record
	if s == nil {
		return e.removeLeftoversOf(ctx, slot.id)
	}
	if s.over() {
		return nil
	}
	if err := e.removeAll(ctx, slot); err != nil {
		return e.Failed(ReasonFailedDetach, s.metaPod(), err)
	}
	e.routine(s, ReasonDetached, where(s.Attachments, func(a Attachment) bool { return slot.record.Find(a.Spec.Interface) == nil })...)
	return nil
}

// DelInterface unmakes one attachment of a sandbox; an unknown one is a success.
func (e *Engine) DelInterface(ctx context.Context, containerID, ifName string) error {
	return e.hold(ctx, containerID, e.delInterfaceLocked(ifName))
}

// delInterfaceLocked is DelInterface for a slot that is locked.
func (e *Engine) delInterfaceLocked(ifName string) func(context.Context, *slot) error {
	return func(ctx context.Context, slot *slot) error {
		s := slot.record
		a := s.Find(ifName)
		if a == nil || a.Status.Phase == Abandoned {
			return nil
		}
		next := s
		if len(s.Attachments) == 1 {
			next = s.ended()
		}
		if err := e.remove(ctx, slot, next, *a); err != nil {
			return e.Failed(ReasonFailedDetach, s.metaPod(), err)
		}
		e.routine(s, ReasonDetached, *a)
		return nil
	}
}

// Detach unmakes one attachment of a running pod.
func (e *Engine) Detach(ctx context.Context, namespace, pod, ifName string) error {
	return e.detachBy(ctx, namespace, pod, ifName, func(ctx context.Context, slot *slot, a Attachment) error {
		err := e.remove(ctx, slot, slot.record, a)
		if left := slot.record.Find(ifName); err == nil && left != nil {
			err = fmt.Errorf("detach %s/%s %s: given up: %s", namespace, pod, ifName, left.Status.Message)
		}
		if err != nil {
			err = fmt.Errorf("%w; \"patchctl detach pod/%s -n %s --interface %s --force\" discards it", err, pod, namespace, ifName)
		}
		return err
	})
}

// ForceDetach is Detach, but discards what can't be unmade; unmade says why that is, nil if it was.
func (e *Engine) ForceDetach(ctx context.Context, namespace, pod, ifName string) (unmade, err error) {
	err = e.detachBy(ctx, namespace, pod, ifName, func(ctx context.Context, slot *slot, a Attachment) (err error) {
		unmade, err = e.discard(ctx, slot, a)
		return err
	})
	return unmade, err
}

// detachBy has do unmake an attachment of a running pod, and tells the pod's owner.
func (e *Engine) detachBy(ctx context.Context, namespace, pod, ifName string, do func(context.Context, *slot, Attachment) error) error {
	have, err := e.Pod(namespace, pod)
	if err != nil {
		return err
	}
	return e.hold(ctx, have.ContainerID, func(ctx context.Context, slot *slot) error {
		s := slot.record
		a := s.Find(ifName)
		if a == nil {
			return fmt.Errorf("interface %s of pod %s/%s: %w", ifName, namespace, pod, ErrNoAttachment)
		}
		if a.Spec.Source == meta.SourceCluster || a.Spec.Source == meta.SourceDirect && ifName == "eth0" {
			return fmt.Errorf("interface %s of pod %s/%s: %w", ifName, namespace, pod, ErrPodsOwn)
		}
		if err := failpoint.Hit("detach-begin"); err != nil {
			return err
		}
		begun, err := e.beginDetach(ctx, slot, *a)
		if err == nil {
			err = do(ctx, slot, begun)
		}
		if err != nil {
			return e.Failed(ReasonFailedDetach, s.metaPod(), err)
		}
		e.notify(s, ReasonDetached, a.describe())
		return nil
	})
}

// beginDetach records that an interface which plugins have made is to go, before they are executed: after a crash
// nothing tells whether they were, and the pod goes on. What is made natively is made again instead.
func (e *Engine) beginDetach(ctx context.Context, slot *slot, a Attachment) (Attachment, error) {
	if len(e.Delegates.Executed(a.Spec.Config)) == 0 || a.Status.Phase != Ready {
		return a, nil
	}
	now := time.Now().UTC()
	a.Status.Phase, a.Status.Message, a.Status.Deletion = Failed, "being detached", &Deletion{Since: now, Last: now}
	next := slot.record.with(a)
	if err := e.record(ctx, next, nil); err != nil {
		return a, fmt.Errorf("record sandbox %s: %w", next.ContainerID, err)
	}
	e.put(slot, next)
	return a, nil
}

// removeAll unmakes a recorded sandbox. What was given up before is left alone, and stays in the record.
func (e *Engine) removeAll(ctx context.Context, slot *slot) error {
	return e.remove(ctx, slot, slot.record.ended(), where(slot.record.Attachments, isNotAbandoned)...)
}

// remove unmakes attachments of a recorded sandbox and takes them out of next, which becomes the
// record. What can't be unmade stays in the record, and the error says so, unless it is given up.
func (e *Engine) remove(ctx context.Context, slot *slot, next *Sandbox, as ...Attachment) error {
	if err := failpoint.Hit("del-begin"); err != nil {
		return err
	}
	release, err := e.executing(ctx, listsOf(as))
	if err != nil {
		return err
	}
	defer release()
	clock := e.stages("DEL")
	s := slot.record
	d, err := e.enter(s)
	if fault.Of(err).Passes() {
		return err
	}
	if err == nil {
		defer d.Netns.Close()
	} // else it is gone, or another's by now, and nothing in it is touched
	outcomes := e.unmake(ctx, d, as)
	clock("unmake")
	if err := failpoint.Hit("del-unmade"); err != nil {
		return err
	}
	var gone []Attachment
	var stuck []outcome
	var waits []error // for those that are not given up yet
	for _, o := range outcomes {
		if o.err == nil {
			gone, next = append(gone, o.Attachment), next.without(o.Spec.Interface)
			continue
		}
		e.logger(s).Error("detach failed", "interface", o.Spec.Interface, "error", o.err)
		stuck, next = append(stuck, o), next.with(o.Attachment)
		if o.Status.Phase != Abandoned {
			waits = append(waits, fmt.Errorf("detach %s/%s %s: %w", s.Namespace, s.Pod, o.Spec.Interface, o.err))
		}
	}
	err = e.forget(ctx, slot, e.returnDefaultRoutes(d, next), gone)
	e.tellAbandoned(s, stuck) // once, and from now on they are, whether etcd knows it yet or not
	if err != nil {
		return errors.Join(append(waits, err)...)
	}
	clock("record")
	for _, a := range gone {
		e.logger(s).Info("detached", "network", a.Spec.Network, "interface", a.Spec.Interface)
	}
	return errors.Join(append(waits, failpoint.Hit("del-recorded"))...)
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
	return slices.DeleteFunc(claimsOf(as), func(c ipam.Claim) bool { return c.Owner.IPAMClaim != "" })
}

// claimsAtOnce is how many addresses are freed in a transaction, from both layouts; etcd allows 128 operations. No
// attachment has more: they were claimed in one.
const claimsAtOnce = 63

var errNotYet = errors.New("it is forgotten after others")

// forget records what is left of a sandbox when attachments are gone, and frees their addresses in the
// same transaction. A sandbox that is ending goes with its last attachment. Where the addresses are too many for
// one transaction there is one after the other, each with a record of what is yet to be forgotten.
func (e *Engine) forget(ctx context.Context, slot *slot, rest *Sandbox, gone []Attachment) error {
	for {
		n, claims := 0, 0
		for n < len(gone) && (n == 0 || claims+len(gone[n].Status.Claims) <= claimsAtOnce) {
			claims += len(gone[n].Status.Claims)
			n++
		}
		some, next := gone[:n], rest
		if gone = gone[n:]; len(gone) > 0 {
			next = stillRecorded(rest, gone, errNotYet)
		}
		if err := e.forgetAtOnce(ctx, slot, next, some); err != nil || len(gone) == 0 {
			return err
		}
	}
}

// forgetAtOnce is forget in one transaction.
func (e *Engine) forgetAtOnce(ctx context.Context, slot *slot, rest *Sandbox, gone []Attachment) error {
	claims := releasable(gone)
	write, next := e.record, rest
	if rest.Ending && len(rest.Attachments) == 0 {
		write, next = e.Records.Remove, nil
	}
	var releasing txn.Txn
	err := failpoint.Hit("forget-begin")
	if err == nil {
		releasing, err = e.IPAM.Releasing(ctx, claims)
	}
	if err == nil {
		err = write(ctx, rest, releasing)
	}
	if e.noteChanged(rest, err) { // the record stays, and the addresses that it accounts for
		e.put(slot, next)
		return nil
	}
	slot.unsaved = err != nil
	if err != nil {
		e.put(slot, stillRecorded(rest, gone, err))
		return fmt.Errorf("record sandbox %s: %w", rest.ContainerID, err)
	}
	e.IPAM.Released(claims)
	e.put(slot, next)
	return nil
}

// stillRecorded is a sandbox as it is known here when etcd could not be told: what is gone is yet to be
// forgotten, by GC or by the next call, and until then it is not Ready.
func stillRecorded(rest *Sandbox, gone []Attachment, err error) *Sandbox {
	now := time.Now().UTC()
	for _, a := range gone {
		a.Status.Phase, a.Status.Message = Failed, "removed, which is not recorded yet: "+err.Error()
		if a.Status.Deletion == nil {
			a.Status.Deletion = &Deletion{Since: now, Last: now}
		}
		rest = rest.with(a)
	}
	return rest
}

// An outcome is what came of unmaking an attachment.
type outcome struct {
	Attachment       // as it is recorded if it is still there
	was        Phase // before
	err        error // nil if nothing of it is left
}

// unmake has the delegates unmake attachments. One that fails doesn't keep the others from theirs.
func (e *Engine) unmake(ctx context.Context, d delegates.Sandbox, as []Attachment) []outcome {
	work := make([]*delegates.Attachment, len(as))
	for i, a := range as {
		work[i] = a.work()
	}
	var outcomes []outcome
	for i, err := range e.Delegates.Del(ctx, d, work) {
		a := as[i]
		if err != nil && isRefusal(err) && e.neverMade(ctx, d, a) {
			// A plugin that made nothing and refuses to unmake it too will not do better next time.
			e.Log.Warn("DEL after a failed ADD is refused", "sandbox", d.ContainerID, "interface", a.Spec.Interface, "error", err)
			err = e.cutLoose(ctx, d, a)
		}
		if err == nil {
			err = a.Spec.cleanDevice(d.ContainerID)
		}
		o := outcome{a, a.Status.Phase, err}
		if err != nil {
			o.Attachment = e.asFailed(a, err, time.Now().UTC())
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// work is an attachment as delegates want it.
func (a Attachment) work() *delegates.Attachment {
	return &delegates.Attachment{Interface: a.Spec.Interface, Network: a.Spec.Network, Config: a.Spec.Config,
		Requests: a.Spec.Requests, Result: a.Status.Result, Bridge: a.Status.Bridge, Port: a.Status.Port}
}

// neverMade reports whether there is nothing of an attachment: its plugin has refused to make it, or it is
// not known whether the plugin was asked, and there is neither an interface nor an address of it.
func (e *Engine) neverMade(ctx context.Context, d delegates.Sandbox, a Attachment) bool {
	switch {
	case len(e.Delegates.Executed(a.Spec.Config)) == 0 && e.Delegates.OtherIPAM(a.Spec.Config) == "":
		return false // nobody refuses
	case a.Status.Refused:
		return true
	case a.Status.Result != nil || e.Delegates.OtherIPAM(a.Spec.Config) != "":
		return false // an address may be there, of which only the other IPAM plugin knows
	case d.Netns != nil && d.Netns.Do(func() error { return absent(a.Spec.Interface) }) != nil:
		return false
	}
	asked, err := e.askedFor(ctx, d.ContainerID, a)
	return err == nil && len(asked) == 0
}

// absent fails unless there is certainly no interface of that name.
func absent(ifName string) error {
	if l, err := link.Find(ifName); l != nil || err != nil {
		return errors.Join(err, fmt.Errorf("%s is there", ifName))
	}
	return nil
}

// isRefusal reports whether an error is a plugin's own word, and not a time-out or something being away; of more
// than one error, whether all are.
func isRefusal(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !isRefusal(err) })
	}
	var e *types.Error
	return errors.As(err, &e) && e.Code != types.ErrTryAgainLater
}

// askWait bounds what the DEL of an unknown sandbox waits for.
const askWait = time.Second

// removeLeftoversOf frees what a sandbox without a record has on Open vSwitch, found by the name it
// bears there.
func (e *Engine) removeLeftoversOf(ctx context.Context, containerID string) error {
	if err := failpoint.Hit("del-unknown"); err != nil {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	names, err := e.Delegates.Leftovers(brief, func(o delegates.Owner) bool { return o.ContainerID != containerID }, nil)
	if fault.Of(err) == fault.Unavailable && len(e.Kept()) == 0 && !slices.Contains(e.Unreadable(), containerID) {
		return nil // there may be no Open vSwitch at all; what is there, recovery finds
	}
	if err != nil {
		return err
	}
	if err := e.Delegates.RemoveLeftovers(ctx, names); err != nil || len(e.Kept()) == 0 {
		return err
	}
	claims, err := e.leftoverClaims(ctx) // which Recover has kept with the interfaces
	if err != nil {
		return err
	}
	return e.IPAM.Release(ctx, slices.DeleteFunc(claims, func(c ipam.Claim) bool { return c.Owner.ContainerID != containerID }))
}
