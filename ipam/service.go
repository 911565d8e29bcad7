package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

var (
	// ErrNoPool says that there is no pool of that name.
	ErrNoPool = fault.New(fault.NotFound, "there is no pool of that name")
	// ErrInUse says that addresses of the pool have owners.
	ErrInUse = fault.New(fault.Conflict, "addresses of it are in use")
	// ErrNoSubnet says that no node has the subnet.
	ErrNoSubnet = fault.New(fault.NotFound, "no node has it")
	// ErrNoClaim says that nobody has the address.
	ErrNoClaim = fault.New(fault.NotFound, "nobody has it")
)

// A Mode hands out the addresses of pools in its own way. It chooses; claims are made in the ledger.
type Mode interface {
	// Reserve chooses an address of each of the pool's networks: the requested ones, or any.
	Reserve(ctx context.Context, p *Pool, o Owner, requested []Request) (*Reservation, error)
	// Refresh reads from the ledger who has the addresses of a pool, after a claim was refused.
	Refresh(ctx context.Context, pool string) error
	// Owned returns the claims that an owner has in a pool. It neither defines nor claims anything: what a
	// pod ends with does not depend on what its pool is by now.
	Owned(ctx context.Context, pool string, o Owner) ([]Claim, error)
	// Releasing is told that claims are about to be freed, and Released that they are free in the ledger.
	Releasing(claims []Claim)
	Released(claims []Claim)
	// Persistent returns the claims of this node that IPAMClaims keep, of the pools in use.
	Persistent() []Claim
}

// A Ledger is where claims are written: package ipam/ledger.
type Ledger interface {
	// Node is the node whose claims are made.
	Node() string
	// NodeClaims returns this node's claims of a pool; of all pools if the name is empty. Those that
	// can't be read have no known owner.
	NodeClaims(ctx context.Context, pool string) ([]Claim, error)
	// Holder returns the claim of an address, of whichever node, or ErrNoClaim.
	Holder(ctx context.Context, pool string, a netip.Addr) (Claim, error)
	// Missing returns those of the claims that are not there, or are another owner's.
	Missing(ctx context.Context, claims []Claim) ([]Claim, error)
	// Releasing frees claims as a part of a transaction, each only if its owner still has it; nil if
	// there is nothing to free.
	Releasing(ctx context.Context, claims []Claim) (txn.Txn, error)
	Commit(ctx context.Context, t txn.Txn) error
	// RemovePool removes a pool of which no address is in use, else it is ErrInUse, or ErrNoPool.
	RemovePool(ctx context.Context, pool string) error
	// GiveBack takes a subnet from a node that is gone, else it is refused; it is ErrInUse while there are claims in
	// it, which ForceBack gives up, and ErrNoSubnet if no node has it.
	GiveBack(ctx context.Context, pool string, subnet netip.Prefix) error
	ForceBack(ctx context.Context, pool string, subnet netip.Prefix) error
	// Pools returns the pools that are asked for, in order, with so many claims of all of them.
	Pools(ctx context.Context, p Page) ([]PoolInfo, error)
	// Faults says what is wrong with the pools, and the ways out.
	Faults(ctx context.Context) ([]string, error)
}

// A PoolInfo describes a pool as it is recorded.
type PoolInfo struct {
	Name    string            `json:"name"`
	Spec    json.RawMessage   `json:"spec"`    // nil if it can't be read
	Subnets map[string]string `json:"subnets"` // CIDR -> node
	Claims  []Claim           `json:"claims"`
	// Continue is empty if these are all claims. Else a Page after it has those that follow.
	Continue string `json:"continue,omitempty"`
}

// A Page is what is asked for of the pools: at most Limit claims, of one pool or, if Pool is "", of all, after those that
// were returned with a Continue.
type Page struct {
	Pool, After string
	Limit       int
}

// An Orphan is a subnet whose node's daemon is not up.
type Orphan struct {
	Pool   string
	Subnet netip.Prefix
	Node   string
}

