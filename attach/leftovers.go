package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Leftovers is what is there without a record, or was given up.
type Leftovers struct {
	Ports     []string     // ports and links
	Claims    []ipam.Claim // addresses without an owner
	Unclaimed []ipam.Claim // owners whose address is not claimed
	Abandoned []Stuck
}

// Stuck is an attachment whose DEL fails.
type Stuck struct {
	Sandbox    *Sandbox
	Attachment Attachment
}

func (s Stuck) String() string {
	a := s.Attachment
	return fmt.Sprintf("%s/%s %s: DEL failed %d times since %s: %s", s.Sandbox.Namespace, s.Sandbox.Pod, a.Spec.Interface,
		a.Status.Deletion.Attempts, a.Status.Deletion.Since.Format("2006-01-02 15:04:05"), a.Status.Message)
}

// Stuck returns the attachments whose DEL fails and is tried again, or was given up.
func (e *Engine) Stuck(phase Phase) []Stuck {
	var all []Stuck
	for _, s := range e.Sandboxes() {
		for _, a := range s.Attachments {
			if a.Status.Phase == phase && a.Status.Deletion != nil {
				all = append(all, Stuck{s, a})
			}
		}
	}
	return all
}

// Inspect looks for leftovers and changes nothing. It holds no call up: what is not accounted for is
// looked for twice, so that what a call made or removed meanwhile is not counted.
func (e *Engine) Inspect(ctx context.Context) (l Leftovers, err error) {
	var errs [3]error
	l.Abandoned = e.Stuck(Abandoned)
	l.Ports, errs[0] = twice(ctx, e.leftoverPorts)
	l.Claims, errs[1] = twice(ctx, e.leftoverClaims)
	l.Unclaimed, errs[2] = twice(ctx, e.unclaimed)
	return l, errors.Join(errs[:]...)
}

// unclaimed are the addresses that attachments have by their records, and that are not claimed for them.
func (e *Engine) unclaimed(ctx context.Context) (all []ipam.Claim, err error) {
	for _, s := range e.Sandboxes() {
		missing, err := e.IPAM.Missing(ctx, claimsOf(s.Attachments))
		if err != nil {
			return nil, err
		}
		all = append(all, missing...)
	}
	return all, nil
}

// twice looks twice, and returns what was found both times.
func twice[T comparable](ctx context.Context, look func(context.Context) ([]T, error)) ([]T, error) {
	first, err := look(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	again, err := look(ctx)
	return slices.DeleteFunc(first, func(v T) bool { return !slices.Contains(again, v) }), err
}

// The kinds of leftovers that can be removed, with what names one of them.
const (
	LeftoverPort       = "port"       // its name
	LeftoverAddress    = "address"    // pool/ip
	LeftoverAttachment = "attachment" // containerID/interface
)

// RemoveLeftover removes one leftover. What is none, or no longer, is ErrNoLeftover, or a conflict if it is in
// use. unmade says why an attachment could not be unmade before it was discarded.
func (e *Engine) RemoveLeftover(ctx context.Context, kind, id string) (unmade, err error) {
	switch kind {
	case LeftoverPort:
		return nil, e.removeLeftoverPort(ctx, id)
	case LeftoverAddress:
		return nil, e.removeLeftoverAddress(ctx, id)
	case LeftoverAttachment:
		return e.removeAbandoned(ctx, id)
	}
	return nil, fmt.Errorf("leftover %s/%s: %w: kinds are port, address, attachment", kind, id, ErrNoLeftover)
}

func (e *Engine) removeLeftoverPort(ctx context.Context, name string) error {
	return e.whileNoneBegins(ctx, func(ctx context.Context) error {
		names, err := e.leftoverPorts(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(names, name) {
			return fmt.Errorf("port %s: %w", name, ErrNoLeftover)
		}
		return e.Delegates.RemoveLeftovers(ctx, []string{name})
	})
}

func (e *Engine) removeLeftoverAddress(ctx context.Context, id string) error {
	pool, ip, _ := strings.Cut(id, "/")
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return fmt.Errorf("leftover address %s: %w", id, ipam.Invalid("name it as POOL/IP"))
	}
	return e.ReleaseClaim(ctx, pool, addr)
}

// ReleaseClaim frees an address whose owner is not there. It says who has one that is in use. No call for the
// owner's sandbox is in progress meanwhile: it could make the address its own between the look and the release.
func (e *Engine) ReleaseClaim(ctx context.Context, pool string, addr netip.Addr) error {
	return e.releaseClaim(ctx, pool, addr, e.isLeftover)
}

// ForceReleaseClaim frees one, too, of which only the caller knows that its owner is gone: it was claimed by a
// plugin under a runtime without us.
func (e *Engine) ForceReleaseClaim(ctx context.Context, pool string, addr netip.Addr) error {
	return e.releaseClaim(ctx, pool, addr, func(c ipam.Claim) bool { return e.isLeftover(c) || e.isRuntimes(c) })
}

func (e *Engine) releaseClaim(ctx context.Context, pool string, addr netip.Addr, may func(ipam.Claim) bool) error {
	c, err := e.claimOf(ctx, pool, addr)
	if err != nil {
		return err
	}
	return e.hold(ctx, c.Owner.ContainerID, func(ctx context.Context, _ *slot) error {
		now, err := e.claimOf(ctx, pool, addr)
		switch {
		case err != nil:
			return err
		case now.Owner == c.Owner && may(now):
			return e.IPAM.Release(ctx, []ipam.Claim{now})
		case e.isRuntimes(now):
			return fault.New(fault.Conflict, fmt.Sprintf("address %s of pool %s was claimed for %s by a plugin under a runtime without Patchbay, so that only you know whether that is there: if it is gone, patchctl ipam release --force frees the address", addr, pool, now.Owner))
		}
		return fault.New(fault.Conflict, fmt.Sprintf("address %s of pool %s is not leaked: %s has it; detach that, or end the pod", addr, pool, now.Owner))
	})
}

// claimOf returns who has an address, or ErrNoLeftover.
func (e *Engine) claimOf(ctx context.Context, pool string, addr netip.Addr) (ipam.Claim, error) {
	c, err := e.IPAM.Holder(ctx, pool, addr)
	if errors.Is(err, ipam.ErrNoClaim) {
		return c, fmt.Errorf("address %s of pool %s has no owner: %w", addr, pool, ErrNoLeftover)
	}
	return c, err
}

// removeAbandoned tries once more to unmake what was given up, or will be, and discards it.
func (e *Engine) removeAbandoned(ctx context.Context, id string) (unmade, err error) {
	containerID, ifName, _ := strings.Cut(id, "/")
	err = e.hold(ctx, containerID, func(ctx context.Context, slot *slot) (err error) {
		a := slot.record.Find(ifName)
		if a == nil || a.Status.Deletion == nil {
			return fmt.Errorf("attachment %s: %w: it is not one whose DEL fails", id, ErrNoLeftover)
		}
		unmade, err = e.discard(ctx, slot, *a)
		return err
	})
	return unmade, err
}
