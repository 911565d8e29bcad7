package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// Claims knows the IPAMClaims, by namespace and name; meta.ErrNotFound for one that is not there.
type Claims interface {
	Claim(ctx context.Context, namespace, name string) (*meta.IPAMClaim, error)
	SetIPs(ctx context.Context, namespace, name string, ips []string) error
}

// claimed returns what a claim has of addresses, and itself as their owner.
func (m *making) claimed(ctx context.Context, s *Spec) (requested []ipam.Request, owner ipam.Owner, err error) {
	refused := func(format string, args ...any) error {
		return types.NewError(cniwire.ErrRefused, "IPAMClaim "+s.IPAMClaim+" "+fmt.Sprintf(format, args...), "")
	}
	owner = ipam.Owner{Claim: s.IPAMClaim}
	if m.e.Claims == nil {
		return nil, owner, refused("can't be looked up: there is no API server")
	}
	if user := m.e.userOf(s.IPAMClaim, m.sandbox.ContainerID); user != "" {
		return nil, owner, refused("is in use by pod %s", user)
	}
	ns, name, _ := strings.Cut(s.IPAMClaim, "/")
	c, err := m.e.Claims.Claim(ctx, ns, name)
	switch {
	case err != nil:
		return nil, owner, err
	case c.Network != "" && c.Network != s.Config.Name:
		return nil, owner, refused("is for network %s, not %s", c.Network, s.Config.Name)
	case c.Interface != "" && c.Interface != s.Interface:
		return nil, owner, refused("is for interface %s, not %s", c.Interface, s.Interface)
	}
	for _, text := range c.IPs {
		r, err := ipam.ParseRequest(text)
		if err != nil {
			return nil, owner, refused("has %q in its status, which is no address", text)
		}
		requested = append(requested, r)
	}
	return requested, owner, nil
}

// userOf is the pod, of another sandbox, that uses a claim.
func (e *Engine) userOf(claim, containerID string) string {
	for _, s := range e.Sandboxes() {
		if s.ContainerID != containerID && slices.ContainsFunc(s.Attachments, func(a Attachment) bool { return a.Spec.IPAMClaim == claim }) {
			return s.Namespace + "/" + s.Pod
		}
	}
	return ""
}

// publishClaims writes the addresses that were chosen to the claims.
func (m *making) publishClaims(ctx context.Context) error {
	for _, p := range m.parts {
		s := &p.Spec
		if s.IPAMClaim == "" || p.work.Addresses == nil {
			continue
		}
		ns, name, _ := strings.Cut(s.IPAMClaim, "/")
		var ips []string
		for _, ip := range p.work.Addresses.IPs {
			ips = append(ips, ip.Address.String())
		}
		if err := m.e.Claims.SetIPs(ctx, ns, name, ips); err != nil {
			return fmt.Errorf("IPAMClaim %s: %w", s.IPAMClaim, err)
		}
	}
	return nil
}

// releaseClaims frees what claims kept that are no longer there, and that no pod uses.
func (e *Engine) releaseClaims(ctx context.Context, kept []ipam.Claim) error {
	if e.Claims == nil {
		return nil
	}
	var errs []error
	for _, c := range kept {
		if c.Owner.Claim == "" || c.Owner.Node != e.Node || e.userOf(c.Owner.Claim, "") != "" {
			continue
		}
		ns, name, _ := strings.Cut(c.Owner.Claim, "/")
		if _, err := e.Claims.Claim(ctx, ns, name); errors.Is(err, meta.ErrNotFound) {
			e.Log.Info("IPAMClaim is gone, its address is free", "claim", c.Owner.Claim, "address", c.Addr)
			errs = append(errs, e.IPAM.Release(ctx, []ipam.Claim{c}))
		}
	}
	return errors.Join(errs...)
}
