package attach

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/patchbay-cni/patchbay/ipam"
)

// An address of a sandbox whose record is lost is released while the runtime calls ADD for that sandbox
// again, which makes the address its own: in whatever order their steps are, what a pod has stays claimed.
func TestARepeatedADDKeepsAnAddressThatIsReleasedBesideIt(t *testing.T) {
	namespaces := makeNamespaces(t)
	for seed := uint64(1); seed <= 50 && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(t, seed, namespaces)
			s.recover()
			s.pods[0].id = "c0"
			leaked := ipam.Owner{Node: "n1", ContainerID: "c0", IfName: "net22", Pod: "default/p0"}
			s.claims["10.0.0.2"] = leaked.Value()
			s.client("release", func(round int) {
				if round == 0 {
					_ = s.engine.ReleaseClaim(context.Background(), "10.0.0.0-29", netip.MustParseAddr("10.0.0.2"))
				}
			})
			s.client("runtime", func(round int) {
				if round == 0 {
					s.runtime(0, round)
				}
			})
			s.until("both calls", func() bool { return s.open.Load() == 0 })
			if !s.pods[0].added {
				s.fault("the ADD failed")
			}
			s.quiet(s.engine)
			if len(s.faults) > 0 {
				s.fail("%v", s.faults)
			}
		})
	}
}
