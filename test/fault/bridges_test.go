package fault

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// What is removed from Open vSwitch is told by its database: nobody waits for GC, which comes once an hour
// here.
func TestWhatIsRemovedFromOpenVSwitchIsMadeAgain(t *testing.T) {
	n := testnode.Standard(t, "gc.interval=1h")
	a, b := n.Run(t, "a", "data"), n.Run(t, "b", "data,control")
	links := testnode.Exec(t, a, "cat", "/sys/class/net/net1/ifindex")
	for _, c := range []struct {
		name   string
		remove func()
	}{
		{"a pod's port", func() { n.OVS.Vsctl(t, "del-port", ovs.HostName(a.ContainerID, "net1")) }},
		{"a bridge", func() { n.OVS.Vsctl(t, "del-br", "br-data") }},
		{"two bridges", func() { n.OVS.Vsctl(t, "del-br", "br-data", "--", "del-br", "br-control") }},
		{"everything", func() {
			n.OVS.StopServer()
			db := filepath.Join(n.OVS.Dir, "conf.db")
			if err := os.Remove(db); err != nil {
				t.Fatal(err)
			}
			testnode.Sh(t, "ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema")
			n.OVS.StartServer(t)
			n.OVS.Vsctl(t, "--no-wait", "init")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.remove()
			testnode.Eventually(t, "every port is there again", func() bool {
				ports := n.OVS.Ports(t)
				return slices.Contains(ports, ovs.HostName(a.ContainerID, "net1")) && slices.Contains(ports, ovs.HostName(b.ContainerID, "net1")) &&
					slices.Contains(ports, ovs.HostName(b.ContainerID, "net2"))
			})
			testnode.Eventually(t, "ovs-vswitchd has opened them", func() bool {
				return n.Runtime.Check(context.Background(), a) == nil && n.Runtime.Check(context.Background(), b) == nil
			})
			testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
			if now := testnode.Exec(t, a, "cat", "/sys/class/net/net1/ifindex"); now != links {
				t.Errorf("the pod's interface %s was made again as %s", links, now)
			}
		})
	}
}

// A bridge that can't be made is no reason to keep pods from the others, or from their end.
func TestAMissingUplinkConcernsItsBridgeOnly(t *testing.T) {
	n := testnode.New(t, testnode.Config{Manifests: map[string]string{"networks.yaml": testnode.Networks}, Set: []string{"ovs.bridges.data.uplinks=[late0]"}})
	s := n.Run(t, "a", "control")
	if _, err := n.TryRun("b", "data"); err == nil || !strings.Contains(err.Error(), "br-data") {
		t.Errorf("an ADD to the bridge that is not there: %v", err)
	}
	unsettled := func() string {
		findings, err := n.Client.Doctor(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(findings, func(f client.Finding) bool { return f.Check == "bridges" && !f.OK }); i >= 0 {
			return findings[i].Message
		}
		return ""
	}
	if text := unsettled(); !strings.Contains(text, "late0") || !strings.Contains(text, "br-data") {
		t.Errorf("doctor says %q of the bridges", text)
	}
	n.Check(t, s)
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	testnode.Sh(t, "ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
	defer testnode.Sh(t, "ip", "link", "del", "late0")
	testnode.Eventually(t, "the bridge is made when its uplink is there", func() bool { return unsettled() == "" })
	n.Run(t, "c", "data")
}
