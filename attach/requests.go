package attach

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/ipam"
)

// cniArgs are the requested addresses and hardware address as plugins read them in CNI_ARGS (CNI
// CONVENTIONS.md): IP=10.1.1.21/24,fd00::21/64;MAC=02:00:00:00:00:01.
func (s *Spec) cniArgs() string {
	var args []string
	var ips []string
	if raw := s.RuntimeConfig["ips"]; raw != nil && json.Unmarshal(raw, &ips) == nil && len(ips) > 0 {
		args = append(args, "IP="+strings.Join(ips, ","))
	}
	var mac string
	if raw := s.RuntimeConfig["mac"]; raw != nil && json.Unmarshal(raw, &mac) == nil && mac != "" {
		args = append(args, "MAC="+mac)
	}
	return strings.Join(args, ";")
}

// honoured compares what was made with what was requested: a plugin that does not know a request
// ignores it, and the pod would run with another address than it relies on.
func (m *making) honoured() error {
	for i := range m.as {
		a := &m.as[i]
		if err := a.Spec.ipsHonoured(m.work[i].Result); err != nil {
			return err
		}
		if err := m.macHonoured(&a.Spec, m.work[i].Result); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spec) ipsHonoured(res *types100.Result) error {
	requested, err := Requested(s.RuntimeConfig["ips"])
	if err != nil {
		return err
	}
	var have []string
	for _, ip := range res.IPs {
		have = append(have, ip.Address.String())
	}
	for _, r := range requested {
		if !slices.ContainsFunc(res.IPs, func(ip *types100.IPConfig) bool { return given(r, ip.Address) }) {
			return s.ignored("ips", r.String(), strings.Join(have, ", "), "give the network an IPAM that honours requests (patchbay-ipam, static, host-local)")
		}
	}
	return nil
}

// given reports whether an address is the requested one, with the requested length if there is one.
func given(r ipam.Request, have net.IPNet) bool {
	bits, _ := have.Mask.Size()
	return have.IP.Equal(r.Addr.AsSlice()) && (r.Bits == 0 || r.Bits == bits)
}

func (m *making) macHonoured(s *Spec, res *types100.Result) error {
	var text string
	if raw := s.RuntimeConfig["mac"]; raw == nil || json.Unmarshal(raw, &text) != nil || text == "" {
		return nil
	}
	want, err := net.ParseMAC(text)
	if err != nil {
		return fmt.Errorf("%s: mac: %w", s.Interface, err)
	}
	have := ""
	for _, i := range res.Interfaces {
		if i.Sandbox != "" && i.Name == s.Interface {
			have = i.Mac
		}
	}
	if have == "" { // results before 0.3.0, and some plugins' later ones, do not tell
		if have, err = m.actualMAC(s.Interface); err != nil {
			return err
		}
	}
	if !strings.EqualFold(have, want.String()) {
		return s.ignored("mac", want.String(), have, "use a plugin that honours requests (patchbay-ovs, macvlan, bridge, or tuning in the chain)")
	}
	return nil
}

func (m *making) actualMAC(ifName string) (mac string, err error) {
	err = m.sandbox.Netns.Do(func() error {
		l, err := netlink.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("%s: mac was requested, and the interface can't be looked at: %w", ifName, err)
		}
		mac = l.Attrs().HardwareAddr.String()
		return nil
	})
	return mac, err
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
