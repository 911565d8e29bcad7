package attack

import (
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// An operator may put a QoS of his own on pods' ports. It is not ours to remove, and must keep no pod from ending.
func TestAQoSThatPortsShareKeepsNoPodFromEnding(t *testing.T) {
	n := newNode(t)
	a, b := n.Run(t, "a", "limited"), n.Run(t, "b", "data")
	ports := []string{ovs.HostName(a.ContainerID, "net1"), ovs.HostName(b.ContainerID, "net1")}
	n.OVS.Vsctl(t, "--id=@q", "create", "qos", "type=linux-htb", "other_config:max-rate=1000000", "external_ids:whose=operator",
		"--", "set", "port", ports[0], "qos=@q", "--", "set", "port", ports[1], "qos=@q")
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	if has := n.OVS.Vsctl(t, "--bare", "--columns=qos", "list", "port", ports[1]); strings.TrimSpace(has) == "" {
		t.Error("the other pod has lost its limit")
	}
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
	if rows := n.OVS.Vsctl(t, "--bare", "--columns=external_ids", "list", "qos"); strings.TrimSpace(rows) != "whose=operator" {
		t.Errorf("the rows of QoS are %q", rows)
	}
}

// A bridge that is made again, and one of a database that was lost, is the gateway that it was.
func TestABridgeThatIsMadeAgainIsTheGatewayItWas(t *testing.T) {
	n := newNode(t, "ovs.trustedNamespaces=[default]")
	n.nad("gateway", `{"cniVersion": "1.1.0", "name": "gateway", "type": "patchbay-ovs", "network": "data", "isDefaultGateway": true,
 "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/24", "subnetLen": 24, "gateway": "10.82.0.1", "cooldown": "0s"}}`)
	a := n.Run(t, "a", "gateway")
	has := func() string { return testnode.Sh(t, "ip", "-br", "address") }
	if !strings.Contains(has(), "10.82.0.1/24") {
		t.Fatalf("the bridge is no gateway: %s", has())
	}
	n.OVS.Vsctl(t, "--no-wait", "del-br", "br-data")
	port := ovs.HostName(a.ContainerID, "net1")
	testnode.Eventually(t, "the port is there again", func() bool { return strings.Contains(n.OVS.Vsctl(t, "list-ports", "br-data"), port) })
	testnode.Eventually(t, "the bridge has the gateway's address", func() bool { return strings.Contains(has(), "10.82.0.1/24") })
	testnode.Exec(t, a, "ping", "-c1", "-W5", "10.82.0.1")
}
