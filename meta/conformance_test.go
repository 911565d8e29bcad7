package meta

import "testing"

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("N03 N06 an empty NAD is a configuration on disk", anEmptyNAD)
	t.Run("N05 names of DNS units are accepted", namesOfDNSUnits)
	t.Run("N07 a missing name is the NAD's", aMissingName)
	t.Run("N09 N10 both forms of the annotation are read", bothFormsAreRead)
	t.Run("N14 N17 addresses need no declaration", addressesNeedNoDeclaration)
	t.Run("N14 N22 N24 N28 requests that no plugin declares fail", undeclaredRequestsFail)
	t.Run("N19 N43 N46 the cluster network comes first", theClusterNetworkComesFirst)
	t.Run("N20 cni-args go over the network's own", cniArgsGoOverTheNetworksOwn)
	t.Run("N21 protocol defaults to TCP, in any case", protocolDefaultsToTCP)
	t.Run("N25 default-route may be empty and is then not absent", anEmptyDefaultRoute)
	t.Run("N29 an IPAMClaim that nobody honours is refused", anIPAMClaimThatNobodyHonours)
	t.Run("N30 a network twice is two attachments", aNetworkTwice)
	t.Run("N31 generated names are unique and stable", generatedNames)
	t.Run("N32 N34 N35 N36 N37 N38 N39 N40 N41 network-status", networkStatus)
	t.Run("N45 nothing is attached before the cluster network is ready", readinessOfTheClusterNetwork)
	t.Run("N51 forbidden networks fail by every way", forbiddenNetworks)
	t.Run("N52 C40 the runtime's arguments are for the cluster network alone", theRuntimesArguments)
	t.Run("C46 the result is in the version asked", theResultIsInTheVersionAsked)
}
