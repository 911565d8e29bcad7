package ipam

import (
	"net/netip"
	"slices"
)

// A Request is an address that a pod asks for. Bits is the prefix length that it expects with it, 0 if
// it names none.
type Request struct {
	Addr netip.Addr
	Bits int
}

// ParseRequest reads 10.12.0.9 or 10.12.0.9/24.
func ParseRequest(text string) (Request, error) {
	if why := objection(text); why != "" {
		return Request{}, Invalid("%q %s", text, why)
	}
	if p, err := netip.ParsePrefix(text); err == nil && p.Bits() > 0 {
		return Request{p.Addr(), p.Bits()}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return Request{}, Invalid("%q is neither an address, such as 10.12.0.9, nor an address with a prefix length, such as 10.12.0.9/24", text)
	}
	return Request{Addr: a}, nil
}

// ParseRequests reads a list of requests, in which no address may be twice.
func ParseRequests(texts []string) ([]Request, error) {
	var all []Request
	for _, t := range texts {
		r, err := ParseRequest(t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(have Request) bool { return have.Addr == r.Addr }) {
			return nil, Invalid("address %s is listed twice", r.Addr)
		}
		all = append(all, r)
	}
	return all, nil
}

// String gives the request as ParseRequest reads it.
func (r Request) String() string {
	if r.Bits == 0 {
		return r.Addr.String()
	}
	return netip.PrefixFrom(r.Addr, r.Bits).String()
}
