package ipam

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// ErrNoIPAMClaim says that there is no IPAMClaim of that name.
var ErrNoIPAMClaim = fault.New(fault.Invalid, "not found")

// An IPAMClaim keeps addresses when their pod is gone (multi-network specification 8). Its workload's
// controller writes network and interface, IPAM the addresses.
type IPAMClaim struct {
	Network, Interface string
	IPs                []string // with prefix lengths; empty until IPAM has chosen
}

// IPAMClaims reads and writes the IPAMClaims of the API server.
type IPAMClaims interface {
	// IPAMClaim returns one, or ErrNoIPAMClaim.
	IPAMClaim(ctx context.Context, namespace, name string) (*IPAMClaim, error)
	// SetIPs writes the addresses of one, with prefix lengths.
	SetIPs(ctx context.Context, namespace, name string, ips []string) error
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

// Publish writes the addresses of a reservation to the IPAMClaim that keeps them, if one does.
func (s *Service) Publish(ctx context.Context, r *Reservation) error {
	if r == nil || r.ipamClaim == "" {
		return nil
	}
	ns, name, _ := strings.Cut(r.ipamClaim, "/")
	var ips []string
	for _, ip := range r.Result.IPs {
		ips = append(ips, ip.Address.String())
	}
	if err := s.IPAMClaims.SetIPs(ctx, ns, name, ips); err != nil {
		return fmt.Errorf("IPAMClaim %s: %w", r.ipamClaim, err)
	}
	return nil
}

// Persistent returns the claims of this node that IPAMClaims keep, of the pools in use.
func (s *Service) Persistent() []Claim {
	var all []Claim
	for _, m := range s.Modes {
		all = append(all, m.Persistent()...)
	}
	return all
}

// ReleaseForgotten frees those of the claims whose IPAMClaim is gone, unless a pod uses it still.
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
		_, err := s.IPAMClaims.IPAMClaim(ctx, ns, name)
		if errors.Is(err, ErrNoIPAMClaim) && h.UserOf(c.Owner.IPAMClaim, "") == "" { // nor has come to use it meanwhile
			s.Log.Info("IPAMClaim is gone, its address is free", "ipamClaim", c.Owner.IPAMClaim, "address", c.Addr)
			errs = append(errs, s.Release(ctx, []Claim{c}))
		}
	}
	return errors.Join(errs...)
}
