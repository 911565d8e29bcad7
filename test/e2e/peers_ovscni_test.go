package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// ovs-cni's own suites (k8snetworkplumbingwg/ovs-cni, tests/kubernetes/ and tests/cni/), for each CNI
// version that they name. What of tests/cni/ only a call to the plugin can do (CHECK, DEL without a
// namespace) is in test/node.
func TestOvsCNI(t *testing.T) {
	before := restarts(t)
	n := c.Nodes[0]
	installMirrors(t, n)
	t.Run("marker", marker)
	t.Run("version", func(t *testing.T) {
		for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
			t.Run(version, func(t *testing.T) {
				t.Parallel() // they mostly wait for pods
				b := newBench(t, n, version)
				t.Run("connectivity", b.connectivity)
				t.Run("ports", b.ports)
				t.Run("mirrors", b.mirrors)
			})
		}
	})
	t.Run("refused", newBench(t, n, "1.0.0").refused)
	clean(t)
	if after := restarts(t); !maps.Equal(before, after) {
		t.Errorf("the daemons' containers have restarted: %v, then %v", before, after)
	}
}

// marker is marker_test.go: a bridge is reported while it is there.
func marker(t *testing.T) {
	n := c.Nodes[0]
	reported := func(want string) func() error {
		return func() error {
			node, err := c.Client.CoreV1().Nodes().Get(context.Background(), n.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			have := "nothing"
			if q, is := node.Status.Capacity[bridgePrefix+"br-test"]; is {
				have = q.String()
			}
			if have != want {
				return fmt.Errorf("the capacity is %s", have)
			}
			return nil
		}
	}
	vsctl(t, n, "add-br", "br-test", "--", "set", "bridge", "br-test", "datapath_type=netdev")
	t.Cleanup(func() { vsctl(t, n, "--if-exists", "del-br", "br-test") })
	eventually(t, "the bridge is reported", reported("1k"))
	vsctl(t, n, "--if-exists", "del-br", "br-test")
	eventually(t, "it is reported no more", reported("nothing"))
}

// A bench is a bridge of one node for the cases of one CNI version.
type bench struct {
	n       *cluster.Node
	version string
	bridge  string
}

func newBench(t *testing.T, n *cluster.Node, version string) bench {
	t.Helper()
	b := bench{n: n, version: version, bridge: "br-" + strings.ReplaceAll(version, ".", "")}
	vsctl(t, n, "add-br", b.bridge, "--", "set", "bridge", b.bridge, "datapath_type=netdev")
	t.Cleanup(func() { vsctl(t, n, "del-br", b.bridge) })
	return b
}

// network is one with the annotation that its bridge is a resource.
func (b bench) network(name, config string) string {
	return strings.Replace(nad(name, config), "{name: "+name+"}", "{name: "+name+", annotations: {k8s.v1.cni.cncf.io/resourceName: "+bridgePrefix+b.bridge+"}}", 1)
}

// pod makes a pod as ovs-cni's suite does: privileged, on whatever node has the bridge, and it gives
// itself the address of net1.
func (b bench) pod(t *testing.T, ns, name, network, cidr, then string) {
	t.Helper()
	p, yes := requesting(name, "", network, b.bridge), true
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	p.Spec.Containers[0].Command = []string{"sh", "-c", "ip address add " + cidr + " dev net1; " + then + " sleep 1000000"}
	if _, err := c.Client.CoreV1().Pods(ns).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// connectivity is ovs_test.go: two pods reach each other, with a VLAN and without. The others' have the
// same addresses.
func (b bench) connectivity(t *testing.T) {
	ns := namespace(t)
	for name, vlan := range map[string]string{"ovs-net": `, "vlan": 100`, "ovs-flat": ""} {
		apply(t, ns, b.network(name, `{"cniVersion": "`+b.version+`", "type": "ovs", "bridge": "`+b.bridge+`"`+vlan+`}`))
		b.pod(t, ns, name+"-1", name, "10.0.0.1/24", "")
		b.pod(t, ns, name+"-2", name, "10.0.0.2/24", "")
	}
	for _, name := range []string{"ovs-net", "ovs-flat"} {
		addressed(t, ns, name+"-1", "10.0.0.1/24")
		addressed(t, ns, name+"-2", "10.0.0.2/24")
		loseNothing(t, ns, name+"-1", "10.0.0.2")
	}
	b.end(t, ns, "ovs-net-1", "ovs-net-2", "ovs-flat-1", "ovs-flat-2")
}

// A port is what a configuration is to make of a pod's interface.
type port struct {
	name, keys, selection string
	tag, trunks           string
	mtu                   string
	ips                   []string // prefixes
	mac, ovnPort, ofport  string
}

// ports is plugin_test.go as far as a runtime gets: each configuration makes another interface of a pod.
func (b bench) ports(t *testing.T) {
	ns := namespace(t)
	cases := []port{
		{name: "with-vlan", keys: `, "vlan": 100`, tag: "100"},
		{name: "without-vlan"},
		{name: "trunk", keys: `, "trunk": [{"minID": 10, "maxID": 12}, {"id": 15}, {"minID": 17, "maxID": 18}]`, trunks: "[10, 11, 12, 15, 17, 18]"},
		{name: "unsorted", keys: `, "trunk": [{"minID": 17, "maxID": 18}, {"id": 15}, {"minID": 10, "maxID": 12}]`, trunks: "[10, 11, 12, 15, 17, 18]"},
		{name: "ipam", keys: `, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}]], "dataDir": "/tmp/ovs-cni/conf"}`, ips: []string{"10.1.2."}},
		{name: "dual-stack", keys: `, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.3.0/24", "gateway": "10.1.3.1"}],
 [{"subnet": "3ffe:ffff:0:1ff::/64", "rangeStart": "3ffe:ffff:0:1ff::10", "rangeEnd": "3ffe:ffff:0:1ff::20"}]], "dataDir": "/tmp/ovs-cni/conf"}`, ips: []string{"10.1.3.", "3ffe:ffff:0:1ff:"}},
		{name: "mtu", keys: `, "mtu": 1456`, mtu: "1456"},
		{name: "mac", keys: `, "vlan": 100`, selection: `, "mac": "0a:00:00:00:00:80"`, tag: "100", mac: "0a:00:00:00:00:80"},
		{name: "ovn-port", selection: `, "cni-args": {"OvnPort": "port-` + b.bridge + `"}`, ovnPort: "port-" + b.bridge},
		{name: "ofport", keys: `, "ofport_request": 5123`, ofport: "5123"},
		{name: "system", keys: `, "interface_type": "system"`},
	}
	var networks, manifests []string
	for _, k := range cases {
		manifests = append(manifests, b.network(k.name, `{"cniVersion": "`+b.version+`", "name": "mynet-`+k.name+`", "type": "ovs", "bridge": "`+b.bridge+`"`+k.keys+`}`))
		networks = append(networks, `{"name": "`+k.name+`"`+k.selection+`}`)
	}
	apply(t, ns, strings.Join(manifests, "---\n"))
	run(t, ns, "a", b.n.Name, "["+strings.Join(networks, ",")+"]")
	s := status(t, ns, "a")
	if len(s) != len(cases)+1 {
		t.Fatalf("network-status: %+v", s)
	}
	netns := netnsOf(t, b.n, ns, "a")
	macs := map[string]bool{}
	var links []string
	for i, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			links = append(links, portOf(t, b.n, ns, "a", s[i+1].Interface))
			b.compare(t, k, s[i+1], links[i], netns)
			if macs[s[i+1].MAC] {
				t.Errorf("%s is another interface's address, too", s[i+1].MAC)
			}
			macs[s[i+1].MAC] = true
		})
	}
	// An interface that the workload has deleted itself does not keep the pod from ending.
	inNetns(t, b.n, netns, "ip", "link", "del", "net1")
	b.end(t, ns, "a")
	if left := vsctl(t, b.n, "list-ports", b.bridge); left != "" {
		t.Errorf("ports are left: %s", left)
	}
	for _, link := range links {
		if out, err := b.n.Run("ip", "link", "show", "dev", link); err == nil {
			t.Errorf("a link is left: %s", out)
		}
	}
}

