package attack

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A workload may do with its interfaces what it likes. Mending is for what the host's side has lost: it leaves
// them as they are, and a DEL takes them away all the same.
func TestMendingLeavesTheWorkloadsChangesAlone(t *testing.T) {
	n := newNode(t)
	testnode.Netns(t, "inner")
	cases := map[string]struct{ networks, does string }{
		"mac":    {"data", "ip link set net1 address 02:00:00:00:00:99"},
		"vrrp":   {"limited", "ip link set net1 address 00:00:5e:00:01:07; ip address del $(ip -br -4 a show net1 | awk '{print $3}') dev net1"},
		"rename": {"control", "ip link set net1 down; ip link set net1 name lan; ip link set lan up"},
		// A bond to what looks from outside: two interfaces of one address, with a master. Not each kernel has bonds.
		"bond": {"data,data", `ip link add bond0 type bridge; ip link set bond0 up
			for i in net1 net2; do ip link set $i down; ip link set $i address 02:00:00:00:00:98 master bond0 up; done`},
		"bridge": {"data", "ip link add br0 type bridge; ip link set net1 master br0; ip address flush dev net1"},
		"down":   {"data,bridge", "ip link set net1 down; ip link set net2 down"},
		// The steps of KubeVirt's bridge binding (setup/netpod/netpod.go, bridgeBindingSpec), with a bridge for its
		// dummy of the old name, as not each kernel has dummies.
		"kubevirt": {"limited,bridge", `for i in net1 net2; do
			mac=$(cat /sys/class/net/$i/address); ip=$(ip -br -4 a show $i | awk '{print $3}')
			ip link set $i down; ip link set $i name $i-nic; ip address flush dev $i-nic
			ip link set $i-nic address 02:00:00:00:01:${i#net}; ip link set $i-nic up
			ip link add k6t-$i type bridge; ip link set k6t-$i up; ip link set $i-nic master k6t-$i
			ip link set $i-nic type bridge_slave learning off
			ip link add $i address $mac type bridge; ip address add $ip dev $i
			done`},
		"dpdk":  {"mute,data", "true"},
		"inner": {"data", "ip link set net1 netns inner"},
	}
	pods, before := map[string]*sandbox.Sandbox{}, map[string]string{}
	for name, c := range cases {
		s := n.Run(t, name, c.networks)
		testnode.Exec(t, s, "sh", "-ec", c.does)
		pods[name], before[name] = s, links(t, s)
	}
	rounds := 0
	compare := func(when string) {
		t.Helper()
		rounds++
		gone := fmt.Sprintf("gone%d", rounds)
		n.Run(t, gone, "data")
		n.Vanish(t, gone)
		if err := n.Remove(gone); err != nil {
			t.Error(err)
		}
		for name, s := range pods {
			if is := links(t, s); is != before[name] {
				t.Errorf("%s: %s: was\n%s\nis\n%s", when, name, before[name], is)
			}
		}
		log, err := os.ReadFile(filepath.Join(n.Dir, "patchbayd.log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "can't be mended") || strings.Contains(line, "garbage collection") ||
				strings.Contains(line, "is damaged") && !strings.Contains(line, "missing on Open vSwitch") {
				t.Errorf("%s: %s", when, line)
			}
		}
	}
	compare("while the daemon runs")
	ports := n.OVS.Ports(t)
	for name := range pods {
		if name != "dpdk" {
			n.OVS.Vsctl(t, "del-port", ovs.HostName(pods[name].ContainerID, "net1"))
		}
	}
	slices.Sort(ports)
	testnode.Eventually(t, "the ports are there again", func() bool {
		have := n.OVS.Ports(t)
		slices.Sort(have)
		return fmt.Sprint(have) == fmt.Sprint(ports)
	})
	compare("after the ports were removed")
	n.Daemon.Stop()
	n.Start(t)
	compare("after a start")
	for name := range pods {
		if err := n.Remove(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.AssertEmpty(t)
}

// links are a pod's links and addresses, without what is counted.
func links(t *testing.T, s *sandbox.Sandbox) string {
	t.Helper()
	return testnode.Exec(t, s, "sh", "-c", "for l in $(ls /sys/class/net); do ip -o link show dev $l | sed 's/state [A-Z]*//;s/,*[A-Z_,-]*LOWER_UP//;s/<NO-CARRIER,/</'; ip -br -4 addr show dev $l | awk '{print $3}'; done 2>/dev/null; tc qdisc show | grep tbf || true")
}

// The default route that a hot attach asks for is taken from the others. One that the pod has renamed has none that
// we gave it.
func TestAHotAttachPassesOverARenamedInterface(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "data,control")
	testnode.Exec(t, s, "sh", "-ec", "ip link set net1 down; ip link set net1 name lan; ip link set lan up")
	if _, err := n.Client.Attach(t.Context(), "default", "a", client.Request{Network: "data", Interface: "hot", DefaultRoute: &[]netip.Addr{netip.MustParseAddr("10.12.0.1")}}); err != nil {
		t.Fatal(err)
	}
	if routes := testnode.Exec(t, s, "ip", "route", "show", "default"); !strings.Contains(routes, "via 10.12.0.1 dev hot") {
		t.Errorf("default route: %s", routes)
	}
	if err := n.Client.Detach(t.Context(), "default", "a", "hot"); err != nil {
		t.Error(err)
	}
}

// A limit on what a pod sends is the network's: it comes back by the host's end, whatever the link's name is.
func TestALimitThatIsTakenOffComesBackUnderAnotherName(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "limited")
	testnode.Exec(t, s, "sh", "-ec", "ip link set net1 down; ip link set net1 name lan; ip link set lan up; tc qdisc del dev lan root")
	testnode.Eventually(t, "the limit is there again", func() bool { return strings.Contains(testnode.Exec(t, s, "tc", "qdisc", "show", "dev", "lan"), "tbf") })
}

// What somebody changes on the host's side is put right, and the pod keeps its interface.
func TestTheHostsSideIsMended(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "trunk,headed")
	n.OVS.Vsctl(t, "add-br", "br-other", "--", "set", "bridge", "br-other", "datapath_type=netdev")
	for _, name := range []string{"net1", "net2"} {
		was, port := ifindex(t, s, name), ovs.HostName(s.ContainerID, name)
		ids := "external_ids:patchbay-sandbox=" + s.ContainerID
		for what, change := range map[string]func(){
			"tag":    func() { n.OVS.Vsctl(t, "set", "port", port, "tag=77") },
			"trunks": func() { n.OVS.Vsctl(t, "set", "port", port, "trunks=9") },
			"bridge": func() {
				n.OVS.Vsctl(t, "--no-wait", "del-port", port, "--", "add-port", "br-other", port, "--", "set", "port", port, ids, "external_ids:patchbay-if="+name)
			},
			"down": func() { testnode.Sh(t, "ip", "link", "set", port, "down") },
		} {
			change()
			testnode.Eventually(t, name+": "+what+" is mended", func() bool {
				return n.Runtime.Check(t.Context(), s) == nil && strings.TrimSpace(n.OVS.Vsctl(t, "port-to-br", port)) == "br-data" &&
					strings.Contains(testnode.Sh(t, "ip", "link", "show", port), ",UP")
			})
		}
		if is := ifindex(t, s, name); is != was {
			t.Errorf("%s was made again", name)
		}
	}
}
