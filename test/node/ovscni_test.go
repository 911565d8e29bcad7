package node

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// ids returns external_ids of a port's rows in Port and Interface.
func ids(t *testing.T, n *testnode.Node, pod, ifName string) (port, iface string) {
	t.Helper()
	name := strings.TrimSpace(n.OVS.Vsctl(t, "--bare", "--columns=name", "find", "port", `external_ids:patchbay-pod="default/`+pod+`"`, `external_ids:patchbay-if=`+ifName))
	if name == "" {
		t.Fatalf("pod %s has no port for %s", pod, ifName)
	}
	bare := func(table string) string { // ovs-vsctl quotes what might be something else than a text
		return strings.ReplaceAll(n.OVS.Vsctl(t, "get", table, name, "external_ids"), `"`, "")
	}
	return bare("port"), bare("interface")
}

func TestPortsBearWhatOvsCNIWritesOnThem(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "ovs.yaml", nad("theirs", `{"cniVersion": "0.4.0", "name": "theirs", "type": "ovs", "bridge": "br-data"}`))
	s := n.Run(t, "a", "theirs,data")
	for _, nic := range []string{"net1", "net2"} {
		port, _ := ids(t, n, "a", nic)
		for _, want := range []string{"contIface=" + nic, "contNetns=" + s.Netns, "contPodUid=" + s.UID, "patchbay-sandbox=" + s.ContainerID} {
			if !strings.Contains(port, want) {
				t.Errorf("%s lacks %s: %s", nic, want, port)
			}
		}
		if strings.Contains(port, "owner") {
			t.Errorf("%s is marked as ovs-cni's, which would remove it: %s", nic, port)
		}
	}
	n.Check(t, s)
}

func TestOvsCNIsArgumentsAreHonoured(t *testing.T) {
	n := testnode.Standard(t)
	n.OVS.Vsctl(t, "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
	n.Write(t, "ovs.yaml", nad("theirs", `{"cniVersion": "0.4.0", "name": "theirs", "type": "ovs", "bridge": "br-data", "vlan": 7,
		"interface_type": "system", "socket_file": "`+n.OVS.DB+`", "link_state_check_retries": 5, "link_state_check_interval": 200}`))
	n.Write(t, "ovn.yaml", nad("ovn", `{"cniVersion": "0.4.0", "name": "ovn", "type": "ovs"}`))
	s := n.Run(t, "a", `[{"name": "theirs", "cni-args": {"mac": "02:00:00:00:00:0a", "OVNPort": "lp1"}}, {"name": "ovn", "cni-args": {"ovnPort": "lp2"}},
		{"name": "data", "cni-args": {"mac": "02:00:00:00:00:0c"}, "mac": "02:00:00:00:00:0d"}]`)
	for nic, mac := range map[string]string{"net1": "02:00:00:00:00:0a", "net3": "02:00:00:00:00:0d"} { // a capability comes before args
		if out := testnode.Exec(t, s, "ip", "link", "show", nic); !strings.Contains(out, mac) {
			t.Errorf("%s: %s, want %s", nic, out, mac)
		}
	}
	for nic, lport := range map[string]string{"net1": "lp1", "net2": "lp2", "net3": "default_a_net3"} {
		if _, iface := ids(t, n, "a", nic); !strings.Contains(iface, "iface-id="+lport) {
			t.Errorf("%s lacks iface-id %s: %s", nic, lport, iface)
		}
	}
	if out := n.OVS.Vsctl(t, "list-ports", "br-int"); len(strings.Fields(out)) != 1 {
		t.Errorf("ports of br-int: %s", out)
	}
	if out := n.OVS.Vsctl(t, "--bare", "--columns=type", "find", "interface", "external_ids:iface-id=lp1"); strings.TrimSpace(out) != "system" {
		t.Errorf("type %q, want system", out)
	}
	n.Check(t, s)
	for _, taken := range []string{"lp1", "default_a_net3"} { // another pod's traffic is not to be had
		if _, err := n.TryRun("b", `[{"name": "ovn", "cni-args": {"ovnPort": "`+taken+`"}}]`); err == nil || !strings.Contains(err.Error(), `OvnPort "`+taken+`" is bound to port`) || !strings.Contains(err.Error(), "of pod default/a") {
			t.Error(err)
		}
	}
	n.AssertClean(t)
}

// TestOvsCNIsArgumentsInCNIArgs: cnitool, and Multus for a selection's mac, give them so.
func TestOvsCNIsArgumentsInCNIArgs(t *testing.T) {
	n := testnode.Standard(t)
	t.Setenv("PATCHBAY_CNI_SOCKET", n.CNI)
	c := libcni.NewCNIConfigWithCacheDir([]string{testnode.Bin()}, n.Dir+"/cache", nil)
	list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion": "1.0.0", "name": "direct", "plugins": [{"type": "patchbay-ovs", "bridge": "br-data",
		"args": {"cni": {"mac": "02:00:00:00:00:01", "ovnPort": "lp0"}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	ns := testnode.Netns(t, "direct")
	rt := &libcni.RuntimeConf{ContainerID: "direct", NetNS: ns, IfName: "net7",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "direct"}, {"MAC", "02:00:00:00:00:02"}, {"OvnPort", "lp1"}}}
	if _, err := c.AddNetworkList(context.Background(), list, rt); err != nil {
		t.Fatal(err)
	}
	if out := testnode.Sh(t, "ip", "-n", "direct", "link", "show", "net7"); !strings.Contains(out, "02:00:00:00:00:02") {
		t.Error(out)
	}
	port, iface := ids(t, n, "direct", "net7")
	if !strings.Contains(iface, "iface-id=lp1") || !strings.Contains(port, "contNetns="+ns) {
		t.Errorf("external_ids: %s; %s", port, iface)
	}
	if err := c.CheckNetworkList(context.Background(), list, rt); err != nil {
		t.Error(err)
	}
	if err := c.DelNetworkList(context.Background(), list, rt); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

func TestWhatOvsCNIHasAndWeHaveNotIsRefused(t *testing.T) {
	n := testnode.Standard(t)
	for i, c := range []struct{ name, keys, selection, want string }{
		{"unknown key", `"bridge": "br-data", "vlna": 5`, ``, `unknown key "vlna"`},
		{"hardware offload", `"bridge": "br-data", "deviceID": "0000:03:02.0"`, ``, "deviceID: hardware offload is not supported"},
		{"flat file", `"bridge": "br-data", "configuration_path": "/etc/ovs.conf"`, ``, "configuration_path: no file beside the configuration"},
		{"internal interface", `"bridge": "br-data", "interface_type": "internal"`, ``, `interface_type "internal"`},
		{"another switch", `"bridge": "br-data", "socket_file": "unix:/run/other.sock"`, ``, `socket_file "unix:/run/other.sock" is not the daemon's connection`},
		{"no bridge", `"vlan": 5`, ``, `either "network"`},
		{"no integration bridge", `"vlan": 5`, `, "cni-args": {"ovnPort": "lp"}`, `bridge "br-int" does not exist`},
		{"zero in args", `"bridge": "br-data"`, `, "cni-args": {"mac": 5}`, "mac"},
		{"malformed MAC in args", `"bridge": "br-data"`, `, "cni-args": {"mac": "03:00:00:00:00:01"}`, "03:00:00:00:00:01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			network := fmt.Sprintf("bad%d", i)
			n.Write(t, network+".yaml", nad(network, `{"cniVersion": "0.4.0", "name": "`+network+`", "type": "ovs", `+c.keys+`}`))
			_, err := n.TryRun("bad", `[{"name": "`+network+`"`+c.selection+`}]`)
			if err == nil {
				_ = n.Remove("bad")
				t.Fatal("it was accepted")
			}
			var e *types.Error
			if !strings.Contains(err.Error(), c.want) || !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig {
				t.Errorf("error %q lacks %q, or has another code than 7", err, c.want)
			}
		})
	}
	n.AssertEmpty(t)
}