// compare looks at one interface: on the bridge, on the node, in the pod and in network-status.
func (b bench) compare(t *testing.T, k port, s meta.NetworkStatus, name, netns string) {
	t.Helper()
	if on := vsctl(t, b.n, "port-to-br", name); on != b.bridge {
		t.Errorf("the port is on %s", on)
	}
	columns := vsctl(t, b.n, "get", "port", name, "tag", "trunks", "external_ids:contIface", "external_ids:contNetns")
	want := fmt.Sprintf("%s\n%s\n%s\n%q", cmp.Or(k.tag, "[]"), cmp.Or(k.trunks, "[]"), s.Interface, netns)
	if columns != want {
		t.Errorf("the port has\n%s\nwant\n%s", columns, want)
	}
	for column, want := range map[string]string{"external_ids:iface-id": k.ovnPort, "ofport": k.ofport} {
		if have := vsctl(t, b.n, "get", "interface", name, column); want != "" && strings.Trim(have, `"`) != want {
			t.Errorf("%s of the interface is %s, want %s", column, have, want)
		}
	}
	outside, err := b.n.Run("ip", "link", "show", "dev", name)
	if err != nil {
		t.Error(err)
	}
	inside := inNetns(t, b.n, netns, "ip", "addr", "show", "dev", s.Interface)
	for where, link := range map[string]string{"on the node": outside, "in the pod": inside} {
		if !strings.Contains(link, " mtu "+cmp.Or(k.mtu, "1500")+" ") || !strings.Contains(link, " state UP ") {
			t.Errorf("%s it is not up, or its mtu not %q: %s", where, k.mtu, link)
		}
	}
	if mac := following(inside, "link/ether"); !slices.Equal(mac, []string{s.MAC}) || k.mac != "" && s.MAC != k.mac {
		t.Errorf("its address is %v, want %q; network-status: %+v", mac, k.mac, s)
	}
	if len(s.IPs) != len(k.ips) || len(following(inside, "inet")) != min(1, len(k.ips)) {
		t.Fatalf("network-status: %+v, want %v, in the pod:\n%s", s, k.ips, inside)
	}
	for j, prefix := range k.ips {
		if !strings.HasPrefix(s.IPs[j], prefix) || !strings.Contains(inside, " "+s.IPs[j]+"/") {
			t.Errorf("network-status: %+v, want %v, in the pod:\n%s", s, k.ips, inside)
		}
	}
}

