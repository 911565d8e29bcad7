package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

// due reports whether it is time to unmake the attachment, which was not answered for, or could not be
// unmade.
func (a *Attachment) due(now time.Time) bool {
	return a.Status.Phase != Abandoned || now.Sub(a.Status.Deletion.Last) >= abandonedRetry
}

// failed returns the attachment as it is recorded after a DEL that failed.
func (e *Engine) failed(a Attachment, cause error, now time.Time) Attachment {
	d := Deletion{Since: now}
	if a.Status.Deletion != nil {
		d = *a.Status.Deletion
	}
	d.Attempts, d.Last = d.Attempts+1, now
	a.Status.Deletion, a.Status.Message = &d, cause.Error()
	if a.Status.Phase != Abandoned {
		a.Status.Phase = Failed
	}
	if d.Attempts >= e.GiveUp.Attempts && now.Sub(d.Since) >= e.GiveUp.After {
		a.Status.Phase = Abandoned
	}
	return a
}

// tellAbandoned says of attachments that they were given up just now.
func (e *Engine) tellAbandoned(s *Sandbox, before, after []Attachment) {
	for i, a := range after {
		if a.Status.Phase != Abandoned || before[i].Status.Phase == Abandoned {
			continue
		}
		d := a.Status.Deletion
		text := fmt.Sprintf("%s: DEL failed %d times in %s: %s; it is given up and kept as a leftover: \"patchctl leftovers\" on node %s lists it, \"patchctl leftovers rm\" removes it",
			a.describe(), d.Attempts, d.Last.Sub(d.Since).Round(time.Second), a.Status.Message, e.Node)
		e.logger(s).Error("DEL is given up", "interface", a.Spec.Interface, "attempts", d.Attempts, "error", a.Status.Message)
		e.Reporter.Notify(Notice{Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Warning: true, Reason: ReasonAbandoned, Message: text})
	}
}

// stuck is the error of a DEL that left attachments which are not given up yet; nil if there are none.
func (e *Engine) stuck(s *Sandbox, after []Attachment, errs []error) error {
	var names []string
	var causes []error
	for i, a := range after {
		if a.Status.Phase != Abandoned {
			names, causes = append(names, a.Spec.Interface), append(causes, errs[i])
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("detach %s/%s %s: %w", s.Namespace, s.Pod, strings.Join(names, ", "), errors.Join(causes...))
}

// discard takes an attachment out of the record whether it can be unmade or not, frees its addresses,
// and returns why it could not be unmade. For people who know that nothing uses it any more.
func (e *Engine) discard(ctx context.Context, slot *slot, s *Sandbox, a Attachment) (unmade, err error) {
	d, enterErr := e.enter(s)
	if enterErr == nil {
		defer d.Netns.Close()
	}
	unmade = e.unmake(ctx, d, []Attachment{a})[0]
	if unmade != nil && d.Netns != nil && a.hasInterface() {
		// Its addresses are free from now on: the pod must not go on using them.
		if err := takeOut(d.Netns, a.Spec.Interface); err != nil {
			return unmade, fmt.Errorf("%s is still in the pod, and its addresses would have a second owner: %w", a.Spec.Interface, err)
		}
	}
	claims := releasable([]Attachment{a})
	if unmade != nil {
		asked, err := e.askedFor(ctx, s.ContainerID, a.Spec.Interface)
		if err != nil {
			return unmade, err
		}
		claims = append(claims, asked...)
	}
	if err := e.forget(ctx, slot, s, s.without(a.Spec.Interface), claims); err != nil {
		return unmade, err
	}
	e.logger(s).Warn("discarded", "network", a.Spec.Network, "interface", a.Spec.Interface, "error", unmade)
	return unmade, nil
}

// askedFor are the claims that a plugin of the attachment asked us for and would have freed.
func (e *Engine) askedFor(ctx context.Context, containerID, ifName string) ([]ipam.Claim, error) {
	all, err := e.IPAM.Claims(ctx, "")
	return slices.DeleteFunc(all, func(c ipam.Claim) bool {
		return c.Owner.Via == "" || c.Owner.Node != e.Node || c.Owner.ContainerID != containerID || c.Owner.IfName != ifName
	}), err
}

// takeOut takes an interface out of a pod as far as that goes: a physical one only loses its addresses.
func takeOut(ns *netns.Handle, ifName string) error {
	return ns.Do(func() error {
		l, err := netlink.LinkByName(ifName)
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(l); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		errs := []error{err, netlink.LinkSetDown(l)}
		for _, a := range addrs {
			errs = append(errs, netlink.AddrDel(l, &a))
		}
		return errors.Join(errs...)
	})
}
