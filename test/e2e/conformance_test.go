package e2e

import "testing"

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("N02 the resource is that of the specification", theResourceIsTheSpecifications)
	t.Run("N32 N35 network-status is written and restored", networkStatusIsWrittenAndRestored)
	t.Run("N42 devices of kubelet reach plugin and status", devicesOfKubelet)
	t.Run("N44 the configuration is written when ADDs can be served", theConfigurationIsWrittenLate)
	t.Run("N53 N54 an address belongs to its IPAMClaim", anAddressBelongsToItsIPAMClaim)
}