// refused are the invalid configurations of plugin_test.go: they leave nothing.
func (b bench) refused(t *testing.T) {
	ns := namespace(t)
	for name, k := range map[string]struct{ keys, want string }{
		"invalid-vlan": {`"vlan": 9999`, "9999"},
		"invalid-ipam": {`"ipam": {"type": "host-local", "ranges": [[{"subnet": "invalid", "gateway": "10.1.2.1"}]], "dataDir": "/tmp/ovs-cni/conf"}`, "invalid CIDR"},
	} {
		apply(t, ns, b.network(name, `{"cniVersion": "`+b.version+`", "type": "ovs", "bridge": "`+b.bridge+`", `+k.keys+`}`))
		create(t, ns, name, b.n.Name, name)
		event(t, ns, name, "FailedAttach", ns+"/"+name, k.want)
		remove(t, ns, name)
	}
	if left := vsctl(t, b.n, "list-ports", b.bridge); left != "" {
		t.Errorf("ports are left: %s", left)
	}
}

// end removes pods and waits until their interfaces are gone: kubelet unmakes them when it has seen that
// the pods are.
func (b bench) end(t *testing.T, ns string, pods ...string) {
	t.Helper()
	for _, pod := range pods {
		remove(t, ns, pod)
	}
	d := daemon(t, b.n)
	for _, pod := range pods {
		eventually(t, "the interfaces of "+pod+" are gone", func() error {
			l, err := d.List(context.Background(), client.Filter{Namespace: ns, Pod: pod})
			if err == nil && len(l) > 0 {
				err = fmt.Errorf("%d are left", len(l))
			}
			return err
		})
	}
}
