package ipam

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// A Spec is what makes a pool the pool it is, the same on every node: the value of its spec key.
type Spec struct {
	Mode     string         `json:"mode"`
	Networks []Network      `json:"networks"`
	Exclude  []netip.Prefix `json:"exclude,omitempty"`
	Gateway  netip.Addr     `json:"gateway,omitzero"` // zero: each subnet's first address
	Overlap  string         `json:"overlap,omitempty"`
}

// overlapAllow says that other pools that say so, too, may have the same addresses.
const overlapAllow = "allow"

// A Network is one network of a pool, cut into the nodes' subnets.
type Network struct {
	Prefix     netip.Prefix `json:"network"`
	SubnetBits int          `json:"subnetLen"` // length of a node's subnet
	Min        netip.Addr   `json:"subnetMin"` // first addresses of the first and the last subnet to hand out
	Max        netip.Addr   `json:"subnetMax"`
}

// specVersion is the version of the specifications that this release knows; those without one are older.
const specVersion = 2

// ParseSpec reads the value of a spec key, whatever fields it has besides, unless a newer release says that they
// matter.
func ParseSpec(value []byte) (Spec, error) {
	var s Spec
	var v struct {
		Version int `json:"version"`
	}
	for _, part := range []any{&v, &s} {
		if err := json.Unmarshal(value, part); err != nil {
			return Spec{}, errors.New(explain.JSON(value, err))
		}
	}
	if v.Version > specVersion {
		return Spec{}, fmt.Errorf("it has version %d, and this release knows those up to %d", v.Version, specVersion)
	}
	for _, n := range s.Networks {
		for _, a := range []netip.Addr{n.Min, n.Max} {
			if a.IsValid() && !n.Prefix.Contains(a) {
				return Spec{}, fmt.Errorf("%s is not an address of network %s", a, n.Prefix)
			}
		}
		if !n.Prefix.IsValid() || n.SubnetBits != 0 && (n.SubnetBits < n.Prefix.Bits() || n.SubnetBits > n.Prefix.Addr().BitLen()) {
			return Spec{}, fmt.Errorf("network %s can't be cut into subnets of /%d", n.Prefix, n.SubnetBits)
		}
	}
	return s, nil
}

// Value is the specification as its key holds it.
func (s Spec) Value() string {
	b, _ := json.Marshal(s) // strings and numbers always marshal
	return string(b)
}

// Over is the specification as its key is to hold it in place of a value: fields of the value that this release does
// not know are kept.
func (s Spec) Over(value []byte) (string, error) {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(value, &all); err != nil {
		return "", err
	}
	for _, known := range []string{"mode", "networks", "exclude", "gateway", "overlap"} {
		delete(all, known)
	}
	if len(all) == 0 {
		return s.Value(), nil
	}
	if err := json.Unmarshal([]byte(s.Value()), &all); err != nil {
		return "", err
	}
	b, err := json.Marshal(all)
	return string(b), err
}

// OnlyOverlapDiffers reports whether the two are the same but for whether they may overlap others,
// which can be changed.
func (s Spec) OnlyOverlapDiffers(o Spec) bool {
	s.Overlap, o.Overlap = "", ""
	return s.Value() == o.Value()
}

// Clash says why there can't be such a pool beside another one: both have an address, which could then have two
// owners. It is nil if they have none in common, or if both allow it.
func (s Spec) Clash(pool, otherPool string, other Spec) error {
	if s.Overlap == overlapAllow && other.Overlap == overlapAllow {
		return nil
	}
	for _, a := range s.Networks {
		for _, b := range other.Networks {
			first, last := a.bounds()
			if f, l := b.bounds(); f.BitLen() != first.BitLen() || last.Less(f) || l.Less(first) {
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
		t = append(t, fmt.Sprintf("%s in subnets of /%d", n.Prefix, n.SubnetBits))
	}
	return strings.Join(t, ", ")
}

// bounds are the first and last address that can be handed out.
func (n Network) bounds() (first, last netip.Addr) {
	first, last = n.Prefix.Addr(), lastAddr(n.Prefix)
	if n.Min.IsValid() {
		first = n.Min
	}
	if n.Max.IsValid() && n.SubnetBits > 0 {
		last = lastAddr(netip.PrefixFrom(n.Max, n.SubnetBits))
	}
	return first.Unmap(), last.Unmap() // an older release let pools have IPv4 addresses written as IPv6 ones
}

// Differences says in words in which fields another specification differs.
func (s Spec) Differences(o Spec) string {
	was, is := s.fields(), o.fields()
	var parts []string
	for i, f := range was {
		derived := len(parts) > 0 && strings.HasPrefix(f[0], "subnetM") // they follow from network and subnetLen
		if f != is[i] && !derived {
			parts = append(parts, fmt.Sprintf("%s is %s, and this asks for %s", f[0], cmp.Or(f[1], "not set"), cmp.Or(is[i][1], "not set")))
		}
	}
	return strings.Join(parts, "; ")
}

// fields are the name that a configuration has for each field of a specification, and its value.
func (s Spec) fields() [][2]string {
	var networks, lengths, mins, maxs, exclude []string
	for _, n := range s.Networks {
		networks, lengths = append(networks, n.Prefix.String()), append(lengths, fmt.Sprint(n.SubnetBits))
		mins, maxs = append(mins, n.Min.String()), append(maxs, n.Max.String())
	}
	for _, x := range s.Exclude {
		exclude = append(exclude, x.String())
	}
	gateway, _ := s.Gateway.MarshalText() // empty if there is none
	return [][2]string{{"mode", s.Mode}, {"network", strings.Join(networks, ", ")}, {"subnetLen", strings.Join(lengths, ", ")},
		{"subnetMin", strings.Join(mins, ", ")}, {"subnetMax", strings.Join(maxs, ", ")},
		{"exclude", strings.Join(exclude, ", ")}, {"gateway", string(gateway)}, {"overlap", s.Overlap}}
}
