package attack

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A pod loses its port while the node is suspended, when nothing is mended. It was noted as one that somebody mends
// already, and neither that port nor any that it lost later was made again.
func TestWhatIsLostDuringASuspensionIsMendedAfterIt(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.Run(t, "a", "data")
	port := n.OVS.Ports(t)[0]
	there := func() bool { return slices.Contains(n.OVS.Ports(t), port) }
	n.etcd.Stop()
	aside := n.etcd.Data() + ".aside"
	if err := os.Rename(n.etcd.Data(), aside); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.suspended()
	n.OVS.Vsctl(t, "del-port", port)
	testnode.Eventually(t, "the loss is noticed", func() bool { return strings.Contains(n.LogTail(), "what was lost is not mended yet") })
	n.etcd.Stop()
	remove(t, n.etcd.Data())
	if err := os.Rename(aside, n.etcd.Data()); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.resumed()
	testnode.Eventually(t, "what was lost meanwhile is made again", there)
	n.OVS.Vsctl(t, "del-port", port)
	testnode.Eventually(t, "what is lost afterwards is made again", there)
}
