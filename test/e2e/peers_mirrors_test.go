package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// installMirrors gives a node ovs-cni's plugins for mirrors, its own, under the names that it installs.
func installMirrors(t *testing.T, n *cluster.Node) {
	t.Helper()
	for _, role := range []string{"producer", "consumer"} {
		program, err := os.ReadFile(filepath.Join(c.Bin, "ovs-cni/ovs-cni-mirror-"+role))
		if err != nil {
			t.Fatal(err)
		}
		path := n.Path("/opt/cni/bin/ovs-mirror-" + role)
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
}

// mirrors has those plugins behind our delegate: tests/kubernetes/mirror_test.go, and of
// tests/cni/mirror_*_test.go what a runtime can do.
func (b bench) mirrors(t *testing.T) {
	for name, try := range map[string]func(*testing.T, mirrored){"traffic": traffic, "producers": producers, "consumers": consumers, "both": both, "empty": empty} {
		t.Run(name, func(t *testing.T) {
			try(t, mirrored{bench: b, ns: namespace(t)})
			if left := vsctl(t, b.n, "get", "bridge", b.bridge, "mirrors"); left != "[]" {
				t.Errorf("mirrors are left: %s", left)
			}
		})
	}
}

// mirrored is where the cases run.
type mirrored struct {
	bench
	ns string
}

// named is a mirror's name, apart from those of other benches: ovs-vsctl finds it by that alone.
func (m mirrored) named(mirror string) string { return mirror + "-" + m.bridge }

// A mirror is one by name, with the flags that make a producer of a pod.
type mirror struct{ name, flags string }

// network makes one whose pods have the role in the mirrors.
func (m mirrored) network(t *testing.T, name, role, vlan string, mirrors ...mirror) {
	t.Helper()
	var l []string
	for _, k := range mirrors {
		l = append(l, `{"name": "`+m.named(k.name)+`"`+k.flags+`}`)
	}
	apply(t, m.ns, m.bench.network(name, `{"cniVersion": "`+m.version+`", "plugins": [{"type": "ovs", "bridge": "`+m.bridge+`", "vlan": `+vlan+`},
 {"type": "ovs-mirror-`+role+`", "bridge": "`+m.bridge+`", "mirrors": [`+strings.Join(l, ", ")+`]}]}`))
}

// run makes a pod and returns the UUID of its port.
func (m mirrored) run(t *testing.T, name, networks string) string {
	t.Helper()
	run(t, m.ns, name, m.n.Name, networks)
	return vsctl(t, m.n, "get", "port", portOf(t, m.n, m.ns, name, "net1"), "_uuid")
}

// selects fails unless a column of a mirror has exactly these ports.
func (m mirrored) selects(t *testing.T, mirror, column string, want ...string) {
	t.Helper()
	have := strings.FieldsFunc(vsctl(t, m.n, "get", "mirror", m.named(mirror), column), func(r rune) bool { return strings.ContainsRune("[], ", r) })
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("%s of mirror %s is %v, want %v", column, mirror, have, want)
	}
}

// leave makes a mirror without ports.
func (m mirrored) leave(t *testing.T, mirror string, set ...string) {
	t.Helper()
	args := append([]string{"--", "--id=@m", "create", "mirror", "name=" + m.named(mirror)}, set...)
	vsctl(t, m.n, append(args, "--", "add", "bridge", m.bridge, "mirrors", "@m")...)
}

// owned fails unless a mirror is marked as ovs-cni's.
func (m mirrored) owned(t *testing.T, mirror string) {
	t.Helper()
	if ids := vsctl(t, m.n, "get", "mirror", m.named(mirror), "external_ids"); !strings.Contains(strings.ReplaceAll(ids, `"`, ""), owner) {
		t.Errorf("mirror %s has external_ids %s", mirror, ids)
	}
}

func (m mirrored) exists(t *testing.T, mirror string) bool {
	t.Helper()
	return vsctl(t, m.n, "--bare", "--columns=_uuid", "find", "mirror", "name="+m.named(mirror)) != ""
}

// bothWays has a producer show what it receives and what it sends.
const bothWays = `, "ingress": true, "egress": true`

// owner marks what is ovs-cni's.
const owner = "owner=ovs-cni.network.kubevirt.io"

// traffic is mirror_test.go: the consumer sees what passes between two producers.
func traffic(t *testing.T, m mirrored) {
	m.network(t, "ovs-net-prod", "producer", "100", mirror{"mirror-1", bothWays})
	m.network(t, "ovs-net-cons", "consumer", "0", mirror{name: "mirror-1"})
	m.pod(t, m.ns, "pod-cons", "ovs-net-cons", "10.1.0.1/24", "echo tcpdump:x:0:0::/:/bin/sh > /etc/passwd; tcpdump -n -l -i net1 > /tcpdump.log 2>&1;")
	log := func(wants ...string) {
		t.Helper()
		eventually(t, "the consumer sees it", func() error {
			out, err := tryIn(m.ns, "pod-cons", "cat", "/tcpdump.log")
			for _, want := range wants {
				if err == nil && !strings.Contains(out, want) {
					err = fmt.Errorf("tcpdump lacks %q: %s", want, out)
				}
			}
			return err
		})
	}
	log("listening on")
	m.pod(t, m.ns, "pod-prod-1", "ovs-net-prod", "10.0.0.1/24", "")
	m.pod(t, m.ns, "pod-prod-2", "ovs-net-prod", "10.0.0.2/24", "")
	addressed(t, m.ns, "pod-prod-1", "10.0.0.1/24")
	addressed(t, m.ns, "pod-prod-2", "10.0.0.2/24")
	loseNothing(t, m.ns, "pod-prod-1", "10.0.0.2")
	log("IP 10.0.0.1 > 10.0.0.2: ICMP echo request", "IP 10.0.0.2 > 10.0.0.1: ICMP echo reply")
	m.end(t, m.ns, "pod-prod-1", "pod-prod-2", "pod-cons")
}