// TestWhatOvsCNILeftIsPurged: its ports whose interfaces are gone, and no others.
func TestWhatOvsCNILeftIsPurged(t *testing.T) {
	n := testnode.Standard(t)
	leave := func(name string, set ...string) {
		t.Helper()
		// ovs-vsctl fails as the interface can't be opened; the port is made.
		_ = exec.Command("ovs-vsctl", append([]string{"--db=" + n.OVS.DB, "--timeout=10", "add-port", "br-data", name, "--"}, set...)...).Run()
		testnode.Eventually(t, "ovs-vswitchd has looked at "+name, func() bool {
			out, err := exec.Command("ovs-vsctl", "--db="+n.OVS.DB, "get", "interface", name, "error").Output()
			return err != nil || strings.Contains(string(out), `"`) // gone already, or in error
		})
	}
	const owner = "external_ids:owner=ovs-cni.network.kubevirt.io"
	gone := func(name string) func() bool {
		return func() bool { return !strings.Contains(n.OVS.Vsctl(t, "list-ports", "br-data"), name) }
	}
	leave("somebodys", "set", "port", "somebodys", "external_ids:owner=somebody")
	testnode.Sh(t, "ip", "link", "add", "lives0", "type", "veth", "peer", "name", "lives1")
	t.Cleanup(func() { testnode.Sh(t, "ip", "link", "del", "lives0") })
	leave("lives0", "set", "port", "lives0", owner, "--", "set", "interface", "lives0", "type=nonsense")
	leave("vethleft1", "set", "port", "vethleft1", owner)
	testnode.Eventually(t, "the port without an interface is removed", gone("vethleft1"))

	// Also what was left while nobody looked.
	n.Daemon.Stop()
	leave("vethleft2", "set", "port", "vethleft2", owner)
	n.Start(t)
	testnode.Eventually(t, "it is removed at the start", gone("vethleft2"))
	n.Run(t, "a", "data")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	for _, stays := range []string{"somebodys", "lives0"} {
		if gone(stays)() {
			t.Errorf("%s is gone, too", stays)
		}
	}
}
