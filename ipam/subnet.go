package ipam

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

var (
	// ErrExhausted says that the pool or subnet has no free address.
	ErrExhausted = fault.New(fault.Invalid, "no free address")
	// ErrTaken says that a requested address has another owner.
	ErrTaken = fault.New(fault.Invalid, "address is taken")
)

// An Owner is who has an address: one interface of one sandbox on one node, or an IPAMClaim on that
// node, whichever pod uses it.
type Owner struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	Pod         string `json:"pod,omitempty"` // namespace/name
	// Network is the name of the configuration under which a plugin asked for the address.
	Network string `json:"network,omitempty"`
	// Via is patchbay-ipam when a plugin asked for the address, which then frees it; empty when
	// the owner's own record holds the claim.
	Via string `json:"via,omitempty"`
	// BootID is the boot of the node at which a plugin asked: no sandbox outlives it.
	BootID string `json:"bootID,omitempty"`
	// IPAMClaim is the one, namespace/name, that keeps the address when its pod is gone; of the other
	// fields only Node is set then.
	IPAMClaim string `json:"claim,omitempty"`
}

// Value is the owner as the claim's value in etcd.
func (o Owner) Value() string {
	b, _ := json.Marshal(o) // strings always marshal
	return string(b)
}

// Known reports whether the claim says who has the address. Of one that can't be read the owner is empty:
// such an address is nobody's to release, and is not given out.
func (o Owner) Known() bool { return o.Node != "" }

// SameInterface reports whether both mean one interface of one sandbox, or one IPAMClaim.
func (o Owner) SameInterface(p Owner) bool {
	return o.Known() && o.Node == p.Node && o.ContainerID == p.ContainerID && o.IfName == p.IfName && o.IPAMClaim == p.IPAMClaim
}

func (o Owner) String() string {
	if !o.Known() {
		return "an unknown owner (its claim can't be read)"
	}
	if o.IPAMClaim != "" {
		return fmt.Sprintf("IPAMClaim %s on node %s", o.IPAMClaim, o.Node)
	}
	if o.Pod == "" {
		return fmt.Sprintf("sandbox %s %s on node %s", o.ContainerID, o.IfName, o.Node)
	}
	return fmt.Sprintf("pod %s %s on node %s", o.Pod, o.IfName, o.Node)
}

// A Claim is one address with its owner.
type Claim struct {
	Pool  string     `json:"pool"`
	Addr  netip.Addr `json:"ip"`
	Owner Owner      `json:"owner"`
}

// Compare orders claims by pool and address.
func (c Claim) Compare(d Claim) int {
	return cmp.Or(strings.Compare(c.Pool, d.Pool), c.Addr.Compare(d.Addr))
}

// A Subnet is a node's subnet of a pool and the claims in it. It chooses addresses; it does no I/O
// and is not safe for concurrent use.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr

	pool    *Pool
	exclude []netip.Prefix // in order, none within another
	used    map[netip.Addr]Owner
	resting map[netip.Addr]time.Time // freed then; a used one by its last owner
	cursor  netip.Addr               // the address given out last
}

// NewSubnet returns the pool's subnet with the claims that are in it.
func NewSubnet(p *Pool, prefix netip.Prefix, claims map[netip.Addr]Owner) *Subnet {
	s := &Subnet{Prefix: prefix, used: map[netip.Addr]Owner{}, resting: map[netip.Addr]time.Time{}, cursor: prefix.Addr()}
	s.Follow(p)
	s.Mark(claims)
	for a := range claims {
		if s.cursor.Less(a) {
			s.cursor = a
		}
	}
	return s
}

// Follow makes the subnet go by the pool's rules from now on. Who has which address, and which ones
// rest, stays as it is.
func (s *Subnet) Follow(p *Pool) {
	s.pool, s.exclude, s.Gateway = p, outermost(p.Exclude), s.Prefix.Addr().Next()
	if p.Gateway.IsValid() && s.Prefix.Contains(p.Gateway) {
		s.Gateway = p.Gateway
	}
}

