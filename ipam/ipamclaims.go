package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

var (
	// ErrNoIPAMClaim says that there is no IPAMClaim of that name.
	ErrNoIPAMClaim = fault.New(fault.Invalid, "not found")
	// ErrIPAMClaimChanged says that somebody has changed an IPAMClaim since it was read.
	ErrIPAMClaimChanged = fault.New(fault.RetryLater, "it has changed meanwhile")
	// ErrOutpaced says that an IPAMClaim without addresses was given some by another node at the same time.
	ErrOutpaced = fault.New(fault.RetryLater, "another node has given it other addresses at the same time: try again")
)

// An IPAMClaim keeps addresses when their pod is gone (multi-network specification 8). Its workload's
// controller writes network and interface, IPAM the addresses.
type IPAMClaim struct {
	Network, Interface string
	IPs                []string // with prefix lengths; empty until IPAM has chosen
	Version            string   // as the API server counts them
}

// has reports whether the IPAMClaim has an address.
func (c *IPAMClaim) has(a netip.Addr) bool {
	return slices.ContainsFunc(c.IPs, func(text string) bool {
		r, err := ParseRequest(text)
		return err == nil && r.Addr == a
	})
}

// IPAMClaims reads and writes the IPAMClaims of the API server.
type IPAMClaims interface {
	// IPAMClaim returns one, or ErrNoIPAMClaim.
	IPAMClaim(ctx context.Context, namespace, name string) (*IPAMClaim, error)
	// SetIPs writes the addresses of one, with prefix lengths, if it is as it was in that version; else it is
	// ErrIPAMClaimChanged.
	SetIPs(ctx context.Context, namespace, name, version string, ips []string) error
}

// askAsIPAMClaim makes the IPAMClaim of an ask the owner, and asks for the addresses that it has already, if it
// has any. An IPAMClaim is refused while another pod uses it, and for another network or interface than its own.
func (s *Service) askAsIPAMClaim(ctx context.Context, a *Ask, h Holders) error {
	refused := func(format string, args ...any) error {
		return Invalid("IPAMClaim %s %s", a.IPAMClaim, fmt.Sprintf(format, args...))
	}
	if s.IPAMClaims == nil {
		return refused("can't be looked up: there is no API server")
	}
	if user := h.UserOf(a.IPAMClaim, a.Owner.ContainerID); user != "" {
		return refused("is in use by pod %s", user)
	}
	ns, name, _ := strings.Cut(a.IPAMClaim, "/")
	c, err := s.IPAMClaims.IPAMClaim(ctx, ns, name)
	switch {
	case err != nil:
		return err
	case c.Network != "" && c.Network != a.ConfigName:
		return refused("is for network %s, not %s", c.Network, a.ConfigName)
	case c.Interface != "" && c.Interface != a.Owner.IfName:
		return refused("is for interface %s, not %s", c.Interface, a.Owner.IfName)
	}
	a.Owner, a.Requested = Owner{IPAMClaim: a.IPAMClaim}, nil
	for _, text := range c.IPs {
		r, err := ParseRequest(text)
		if err != nil {
			return refused("has %q in its status, which is no address", text)
		}
		a.Requested = append(a.Requested, r)
	}
	return nil
}

// Publish writes the addresses of a reservation to the IPAMClaim that keeps them, if one does. Of two nodes that
// use one for the first time at once, the first to write wins; the other's addresses are freed, and it is told
// ErrOutpaced.
func (s *Service) Publish(ctx context.Context, r *Reservation) error {
	if r == nil || r.ipamClaim == "" {
		return nil
	}
	err := s.publish(ctx, r)
	if errors.Is(err, ErrOutpaced) {
		err = errors.Join(err, s.Release(context.WithoutCancel(ctx), r.Claims)) // GC does it otherwise
	}
	if err != nil {
		return fmt.Errorf("IPAMClaim %s: %w", r.ipamClaim, err)
	}
	return nil
}

func (s *Service) publish(ctx context.Context, r *Reservation) error {
	ns, name, _ := strings.Cut(r.ipamClaim, "/")
	var ips []string
	for _, ip := range r.Result.IPs {
		ips = append(ips, ip.Address.String())
	}
	for {
		c, err := s.IPAMClaims.IPAMClaim(ctx, ns, name)
		if err != nil {
			return err
		}
		mine := &IPAMClaim{IPs: ips}
		for _, text := range c.IPs {
			if has, err := ParseRequest(text); err != nil || !mine.has(has.Addr) {
				return ErrOutpaced
			}
		}
		if slices.Equal(c.IPs, ips) {
			return nil
		}
		if err := s.IPAMClaims.SetIPs(ctx, ns, name, c.Version, ips); !errors.Is(err, ErrIPAMClaimChanged) {
			return err
		}
	}
}

// Persistent returns the claims of this node that IPAMClaims keep, of the pools in use.
func (s *Service) Persistent() []Claim {
	var all []Claim
	for _, m := range s.Modes {
		all = append(all, m.Persistent()...)
	}
	return all
}

// ReleaseForgotten frees those of the claims whose IPAMClaim is gone or has other addresses, unless a pod uses it
// still.
func (s *Service) ReleaseForgotten(ctx context.Context, claims []Claim, h Holders) error {
	if s.IPAMClaims == nil {
		return nil
	}
	var errs []error
	for _, c := range claims {
		if c.Owner.IPAMClaim == "" || c.Owner.Node != s.Node() || h.UserOf(c.Owner.IPAMClaim, "") != "" {
			continue
		}
		ns, name, _ := strings.Cut(c.Owner.IPAMClaim, "/")
		by, err := s.IPAMClaims.IPAMClaim(ctx, ns, name)
		forgotten := errors.Is(err, ErrNoIPAMClaim) || err == nil && len(by.IPs) > 0 && !by.has(c.Addr)
		if forgotten && h.UserOf(c.Owner.IPAMClaim, "") == "" { // nor has come to use it meanwhile
			s.Log.Info("IPAMClaim is gone, or has other addresses: this one is free", "ipamClaim", c.Owner.IPAMClaim, "address", c.Addr)
			errs = append(errs, s.Release(ctx, []Claim{c}))
		}
	}
	return errors.Join(errs...)
}
