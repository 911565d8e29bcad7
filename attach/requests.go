package attach

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/ipam"
)

// honoured compares what was made with what was requested: a plugin that does not know a request
// ignores it, and the pod would run with another address than it relies on.
func (m *making) honoured(p *part) error {
	if err := m.ipsHonoured(&p.Spec, p.work.Result); err != nil {
		return err
	}
	return m.macHonoured(&p.Spec, p.work.Result)
}

func (m *making) ipsHonoured(s *Spec, res *types100.Result) error {
	requested := s.Requests.IPs
	if len(requested) == 0 {
		return nil
	}
	var have []*net.IPNet
	for _, ip := range res.IPs {
		have = append(have, &ip.Address)
	}
	if ignoredOf(requested, have) != "" { // a plugin of a chain may have dropped what the others told
		var err error
		if _, have, err = m.actual(s.Interface); err != nil {
			return err
		}
	}
	if missing := ignoredOf(requested, have); missing != "" {
		var texts []string
		for _, h := range have {
			texts = append(texts, h.String())
		}
		return s.ignored("ips", missing, strings.Join(texts, ", "), "give the network an IPAM that honours requests (patchbay-ipam, static, host-local)")
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

func (m *making) macHonoured(s *Spec, res *types100.Result) error {
	want := s.Requests.MAC
	if want == nil {
		return nil
	}
	have := ""
	for _, i := range res.Interfaces {
		if i.Sandbox != "" && i.Name == s.Interface {
			have = i.Mac
		}
	}
	if have == "" { // results before 0.3.0, and some plugins' later ones, do not tell
		var err error
		if have, _, err = m.actual(s.Interface); err != nil {
			return err
		}
	}
	if !strings.EqualFold(have, want.String()) {
		return s.ignored("mac", want.String(), have, "use a plugin that honours requests (patchbay-ovs, macvlan, bridge, or tuning in the chain)")
	}
	return nil
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
	if have == "" {
		have = "none"
	}
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("%s: network %s (plugins %s) does not honour %q: %s was requested, and %s was given",
		s.Interface, s.networkName(), strings.Join(s.Config.Types(), ", "), key, want, have), wayOut+fmt.Sprintf(", or drop %q from the request", key))
}

// networkName is how users know the network: the NetworkAttachmentDefinition, else the configuration.
func (s *Spec) networkName() string {
	if s.Network != "" {
		return s.Network
	}
	return s.Config.Name
}
