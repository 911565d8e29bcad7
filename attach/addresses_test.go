package attach

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/patchbay-cni/patchbay/ipam"
)

// oneIPAMClaim is an API server's, which has no addresses yet.
type oneIPAMClaim struct{}

func (oneIPAMClaim) IPAMClaim(context.Context, string, string) (*ipam.IPAMClaim, error) {
	return &ipam.IPAMClaim{}, nil
}
func (oneIPAMClaim) SetIPs(context.Context, string, string, string, []string) error { return nil }

// Two pods that start at once ask for the same: the address that an IPAMClaim keeps, or a static one. In
// whatever order their steps are, only one of them gets it.
func TestPodsThatStartAtOnceDontGetTheSame(t *testing.T) {
	namespaces := makeNamespaces(t)
	for _, static := range []bool{false, true} {
		one, both := 0, 0
		for seed := uint64(1); seed <= 30; seed++ {
			synctest.Test(t, func(t *testing.T) {
				s := newSimulation(t, seed, namespaces)
				s.engine.IPAM.IPAMClaims = oneIPAMClaim{}
				s.recover()
				for i := range 2 {
					s.client("runtime", func(round int) {
						if round > 0 {
							return
						}
						w := s.wanted(0, "net1") // addressed
						if static {
							w = s.wanted(1, "net1") // plain
							w[0].Requests.IPs = []ipam.Request{{Addr: netip.MustParseAddr("10.9.0.5"), Bits: 24}}
						} else {
							w[0].IPAMClaim = "default/kept"
						}
						id := []string{"a", "b"}[i]
						_, err := s.engine.Add(context.Background(), Sandbox{ContainerID: id, Namespace: "default", Pod: id, Netns: s.namespaces[i]}, w)
						s.pods[i].added = err == nil
					})
				}
				s.until("both calls", func() bool { return s.open.Load() == 0 })
				switch {
				case s.pods[0].added && s.pods[1].added:
					both++
				case s.pods[0].added || s.pods[1].added:
					one++
				}
			})
		}
		if both > 0 || one == 0 {
			t.Errorf("static %v: of 30 runs, both pods have the address in %d, and one of them in %d", static, both, one)
		}
	}
}