// Holders says which pods of this node, other than that of a container ID, use what; "" for none.
type Holders interface {
	// HolderOf is the pod that has an address on a network.
	HolderOf(network string, addr netip.Addr, containerID string) string
	// UserOf is the pod that uses an IPAMClaim, namespace/name.
	UserOf(ipamClaim, containerID string) string
}

// A Service gives attachments their addresses: it knows who may have which, and leaves the choice to
// the pool's mode. A mode that has something to do besides, such as renewing leases, is run by the daemon,
// and tells the engine what has become of an attachment's addresses (attach.Engine.Update).
type Service struct {
	Ledger
	Modes      map[string]Mode   // by the name that a configuration has for it
	Defined    map[string]Config // pools of the daemon's configuration
	IPAMClaims IPAMClaims        // nil without Kubernetes
	Log        *slog.Logger
}

// An Ask says which addresses an attachment wants.
type Ask struct {
	Config     json.RawMessage // the network's "ipam" object; nil if it has none: then only requested addresses are given
	Network    string          // as users know it
	ConfigName string          // of the network's configuration, as IPAMClaims know it
	Owner      Owner           // container ID, interface and pod
	Requested  []Request
	IPAMClaim  string // namespace/name, if one is to keep the addresses
}

// A Reservation is addresses chosen for one attachment: given to nobody else meanwhile, and not claimed
// before its transaction is committed. What is not to be claimed is given back with Cancel.
type Reservation struct {
	Claims []Claim          // none for static addresses
	Result *types100.Result // the addresses, as an IPAM plugin's result
	Pool   *Pool            // nil for static addresses
	Hold

	ipamClaim string
}

// A Hold is a mode's part of a reservation.
type Hold interface {
	// Txn claims the addresses. It conflicts when one of them has an owner that the mode has not heard
	// of, or the pool has changed: then call Refresh and reserve again.
	Txn() txn.Txn
	// Cancel gives the addresses back that were never claimed.
	Cancel()
}

// NewReservation returns a mode's reservation: the claims, and in the same order the lengths of their
// addresses' subnets, and the gateways there.
func NewReservation(p *Pool, claims []Claim, bits []int, gateways []netip.Addr, h Hold) *Reservation {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: p.DNS}
	for i, c := range claims {
		res.IPs = append(res.IPs, &types100.IPConfig{Address: ipNet(c.Addr, bits[i]), Gateway: gateways[i].AsSlice()})
	}
	for _, route := range p.Routes {
		res.Routes = append(res.Routes, route.Copy())
	}
	return &Reservation{Claims: claims, Result: res, Pool: p, Hold: h}
}

func ipNet(a netip.Addr, bits int) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// Reserve chooses the addresses of an attachment; nil if it is to have none.
func (s *Service) Reserve(ctx context.Context, a Ask, h Holders) (*Reservation, error) {
	if a.Config == nil {
		return static(a, h)
	}
	p, err := ParseConfig(a.Config, s.Defined)
	if err != nil {
		return nil, err
	}
	if a.IPAMClaim != "" {
		if err := s.askAsIPAMClaim(ctx, &a, h); err != nil {
			return nil, err
		}
	}
	m := s.Modes[p.Mode]
	if m == nil {
		return nil, Invalid("ipam: pool %s has mode %s, which this daemon does not have: start one that does, or choose another mode", p.Name, p.Mode)
	}
	r, err := m.Reserve(ctx, p, a.Owner, a.Requested)
	if err != nil {
		return nil, err
	}
	r.ipamClaim = a.IPAMClaim
	return r, nil
}

// Check says what is wrong with an "ipam" object.
func (s *Service) Check(config json.RawMessage) error {
	_, err := ParseConfig(config, s.Defined)
	return err
}