// Choose takes a free address for the owner: the next one after the last given out, so that a
// freed address rests as long as possible, and in any case for the pool's cooldown.
func (s *Subnet) Choose(o Owner, now time.Time) (netip.Addr, error) {
	first, last := s.bounds()
	from := s.cursor.Next()
	if !from.IsValid() || from.Less(first) {
		from = first
	}
	for _, part := range [][2]netip.Addr{{from, last}, {first, s.cursor}} {
		if a, ok := s.firstFree(part[0], part[1], now); ok {
			s.used[a] = o
			s.cursor = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pool %s: %w in this node's subnet %s: size %d, in use %d, resting after release %d (cooldown %s)",
		s.pool.Name, ErrExhausted, s.Prefix, s.Size(), len(s.used), s.rest(), s.pool.Cooldown)
}

// Request takes the very address a pod asked for, or says why it can't have it.
func (s *Subnet) Request(want Request, o Owner) error {
	first, last := s.bounds()
	a := want.Addr
	switch owner, used := s.used[a]; {
	case want.Bits != 0 && want.Bits != s.Prefix.Bits():
		return Invalid("requested address %s of pool %s has another length than the subnet %s: ask for %s/%d, or leave the length out",
			want, s.pool.Name, s.Prefix, a, s.Prefix.Bits())
	case used && owner.SameInterface(o):
		return nil
	case used:
		return fmt.Errorf("requested address %s of pool %s: %w by %s", a, s.pool.Name, ErrTaken, owner)
	case a == s.Gateway:
		return Invalid("requested address %s of pool %s is the gateway of subnet %s", a, s.pool.Name, s.Prefix)
	case a.Less(first) || last.Less(a):
		return Invalid("requested address %s of pool %s is the network or broadcast address of subnet %s", a, s.pool.Name, s.Prefix)
	case s.excluded(a):
		return Invalid("requested address %s of pool %s is excluded from the pool", a, s.pool.Name)
	}
	s.used[a] = o
	return nil
}

// rest returns how many addresses are free and rest.
func (s *Subnet) rest() (n int) {
	for a := range s.resting {
		if _, used := s.used[a]; !used {
			n++
		}
	}
	return n
}

// Mark takes over who has addresses of the subnet, as it was found in etcd.
func (s *Subnet) Mark(claims map[netip.Addr]Owner) {
	for a, o := range claims {
		s.used[a] = o
	}
}

// Release frees the address if the owner still has it; it then rests.
func (s *Subnet) Release(a netip.Addr, o Owner, now time.Time) {
	if s.Forget(a, o) {
		s.resting[a] = now
	}
}

// Rest has an address that was freed then rest, unless it does already.
func (s *Subnet) Rest(a netip.Addr, freed time.Time) {
	if _, rests := s.resting[a]; !rests {
		s.resting[a] = freed
	}
}

// Forget frees an address, if the owner still has it, that was chosen but never claimed: nobody has seen
// it, so that it needs no rest but that after an earlier owner. It reports whether the owner had it.
func (s *Subnet) Forget(a netip.Addr, o Owner) bool {
	had := s.used[a].SameInterface(o)
	if had {
		delete(s.used, a)
	}
	return had
}

// Claims returns the claims of the owners that are wanted.
func (s *Subnet) Claims(wanted func(Owner) bool) []Claim {
	var claims []Claim
	for a, o := range s.used {
		if wanted(o) {
			claims = append(claims, Claim{Pool: s.pool.Name, Addr: a, Owner: o})
		}
	}
	return claims
}

// Owner returns who has the address.
func (s *Subnet) Owner(a netip.Addr) Owner { return s.used[a] }

// Size is the number of addresses that pods can have, excluded ones counted in; it is capped at
// 2^24, which no node fills.
func (s *Subnet) Size() int {
	host := s.Prefix.Addr().BitLen() - s.Prefix.Bits()
	if host >= 24 {
		return 1 << 24
	}
	n := 1<<host - 2 // the subnet's own address and the gateway
	if s.Prefix.Addr().Is4() {
		n-- // broadcast
	}
	return n
}

func (s *Subnet) bounds() (first, last netip.Addr) {
	last = lastAddr(s.Prefix)
	if s.Prefix.Addr().Is4() {
		last = last.Prev()
	}
	return s.Prefix.Addr().Next(), last
}

// free reports whether an address that is not excluded can be given out.
func (s *Subnet) free(a netip.Addr, now time.Time) bool {
	if _, used := s.used[a]; used || a == s.Gateway {
		return false
	}
	if freed, ok := s.resting[a]; ok {
		if now.Sub(freed) < s.pool.Cooldown {
			return false
		}
		delete(s.resting, a)
	}
	return true
}

func (s *Subnet) excluded(a netip.Addr) bool { return s.exclusion(a).IsValid() }

// exclusion returns the excluded prefix that has the address; the zero prefix if none has.
func (s *Subnet) exclusion(a netip.Addr) netip.Prefix {
	i, first := slices.BinarySearchFunc(s.exclude, a, func(x netip.Prefix, a netip.Addr) int { return x.Addr().Compare(a) })
	if !first {
		i-- // the one that begins below the address
	}
	if i < 0 || !s.exclude[i].Contains(a) {
		return netip.Prefix{}
	}
	return s.exclude[i]
}

// firstFree returns the first free address of a part of the subnet; it steps over exclusions, however
// many addresses they have.
func (s *Subnet) firstFree(first, last netip.Addr, now time.Time) (netip.Addr, bool) {
	for a := first; a.IsValid() && !last.Less(a); a = a.Next() {
		if x := s.exclusion(a); x.IsValid() {
			a = lastAddr(x)
		} else if s.free(a, now) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// outermost returns the prefixes in order, without those that are within others: their order has the shorter
// one of two with the same first address first.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		if n := len(all); n == 0 || !all[n-1].Overlaps(p) {
			all = append(all, p.Masked())
		}
	}
	return all
}

