package attack

import (
	"os"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Whoever writes a network chose where its patchbay-ipam, which is root's, looks for the daemon, and into which
// directory of the node it writes a DEL that finds none.
func TestANetworkDoesNotChooseTheDaemonOfItsIPAM(t *testing.T) {
	n := newNode(t)
	dir := testnode.ShortDir(t) + "/net.d"
	n.nad("elsewhere", `{"cniVersion": "1.0.0", "name": "elsewhere", "type": "bridge", "bridge": "kbr0", "socket": "/run/nobody.sock", "waitSeconds": 0, "delQueue": "`+dir+`",
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`)
	if _, err := n.TryRun("a", "elsewhere"); err != nil {
		t.Error(err)
	} else if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(dir); err == nil {
		t.Errorf("root wrote %v", files)
	}
	// Nor does he under another meta-plugin, which says nothing of the daemon.
	config := `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay-ovs", "socket": "/run/nobody.sock", "delQueue": "` + dir + `"}`
	if e := n.shim("patchbay-ovs", config, "CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=net1"); e == nil || !strings.Contains(e.Error(), "delQueue") {
		t.Error(e)
	}
	if files, err := os.ReadDir(dir); err == nil {
		t.Errorf("root wrote %v", files)
	}
	n.AssertEmpty(t)
}