// static gives the requested addresses on a network without IPAM. It knows nothing of other nodes' pods.
func static(a Ask, h Holders) (*Reservation, error) {
	if len(a.Requested) == 0 {
		return nil, nil
	}
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, r := range a.Requested {
		if r.Bits == 0 {
			return nil, Invalid("ips: network %s has no \"ipam\", so %s needs a prefix length, such as %s/24", a.Network, r.Addr, r.Addr)
		}
		if !r.Addr.IsGlobalUnicast() && !r.Addr.IsLinkLocalUnicast() {
			return nil, Invalid("ips: %s is not an address that an interface can have", r.Addr)
		}
		if has := h.HolderOf(a.Network, r.Addr, a.Owner.ContainerID); has != "" {
			return nil, fmt.Errorf("requested address %s of network %s: %w by pod %s", r.Addr, a.Network, ErrTaken, has)
		}
		res.IPs = append(res.IPs, &types100.IPConfig{Address: ipNet(r.Addr, r.Bits)})
	}
	return &Reservation{Result: res, Hold: unclaimed{}}, nil
}

// unclaimed holds static addresses: they are nobody's claim.
type unclaimed struct{}

func (unclaimed) Txn() txn.Txn { return nil }
func (unclaimed) Cancel()      {}

// Refresh has the mode of a reservation's pool read who has which address, after the claim was refused.
func (s *Service) Refresh(ctx context.Context, r *Reservation) error {
	if r.Pool == nil {
		return nil
	}
	return s.Modes[r.Pool.Mode].Refresh(ctx, r.Pool.Name)
}

// maxConflicts is how often addresses are chosen again when they turn out to be taken.
const maxConflicts = 3

// Claim reserves addresses and claims them by itself, for a plugin whose record is kept elsewhere.
func (s *Service) Claim(ctx context.Context, a Ask, h Holders) (*Reservation, error) {
	if a.Config == nil {
		return nil, Invalid("network %s has no \"ipam\", so that there is no pool to claim an address in", a.Network)
	}
	for try := 0; ; try++ {
		r, err := s.Reserve(ctx, a, h)
		if err != nil {
			return nil, err
		}
		err = s.Commit(ctx, r.Txn())
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, txn.ErrConflict) || try == maxConflicts {
			// The outcome may be unknown: what may have been claimed is freed.
			return nil, errors.Join(err, s.Release(context.WithoutCancel(ctx), r.Claims))
		}
		r.Cancel()
		if err := s.Refresh(ctx, r); err != nil {
			return nil, err
		}
	}
}

// Releasing frees claims as a part of a transaction, as the Ledger does, and tells the modes.
func (s *Service) Releasing(ctx context.Context, claims []Claim) (txn.Txn, error) {
	for _, m := range s.Modes {
		m.Releasing(claims)
	}
	return s.Ledger.Releasing(ctx, claims)
}

// Released tells the modes that claims are free in the ledger.
func (s *Service) Released(claims []Claim) {
	for _, m := range s.Modes {
		m.Released(claims)
	}
}

// releasedAtOnce is how many claims are freed in a transaction, from both layouts; etcd allows 128 operations.
const releasedAtOnce = 50

// Release frees claims in transactions of their own.
func (s *Service) Release(ctx context.Context, claims []Claim) error {
	for some := range slices.Chunk(claims, releasedAtOnce) {
		if err := s.releaseAtOnce(ctx, some); err != nil {
			return fmt.Errorf("release %d addresses: %w", len(claims), err)
		}
	}
	return nil
}

func (s *Service) releaseAtOnce(ctx context.Context, claims []Claim) error {
	t, err := s.Releasing(ctx, claims)
	if t == nil && err == nil {
		return nil
	}
	if err == nil {
		err = failpoint.Hit("ipam-release")
	}
	if err == nil {
		err = s.Commit(ctx, t)
	}
	if err == nil {
		s.Released(claims)
	}
	return err
}

// Owned returns the claims that an owner of this node has in a pool, or in all pools if the name is
// empty.
func (s *Service) Owned(ctx context.Context, pool string, o Owner) ([]Claim, error) {
	o.Node = s.Node()
	if pool == "" {
		all, err := s.NodeClaims(ctx, "")
		return slices.DeleteFunc(all, func(c Claim) bool { return !c.Owner.SameInterface(o) }), err
	}
	var all []Claim
	for _, m := range s.Modes {
		claims, err := m.Owned(ctx, pool, o)
		if err != nil {
			return nil, err
		}
		all = append(all, claims...)
	}
	return all, nil
}
