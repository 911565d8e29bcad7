// Package node tests one node, whole: patchbayd, Open vSwitch and etcd as processes, the shim
// called through libcni as a container runtime does.
package node

import (
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.MainInParts(m, 2) }
