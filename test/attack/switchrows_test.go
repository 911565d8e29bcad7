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
