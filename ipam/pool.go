// Package ipam says which addresses there are and who may have which. It knows neither etcd nor Kubernetes: a
// mode, such as ipam/node, chooses addresses, and ipam/ledger claims them.
package ipam

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// Type is the name of the IPAM plugin in a configuration's "ipam" object.
const Type = "patchbay-ipam"

// ModeNode gives each node a subnet of its own.
const ModeNode = "node"

// A Config is the "ipam" object of a network configuration, or a pool of the daemon's.
type Config struct {
	Type      string         `json:"type,omitempty" yaml:"-"`
	Pool      string         `json:"pool,omitempty" yaml:"pool"`
	Mode      string         `json:"mode,omitempty" yaml:"mode"`
	Network   string         `json:"network,omitempty" yaml:"network"`
	Networks  []string       `json:"networks,omitempty" yaml:"networks"`
	SubnetLen int            `json:"subnetLen,omitempty" yaml:"subnetLen"`
	SubnetMin string         `json:"subnetMin,omitempty" yaml:"subnetMin"`
	SubnetMax string         `json:"subnetMax,omitempty" yaml:"subnetMax"`
	Exclude   []string       `json:"exclude,omitempty" yaml:"exclude"`
	Gateway   string         `json:"gateway,omitempty" yaml:"gateway"`
	Routes    []*types.Route `json:"routes,omitempty" yaml:"-"`
	DNS       types.DNS      `json:"dns,omitzero" yaml:"-"`
	Cooldown  string         `json:"cooldown,omitempty" yaml:"cooldown"`
	Overlap   string         `json:"overlap,omitempty" yaml:"overlap"`
}

// A Pool is a validated Config.
type Pool struct {
	Name string
	Spec
	Routes   []*types.Route
	DNS      types.DNS
	Cooldown time.Duration
}

// DefaultCooldown is how long a freed address rests where a pool does not say.
const DefaultCooldown = 30 * time.Second

