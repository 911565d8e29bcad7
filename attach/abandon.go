package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
)

// A Deletion tells of an attachment's DELs that failed.
type Deletion struct {
	Since    time.Time `json:"since"` // the first
	Last     time.Time `json:"last"`
	Attempts int       `json:"attempts"`
}

// GiveUp bounds how long callers wait for a DEL that fails: when it has failed so often, and for so
// long, the attachment is abandoned.
type GiveUp struct {
	Attempts int
	After    time.Duration
}

// abandonedRetry is how often GC tries to unmake what was given up.
const abandonedRetry = time.Hour

// due reports whether GC is to unmake the attachment, which was not answered for, or could not be
// unmade. What was given up and is a plugin's is left for long: each try executes it. Ours costs
// nothing, and what kept it, Open vSwitch being away, may be over.
func (e *Engine) due(a Attachment, now time.Time) bool {
	if a.Status.Phase != Abandoned {
		return a.Status.Phase != Ready
	}
	return e.Delegates.Cheap(a.Spec.Config) || !within(a.Status.Deletion.Last, abandonedRetry, now)
}

// within reports whether so little has passed since a time. One that is yet to come says that somebody has set the clock:
// nobody knows how long ago it was, and it does not keep anything from being done.
func within(since time.Time, d time.Duration, now time.Time) bool {
	return !now.Before(since) && now.Sub(since) < d
}

// asFailed returns the attachment as it is recorded after a DEL that failed.
func (e *Engine) asFailed(a Attachment, cause error, now time.Time) Attachment {
	d := Deletion{Since: now}
	if had := a.Status.Deletion; had != nil {
		if d = *had; now.Before(d.Since) { // the clock was set back: it is counted from now on
			d.Since = now
		}
	}
	d.Attempts, d.Last = d.Attempts+1, now
	a.Status.Deletion, a.Status.Message = &d, explain.Shortened(cause.Error())
	if a.Status.Phase != Abandoned {
		a.Status.Phase = Failed
	}
	if d.Attempts >= e.GiveUp.Attempts && now.Sub(d.Since) >= e.GiveUp.After {
		a.Status.Phase = Abandoned
	}
	return a
}

// tellAbandoned says which of the attachments were given up just now.
func (e *Engine) tellAbandoned(s *Sandbox, outcomes []outcome) {
	for _, o := range outcomes {
		if o.Status.Phase != Abandoned || o.was == Abandoned {
			continue
		}
		d := o.Status.Deletion
		text := fmt.Sprintf("%s: DEL failed %d times in %s: %s; it is given up and kept as a leftover: \"patchctl leftovers\" on node %s lists it, \"patchctl leftovers rm\" removes it",
			o.describe(), d.Attempts, d.Last.Sub(d.Since).Round(time.Second), o.Status.Message, e.Node)
		e.logger(s).Error("DEL is given up", "interface", o.Spec.Interface, "attempts", d.Attempts, "error", o.Status.Message)
		e.tell(s.metaPod(), Notice{Warning: true, Reason: ReasonAbandoned, Message: text})
	}
}

// discard takes an attachment out of the record whether it can be unmade or not, frees its addresses,
// and returns why it could not be unmade. For people who know that nothing uses it any more.
func (e *Engine) discard(ctx context.Context, slot *slot, a Attachment) (unmade, err error) {
	release, err := e.executing(ctx, listsOf([]Attachment{a}))
	if err != nil {
		return nil, err
	}
	defer release()
	s := slot.record
	d, err := e.enter(s)
	switch {
	case err == nil:
		defer d.Netns.Close()
	case !errors.Is(err, netns.ErrGone) && !errors.Is(err, netns.ErrOther):
		return nil, fmt.Errorf("look into the pod: %w", err) // what is in it would keep its addresses
	}
	if unmade = e.unmake(ctx, d, []Attachment{a})[0].err; unmade != nil {
		if err := e.cutLoose(ctx, d, a); err != nil {
			return unmade, err
		}
	}
	next := e.returnDefaultRoutes(d, s.without(a.Spec.Interface))
	if err = e.forget(ctx, slot, next, []Attachment{a}); err == nil {
		e.logger(s).Warn("discarded", "network", a.Spec.Network, "interface", a.Spec.Interface, "error", unmade)
	}
	return unmade, err
}

// cutLoose takes from an attachment that its plugins will not unmake what must not stay: the port and
// link that we made at the head of its chain, the interface in the pod, and the addresses that its
// plugins asked us for, which are free from now on.
func (e *Engine) cutLoose(ctx context.Context, d delegates.Sandbox, a Attachment) error {
	if err := e.Delegates.DelHead(ctx, d, a.work()); err != nil {
		return err
	}
	if d.Netns != nil && a.tellsInterface() {
		if err := takeOut(d.Netns, a.Spec.Interface); err != nil {
			return fmt.Errorf("%s is still in the pod, and its addresses would have a second owner: %w", a.Spec.Interface, err)
		}
	}
	asked, err := e.askedFor(ctx, d.ContainerID, a)
	if err != nil {
		return err
	}
	return e.IPAM.Release(ctx, asked)
}

// tellsInterface reports whether the plugins have said that the interface of that name is theirs.
func (a *Attachment) tellsInterface() bool {
	return a.Status.Result != nil && indexOf(a.Spec.Interface, a.Status.Result) >= 0
}

// indexOf is the place of a pod's interface among those of a result, -1 if the result does not tell of it.
func indexOf(ifName string, res *types100.Result) int {
	return slices.IndexFunc(res.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" && i.Name == ifName })
}

// askedFor are the claims that plugins of the attachment asked us for, and would have freed.
func (e *Engine) askedFor(ctx context.Context, containerID string, a Attachment) ([]ipam.Claim, error) {
	var all []ipam.Claim
	for _, p := range e.Delegates.Executed(a.Spec.Config) {
		if p.IPAMType != ipam.Type {
			continue
		}
		pool, _ := ipam.NameOf(p.IPAM) // "" if that can't be told any more: then all pools are looked into
		claims, err := e.IPAM.Owned(ctx, pool, ipam.Owner{ContainerID: containerID, IfName: a.Spec.Interface})
		if err != nil {
			return nil, err
		}
		all = append(all, claims...)
	}
	return all, nil
}

// takeOut takes an interface out of a pod as far as that goes: a physical one only loses its addresses.
func takeOut(ns *netns.Handle, ifName string) error {
	return ns.Do(func() error {
		l, err := link.Find(ifName)
		if l == nil {
			return err
		}
		if err := netlink.LinkDel(l); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		addrs, err := link.Addresses(&netlink.Handle{}, l)
		errs := []error{err, netlink.LinkSetDown(l)}
		for _, a := range addrs {
			errs = append(errs, netlink.AddrDel(l, &a))
		}
		return errors.Join(errs...)
	})
}
