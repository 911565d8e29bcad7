package attach

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/ipam"
)

// honoured compares what was made with what was requested: a plugin that does not know a request
// ignores it, and the pod would run with another address than it relies on.
func (m *making) honoured(p *part) error {
	s, ips, mac := &p.Spec, p.Spec.Requests.IPs, p.Spec.Requests.MAC
	var hasMAC string
	if i := indexOf(s.Interface, p.work.Result); i >= 0 {
		hasMAC = p.work.Result.Interfaces[i].Mac
	}
	var has []*net.IPNet
	for _, ip := range p.work.Result.IPs {
		has = append(has, &ip.Address)
	}
	// Results before 0.3.0 don't tell all, and a plugin of a chain may have dropped what the others told.
	noMAC, noIP := mac != nil && hasMAC == "", ignoredOf(ips, has) != ""
	if noMAC || noIP {
		actualMAC, actual, err := m.actual(s.Interface)
		if err != nil {
			return err
		}
		hasMAC = cmp.Or(hasMAC, actualMAC)
		if noIP {
			has = actual
		}
	}
	if missing := ignoredOf(ips, has); missing != "" {
		var texts []string
		for _, h := range has {
			texts = append(texts, h.String())
		}
		return s.ignored("ips", missing, strings.Join(texts, ", "), "give the network an IPAM that honours requests (patchbay-ipam, static, host-local)")
	}
	if mac != nil && !strings.EqualFold(hasMAC, mac.String()) {
		return s.ignored("mac", mac.String(), hasMAC, "use a plugin that honours requests (patchbay-ovs, macvlan, bridge, or tuning in the chain)")
	}
	return nil
}

// ignoredOf returns the first requested address that is not there, with the requested length if there is
// one.
func ignoredOf(requested []ipam.Request, have []*net.IPNet) string {
	for _, r := range requested {
		given := slices.ContainsFunc(have, func(h *net.IPNet) bool {
			bits, _ := h.Mask.Size()
			return h.IP.Equal(r.Addr.AsSlice()) && (r.Bits == 0 || r.Bits == bits)
		})
		if !given {
			return r.String()
		}
	}
	return ""
}

// actual is what the interface has in the pod: nothing, if it is not there.
func (m *making) actual(ifName string) (mac string, addrs []*net.IPNet, err error) {
	err = m.sandbox.Netns.Do(func() error {
		l, err := link.Find(ifName)
		if l == nil {
			return err
		}
		mac = l.Attrs().HardwareAddr.String()
		list, err := link.Addresses(&netlink.Handle{}, l)
		for _, a := range list {
			if a.Scope != unix.RT_SCOPE_LINK {
				addrs = append(addrs, a.IPNet)
			}
		}
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("%s: look at what it has got: %w", ifName, err)
	}
	return mac, addrs, nil
}

// ignored is the refusal of a request that nobody honoured.
func (s *Spec) ignored(key, want, have, wayOut string) error {
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("%s: network %s (plugins %s) does not honour %q: %s was requested, and %s was given",
		s.Interface, s.networkName(), strings.Join(s.Config.Types(), ", "), key, want, cmp.Or(have, "none")), wayOut+fmt.Sprintf(", or drop %q from the request", key))
}

// networkName is how users know the network: the NetworkAttachmentDefinition, else the configuration.
func (s *Spec) networkName() string {
	return cmp.Or(s.Network, s.Config.Name)
}