// producers: ports of several pods in several mirrors, both ways or one; each is taken out with its
// pod, and the last takes the mirror with it.
func producers(t *testing.T, m mirrored) {
	m.network(t, "prod", "producer", "100", mirror{"mir-prod1", bothWays}, mirror{"mir-prod2", `, "ingress": false, "egress": true`},
		mirror{"mir-prod3", `, "ingress": true, "egress": false`}, mirror{"mir-prod4", `, "ingress": true`})
	selected := func(ports ...string) {
		t.Helper()
		for mirror, k := range map[string]struct{ ingress, egress bool }{"mir-prod1": {true, true}, "mir-prod2": {false, true}, "mir-prod3": {true, false}, "mir-prod4": {true, false}} {
			for column, is := range map[string]bool{"select_src_port": k.ingress, "select_dst_port": k.egress} {
				var want []string
				if is {
					want = slices.Clone(ports)
				}
				m.selects(t, mirror, column, want...)
			}
			m.owned(t, mirror)
		}
	}
	first := m.run(t, "first", "prod")
	selected(first)
	second := m.run(t, "second", "prod")
	selected(first, second)
	m.end(t, m.ns, "first")
	selected(second)
	m.end(t, m.ns, "second")

	m.network(t, "neither", "producer", "100", mirror{"mir-prod1", `, "ingress": false`})
	create(t, m.ns, "neither", m.n.Name, "neither")
	event(t, m.ns, "neither", "FailedAttach", m.ns+"/neither", "to mirror "+m.named("mir-prod1")+": a mirror producer must have either a ingress or an egress or both")
	m.end(t, m.ns, "neither")
}

// consumers: one port may be the output of several mirrors, and a mirror has one output.
func consumers(t *testing.T, m mirrored) {
	m.network(t, "cons", "consumer", "100", mirror{name: "mir-cons1"}, mirror{name: "mir-cons2"})
	m.network(t, "late", "consumer", "100", mirror{name: "mir-cons1"})
	first := m.run(t, "first", "cons")
	create(t, m.ns, "late", m.n.Name, "late")
	event(t, m.ns, "late", "FailedAttach", m.ns+"/late", "to mirror "+m.named("mir-cons1")+" because there is already another port")
	m.end(t, m.ns, "late")
	for _, mirror := range []string{"mir-cons1", "mir-cons2"} {
		m.selects(t, mirror, "output_port", first)
		m.owned(t, mirror)
	}
	m.end(t, m.ns, "first")
}

// both: a mirror stays as long as either side has a port in it, whichever goes first.
func both(t *testing.T, m mirrored) {
	m.network(t, "prod", "producer", "100", mirror{"mirror-both", bothWays})
	m.network(t, "cons", "consumer", "0", mirror{name: "mirror-both"})
	for _, order := range [][]string{{"prod", "cons"}, {"cons", "prod"}} {
		ports := map[string]string{"prod": m.run(t, "prod", "prod"), "cons": m.run(t, "cons", "cons")}
		has := func() {
			t.Helper()
			for column, pod := range map[string]string{"select_src_port": "prod", "select_dst_port": "prod", "output_port": "cons"} {
				var want []string
				if ports[pod] != "" {
					want = []string{ports[pod]}
				}
				m.selects(t, "mirror-both", column, want...)
			}
		}
		has()
		m.end(t, m.ns, order[0])
		delete(ports, order[0])
		has()
		m.end(t, m.ns, order[1])
		if m.exists(t, "mirror-both") {
			t.Errorf("the mirror is left by %s", order[1])
		}
	}
}

// empty: mirrors without ports are removed with any change, if they are ovs-cni's, and others are not.
func empty(t *testing.T, m mirrored) {
	for role, flags := range map[string]string{"producer": bothWays, "consumer": ""} {
		m.network(t, role, role, "100", mirror{"mirror-used", flags})
		left := func(when string) {
			t.Helper()
			if m.exists(t, "owned") || !m.exists(t, "foreign") {
				t.Errorf("%s of a %s: ovs-cni's mirror is there: %v, another's: %v", when, role, m.exists(t, "owned"), m.exists(t, "foreign"))
			}
		}
		m.leave(t, "owned", "external_ids:"+owner)
		m.leave(t, "foreign")
		m.run(t, role, role)
		left("ADD")
		if !m.exists(t, "mirror-used") {
			t.Error("the pod's own mirror is missing")
		}
		m.leave(t, "owned", "external_ids:"+owner)
		m.end(t, m.ns, role)
		left("DEL")
		if m.exists(t, "mirror-used") {
			t.Error("the pod's own mirror is left")
		}
		vsctl(t, m.n, "--", "--id=@m", "get", "mirror", m.named("foreign"), "--", "remove", "bridge", m.bridge, "mirrors", "@m")
	}
}