// Offers reports whether s is one of the subnets that the network is cut into.
func (n Network) Offers(s netip.Prefix) bool {
	return s.Bits() == n.SubnetBits && s == s.Masked() && n.Prefix.Contains(s.Addr()) && !s.Addr().Less(n.Min) && !n.Max.Less(s.Addr())
}

// Subnets is how many subnets the network is cut into, between the first and the last to hand out.
func (n Network) Subnets() uint64 {
	first, last := number(n.Min), number(n.Max)
	count := last.Sub(last, first).Rsh(last, n.hostBits()).Uint64()
	return count + 1
}

// Subnet returns the i-th of them.
func (n Network) Subnet(i uint64) netip.Prefix {
	a := new(big.Int).Lsh(new(big.Int).SetUint64(i), n.hostBits())
	b := make([]byte, n.Min.BitLen()/8)
	addr, _ := netip.AddrFromSlice(a.Add(a, number(n.Min)).FillBytes(b)) // 4 or 16 bytes
	return netip.PrefixFrom(addr, n.SubnetBits)
}

// hostBits is how many bits number the addresses of a subnet.
func (n Network) hostBits() uint { return uint(n.Prefix.Addr().BitLen() - n.SubnetBits) }

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// MAC derives a hardware address from an IP address: 0a:58 and the IPv4 address, so that no two have one, or
// four bytes of a hash of the IPv6 address.
func MAC(a netip.Addr) net.HardwareAddr {
	four := a.AsSlice()
	if !a.Is4() {
		sum := sha256.Sum256(four)
		four = sum[:4]
	}
	return append(net.HardwareAddr{0x0a, 0x58}, four...)
}

// TextPrefix returns the text that all addresses of the subnet begin with.
func TextPrefix(s netip.Prefix) string {
	first, last := s.Addr().String(), lastAddr(s).String()
	n := 0
	for n < min(len(first), len(last)) && first[n] == last[n] {
		n++
	}
	if s.Addr().Is4() {
		return first[:n]
	}
	// An IPv6 text is shortened at its longest run of zeros, which differs from address to
	// address: only the groups before the first zero, and before the last whole one, are sure.
	prefix := ""
	for _, group := range strings.SplitAfter(first[:n], ":") {
		if group == "0:" || group == ":" || !strings.HasSuffix(group, ":") {
			break
		}
		prefix += group
	}
	return prefix
}
