package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// A Spec is what makes a pool the pool it is, the same on every node: the value of its spec key.
type Spec struct {
	Mode     string        `json:"mode"`
	Networks []NetworkSpec `json:"networks"`
	Exclude  []string      `json:"exclude,omitempty"`
	Gateway  string        `json:"gateway,omitempty"`
	Overlap  string        `json:"overlap,omitempty"`
}

// A NetworkSpec is one network of a Spec.
type NetworkSpec struct {
	Network   netip.Prefix `json:"network"`
	SubnetLen int          `json:"subnetLen"`
	Min       netip.Addr   `json:"subnetMin"` // first addresses of the first and the last subnet
	Max       netip.Addr   `json:"subnetMax"`
}

// ParseSpec reads the value of a spec key.
func ParseSpec(value []byte) (Spec, error) {
	var s Spec
	if err := json.Unmarshal(value, &s); err != nil {
		return Spec{}, errors.New(explain.JSON(value, err))
	}
	for _, n := range s.Networks {
		for _, a := range []netip.Addr{n.Min, n.Max} {
			if a.IsValid() && !n.Network.Contains(a) {
				return Spec{}, fmt.Errorf("%s is not an address of network %s", a, n.Network)
			}
		}
		if !n.Network.IsValid() || n.SubnetLen != 0 && (n.SubnetLen < n.Network.Bits() || n.SubnetLen > n.Network.Addr().BitLen()) {
			return Spec{}, fmt.Errorf("network %s can't be cut into subnets of /%d", n.Network, n.SubnetLen)
		}
	}
	return s, nil
}

// Spec returns the pool's specification.
func (p *Pool) Spec() Spec {
	s := Spec{Mode: p.Mode}
	for _, n := range p.Networks {
		s.Networks = append(s.Networks, NetworkSpec{n.Prefix, n.SubnetBits, n.Min.Addr(), n.Max.Addr()})
	}
	for _, x := range p.Exclude {
		s.Exclude = append(s.Exclude, x.String())
	}
	if p.Gateway.IsValid() {
		s.Gateway = p.Gateway.String()
	}
	if p.Overlap {
		s.Overlap = overlapAllow
	}
	return s
}

// Value is the specification as its key holds it.
func (s Spec) Value() string {
	b, _ := json.Marshal(s) // strings and numbers always marshal
	return string(b)
}

// OnlyOverlapDiffers reports whether the two are the same but for whether they may overlap others,
// which can be changed.
func (s Spec) OnlyOverlapDiffers(o Spec) bool {
	s.Overlap, o.Overlap = "", ""
	return s.Value() == o.Value()
}

// Clash reports why pool cannot be, as another pool has addresses of it; nil if it has none, or if
// both allow it. An address would have two owners.
func (s Spec) Clash(pool, otherPool string, other Spec) error {
	if s.Overlap == overlapAllow && other.Overlap == overlapAllow {
		return nil
	}
	for _, a := range s.Networks {
		for _, b := range other.Networks {
			if first, last := a.bounds(); !b.overlaps(first, last) {
				continue
			}
			return Invalid("pool %s (%s) overlaps pool %s (%s), so that an address could be given twice: let both networks name one \"pool\" and the same values, or say \"overlap\": \"allow\" in both, or, if no address of it is in use any more, remove it with \"patchctl ipam rm %s\"",
				pool, s, otherPool, other, otherPool)
		}
	}
	return nil
}

// String lists the networks.
func (s Spec) String() string {
	var t []string
	for _, n := range s.Networks {
		t = append(t, fmt.Sprintf("%s in subnets of /%d", n.Network, n.SubnetLen))
	}
	return strings.Join(t, ", ")
}

func (n NetworkSpec) overlaps(first, last netip.Addr) bool {
	f, l := n.bounds()
	return f.BitLen() == first.BitLen() && !last.Less(f) && !l.Less(first)
}

// bounds are the first and last address that can be handed out.
func (n NetworkSpec) bounds() (first, last netip.Addr) {
	first, last = n.Network.Addr(), lastAddr(n.Network)
	if n.Min.IsValid() {
		first = n.Min
	}
	if n.Max.IsValid() && n.SubnetLen > 0 {
		last = lastAddr(netip.PrefixFrom(n.Max, n.SubnetLen))
	}
	return first.Unmap(), last.Unmap() // an older release let pools have IPv4 addresses written as IPv6 ones
}

// Differences says in words in which fields another specification differs.
func (s Spec) Differences(o Spec) string {
	was, is := s.fields(), o.fields()
	var parts []string
	for i := range was {
		derived := len(parts) > 0 && strings.HasPrefix(was[i].name, "subnetM") // they follow from network and subnetLen
		if was[i].value != is[i].value && !derived {
			parts = append(parts, fmt.Sprintf("%s is %s, and this asks for %s", was[i].name, was[i].value, is[i].value))
		}
	}
	return strings.Join(parts, "; ")
}

type field struct{ name, value string }

// fields are what a specification says, by the names that a configuration has for it.
func (s Spec) fields() []field {
	var networks, lengths, mins, maxs []string
	for _, n := range s.Networks {
		networks, lengths = append(networks, n.Network.String()), append(lengths, fmt.Sprint(n.SubnetLen))
		mins, maxs = append(mins, n.Min.String()), append(maxs, n.Max.String())
	}
	return []field{{"mode", s.Mode}, {"network", strings.Join(networks, ", ")}, {"subnetLen", strings.Join(lengths, ", ")},
		{"subnetMin", strings.Join(mins, ", ")}, {"subnetMax", strings.Join(maxs, ", ")},
		{"exclude", orUnset(strings.Join(s.Exclude, ", "))}, {"gateway", orUnset(s.Gateway)}, {"overlap", orUnset(s.Overlap)}}
}

func orUnset(s string) string {
	if s == "" {
		return "not set"
	}
	return s
}