var poolName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.:\-]*[a-z0-9])?$`)

// ParseConfig validates the "ipam" object of a network configuration. A pool named there and
// defined in pools takes its fields from the definition.
func ParseConfig(raw json.RawMessage, pools map[string]Config) (*Pool, error) {
	var c Config
	if err := checkRoutes(raw); err != nil {
		return nil, err
	}
	if err := explain.Strict(raw, &c); err != nil {
		return nil, Invalid("ipam: %v", err)
	}
	if def, ok := pools[c.Pool]; ok && c.Pool != "" {
		def.Pool, def.Routes, def.DNS = c.Pool, c.Routes, c.DNS
		if c.Network != "" && c.Network != def.Network {
			return nil, Invalid("ipam: pool %s is defined in the daemon's configuration with network %s, not %s", c.Pool, def.Network, c.Network)
		}
		c = def
	}
	return c.Validate()
}

// checkRoutes reads the routes as texts, as the CNI types' own errors name no field.
func checkRoutes(raw json.RawMessage) error {
	var c struct {
		Routes []struct{ Dst, GW string }
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return Invalid("ipam: %s", explain.JSON(raw, err))
	}
	for _, r := range c.Routes {
		if _, err := parse(netip.ParsePrefix, "routes: dst", r.Dst, "is not a CIDR, such as 0.0.0.0/0"); err != nil {
			return err
		}
		if _, err := parse(netip.ParseAddr, "routes: gw", r.GW, "is not an address, such as 10.12.0.1"); err != nil && r.GW != "" {
			return err
		}
	}
	return nil
}

// maxNetworks is how many networks a pool can have. Each node claims a subnet of each, and keeps it.
const maxNetworks = 32

// Validate returns the pool, or what is wrong with which field.
func (c Config) Validate() (*Pool, error) {
	mode, cut, err := c.mode()
	if err != nil {
		return nil, err
	}
	if n := len(c.networks()); n > maxNetworks {
		return nil, Invalid("ipam: %d networks are too many: a pod has an address of each, and can have %d of a pool", n, maxNetworks)
	}
	p := &Pool{Spec: Spec{Mode: mode, Overlap: c.Overlap}, Routes: c.Routes, DNS: c.DNS, Cooldown: DefaultCooldown}
	for i, text := range c.networks() {
		n, err := parseNetwork(text, p.Networks)
		if err != nil {
			return nil, err
		}
		if n, err = cut(i, n, p.Networks); err != nil {
			return nil, err
		}
		p.Networks = append(p.Networks, n)
	}
	if len(p.Networks) == 0 {
		return nil, Invalid("ipam: network is missing: give a CIDR, such as 10.12.0.0/16")
	}
	if p.Name, err = c.name(); err != nil {
		return nil, err
	}
	return p, c.complete(p)
}

// mode returns the configuration's mode, and what cuts a network for it: the i-th, if those before are cut. A
// further mode is added here and in the Modes that the daemon gives to the Service.
func (c Config) mode() (name string, cut func(i int, n Network, before []Network) (Network, error), err error) {
	switch {
	case c.Mode == ModeNode, c.Mode == "" && c.SubnetLen > 0:
		return ModeNode, c.nodesSubnets, nil
	case c.Mode == "":
		return "", nil, Invalid("ipam: subnetLen is missing: the length of each node's subnet, such as 24")
	}
	return "", nil, Invalid("ipam: mode %q is not supported: leave it out and set subnetLen (mode node)", c.Mode)
}

// NameOf returns the name of an "ipam" object's pool, whatever else is wrong with the object: what ends
// or looks at a claim needs no more. A field of a wrong type doesn't keep the others from being read.
func NameOf(raw json.RawMessage) (string, error) {
	var c Config
	err := json.Unmarshal(raw, &c)
	if _, typed := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !typed {
		return "", Invalid("ipam: %s", explain.JSON(raw, err))
	}
	return c.name()
}

// name is the pool's name: the given one, or one that its networks make.
func (c Config) name() (string, error) {
	name := c.Pool
	if name == "" {
		name = strings.ReplaceAll(strings.ToLower(strings.Join(c.networks(), ".")), "/", "-")
	}
	if !IsName(name) {
		return "", Invalid("ipam: pool name %q: use lower-case letters, digits, dots, colons and dashes", name)
	}
	return name, nil
}

// IsName reports whether a pool can have the name.
func IsName(text string) bool { return poolName.MatchString(text) }

func (c Config) networks() []string {
	if c.Network == "" {
		return c.Networks
	}
	return append([]string{c.Network}, c.Networks...)
}

// parseNetwork reads a network, which may not overlap those before.
func parseNetwork(text string, before []Network) (Network, error) {
	pfx, err := parse(netip.ParsePrefix, "network", text, "is not a CIDR, such as 10.12.0.0/16")
	if err != nil {
		return Network{}, err
	}
	if pfx.Masked() != pfx {
		return Network{}, Invalid("ipam: network %s has host bits set: write %s", text, pfx.Masked())
	}
	if pfx.Overlaps(mapped) {
		return Network{}, Invalid("ipam: network %s has IPv4 addresses written as IPv6 ones in it (%s): choose another network", text, mapped)
	}
	for _, n := range nobodys {
		if pfx.Overlaps(n) {
			return Network{}, Invalid("ipam: network %s has addresses in it that no interface of a pod can have (%s): choose another network", text, n)
		}
	}
	for _, b := range before {
		if b.Prefix.Overlaps(pfx) {
			return Network{}, Invalid("ipam: networks %s and %s of the pool overlap, so that an address could be given twice: leave one of them out", b.Prefix, text)
		}
	}
	return Network{Prefix: pfx}, nil
}

// nodesSubnets cuts a network for mode node. Further ones are cut into as many subnets as the first.
func (c Config) nodesSubnets(i int, n Network, before []Network) (Network, error) {
	pfx := n.Prefix
	n.SubnetBits = c.SubnetLen
	if i > 0 {
		n.SubnetBits = pfx.Bits() + before[0].SubnetBits - before[0].Prefix.Bits()
	}
	size := pfx.Addr().BitLen()
	if n.SubnetBits < pfx.Bits() || n.SubnetBits > size-2 {
		return n, Invalid("ipam: subnetLen %d of network %s must be between %d and %d", n.SubnetBits, pfx, pfx.Bits(), size-2)
	}
	if n.SubnetBits-pfx.Bits() > 62 {
		return n, Invalid("ipam: subnetLen %d cuts network %s into more than 2^62 subnets", n.SubnetBits, pfx)
	}
	n.Min, n.Max = pfx.Addr(), netip.PrefixFrom(lastAddr(pfx), n.SubnetBits).Masked().Addr()
	if i > 0 {
		return n, nil
	}
	for _, b := range []struct {
		field, text string
		into        *netip.Addr
	}{{"subnetMin", c.SubnetMin, &n.Min}, {"subnetMax", c.SubnetMax, &n.Max}} {
		if b.text == "" {
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSuffix(b.text, fmt.Sprintf("/%d", n.SubnetBits)))
		if err != nil || !pfx.Contains(a) || netip.PrefixFrom(a, n.SubnetBits).Masked().Addr() != a {
			why := cmp.Or(objection(b.text), fmt.Sprintf("is not the address of a /%d subnet of %s", n.SubnetBits, pfx))
			return n, Invalid("ipam: %s %q %s", b.field, b.text, why)
		}
		*b.into = a
	}
	if n.Max.Less(n.Min) {
		return n, Invalid("ipam: subnetMin %s is above subnetMax %s", n.Min, n.Max)
	}
	return n, nil
}

// complete reads the fields that don't depend on the mode.
func (c Config) complete(p *Pool) error {
	for _, text := range c.Exclude {
		x, err := parse(parsePrefixOrAddr, "exclude", text, "is neither an address nor a CIDR")
		if err != nil {
			return err
		}
		p.Exclude = append(p.Exclude, x)
	}
	if c.Gateway != "" {
		a, err := netip.ParseAddr(c.Gateway)
		if err != nil || !slices.ContainsFunc(p.Networks, func(n Network) bool { return n.Prefix.Contains(a) }) {
			return Invalid("ipam: gateway %q %s", c.Gateway, cmp.Or(objection(c.Gateway), "is not an address of the pool"))
		}
		p.Gateway = a
	}
	if c.Cooldown != "" {
		d, err := time.ParseDuration(c.Cooldown)
		if err != nil || d < 0 {
			return Invalid("ipam: cooldown %q is not a duration, such as 30s", c.Cooldown)
		}
		p.Cooldown = d
	}
	if c.Overlap != "" && c.Overlap != overlapAllow {
		return Invalid("ipam: overlap %q must be %q, or left out: then no other pool may have addresses of this one", c.Overlap, overlapAllow)
	}
	return nil
}

// parse reads the text of a field. The error says why no pool can have such an address, or, if the text can't
// be read, what the complaint says.
func parse[T any](read func(string) (T, error), field, text, complaint string) (T, error) {
	value, err := read(text)
	why := objection(text)
	if err == nil && why == "" {
		return value, nil
	}
	return value, Invalid("ipam: %s %q %s", field, text, cmp.Or(why, complaint))
}

// ErrInvalid marks a configuration or a request that can't be honoured as it is.
var ErrInvalid = fault.New(fault.Invalid, "invalid")

type invalidError struct{ text string }

func (e invalidError) Error() string { return e.text }
func (e invalidError) Unwrap() error { return ErrInvalid }

// Invalid returns an error that is ErrInvalid and says what is wrong.
func Invalid(format string, args ...any) error { return invalidError{fmt.Sprintf(format, args...)} }

// mapped are the IPv4 addresses as IPv6 ones (RFC 4291, 2.5.5.2). The kernel takes either for the same
// address, and netip for two.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// nobodys are addresses that name the host itself, nobody or a group (RFC 6890, RFC 5771, RFC 4291). Without them no pool
// is so wide that it overlaps everybody's.
var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("ff00::/8"),
}

// objection says why no pool can have an address or CIDR, although it can be read; "" if a pool can.
func objection(text string) string {
	addr, length, hasLength := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	switch {
	case err != nil:
		return ""
	case a.Zone() != "":
		return fmt.Sprintf("has a zone (%q), which an address of a pool can't have: write %s", a.Zone(), a.WithZone(""))
	case !a.Is4In6():
		return ""
	}
	plain := a.Unmap().String()
	if bits, err := strconv.Atoi(length); hasLength && err == nil {
		if bits >= mapped.Bits() {
			bits -= mapped.Bits()
		}
		plain += "/" + strconv.Itoa(bits)
	}
	return "is an IPv4 address written as an IPv6 one: write " + plain
}

func parsePrefixOrAddr(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b) // 4 or 16 bytes
	return a
}
