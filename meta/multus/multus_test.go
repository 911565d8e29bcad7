package multus

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/meta"
)

// The configurations of Multus' own manifests, v4.3.0.
const (
	thick = `{"chrootDir": "/hostroot", "cniVersion": "0.3.1", "logLevel": "verbose", "logToStderr": true, "cniConfigDir": "/host/etc/cni/net.d",
 "multusAutoconfigDir": "/host/etc/cni/net.d", "multusConfigFile": "auto", "socketDir": "/host/run/multus/"}`
	thin = `{"name": "multus-cni-network", "type": "multus", "capabilities": {"portMappings": true}, "delegates": [
 {"cniVersion": "0.3.1", "name": "default-cni-network", "plugins": [{"type": "flannel", "name": "flannel.1", "delegate": {"isDefaultGateway": true}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}], "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig"}`
)

func TestConfigurationsOfMultusAreTaken(t *testing.T) {
	base := meta.Config{ClusterNetwork: "/etc/cni/net.d", CNIConfDir: "/etc/cni/net.d", NamespaceIsolation: true}
	for _, c := range []struct {
		name, text string
		check      func(meta.Config) bool
	}{
		{"thick daemon", thick, func(m meta.Config) bool {
			return m.ClusterNetwork == "/etc/cni/net.d" && !m.NamespaceIsolation && m.Namespace == "kube-system"
		}},
		{"thin, with delegates", thin, func(m meta.Config) bool {
			return len(m.Inline) == 1 && m.Inline[0].Name == "default-cni-network" && len(m.Inline[0].Plugins) == 2
		}},
		{"cluster network by name", `{"type": "multus", "clusterNetwork": "ovn", "defaultNetworks": ["a", "b"], "multusNamespace": "m", "namespaceIsolation": true,
 "globalNamespaces": "x, y", "systemNamespaces": [], "readinessIndicatorFile": "/run/ready", "confDir": "/etc/cni/multus/net.d"}`, func(m meta.Config) bool {
			return m.ClusterNetwork == "ovn" && len(m.DefaultNetworks) == 2 && m.Namespace == "m" && m.NamespaceIsolation && strings.Join(m.GlobalNamespaces, "") == "xy" &&
				len(m.SystemNamespaces) == 0 && m.ReadinessFile == "/run/ready" && m.CNIConfDir == "/etc/cni/multus/net.d"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parsed, _, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if over, err := parsed.Over(base); err != nil || !c.check(over) {
				t.Errorf("%+v, %v", over, err)
			}
		})
	}
}

func TestWhatIsJudged(t *testing.T) {
	judge := admission.Judge{Planner: meta.NewPlanner(nil, meta.Config{Implied: map[string][]string{"patchbay-ovs": nil, "ovs": {"mac"}}})}
	network := func(config string) []Finding {
		return CheckNetwork(meta.Network{Namespace: "n", Name: "a", Config: config}, judge.Network)
	}
	for _, c := range []struct {
		name  string
		found []Finding
		grade Grade
		text  string
	}{
		{"thick", CheckConfig("c", []byte(thick)), Changes, "chrootDir: has no effect here: meta.delegateRoot"},
		{"no JSON", CheckConfig("c", []byte("{")), Fails, "configuration of Multus"},
		{"delegate that is Multus", CheckConfig("c", []byte(`{"delegates": [{"cniVersion": "1.0.0", "name": "x", "type": "multus"}]}`)), Fails, "meta-plugin"},
		{"unknown key", CheckConfig("c", []byte(`{"allowTryDeleteOnErr": true}`)), Changes, "not a key of Multus"},
		{"a key of ovs-cni", network(`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "vlan": 5, "socket_file": "unix:/x"}`), Changes, "socket_file: it must name the daemon's own connection"},
		{"a key without effect", network(`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "link_state_check_retries": 5}`), Changes, "it has no effect"},
		{"a key that can't be honoured", network(`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "interface_type": "internal"}`), Fails, `interface_type "internal"`},
		{"a flat file", network(`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "configuration_path": "/etc/ovs.conf"}`), Fails, "no file beside the configuration"},
		{"the pod names its OvnPort", network(`{"cniVersion": "0.4.0", "type": "ovs"}`), Works, "made by the daemon itself"},
		{"ovs is native", network(`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1"}`), Works, "made by the daemon itself"},
		{"executed", network(`{"cniVersion": "0.4.0", "type": "macvlan", "ipam": {"type": "whereabouts"}}`), Works, "executes macvlan, whereabouts"},
		{"itself", network(`{"cniVersion": "0.4.0", "type": "multus"}`), Fails, "meta-plugin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range c.found {
				if f.Grade == c.grade && strings.Contains(f.Message, c.text) {
					return
				}
			}
			t.Errorf("%+v, want %s and %q", c.found, c.grade, c.text)
		})
	}
}

func TestRequestsThatAreIgnoredThereFailHere(t *testing.T) {
	for _, c := range []struct{ name, config, element, want string }{
		{"static", `{"cniVersion": "1.0.0", "type": "macvlan", "ipam": {"type": "static"}}`, `"ips": ["10.0.0.1/24"], "mac": "02:00:00:00:00:01"`, ""},
		{"native without IPAM", `{"cniVersion": "1.0.0", "type": "ovs", "bridge": "b"}`, `"ips": ["10.0.0.1/24"], "mac": "02:00:00:00:00:01"`, ""},
		{"whereabouts", `{"cniVersion": "1.0.0", "type": "macvlan", "ipam": {"type": "whereabouts"}}`, `"ips": ["10.0.0.1/24"]`, "fails: its IPAM whereabouts ignores requests"},
		{"no IPAM", `{"cniVersion": "1.0.0", "type": "macvlan"}`, `"ips": ["10.0.0.1/24"]`, `fails: plugin macvlan, which has no "ipam", ignores requests`},
		{"an IPAM that nobody knows", `{"cniVersion": "1.0.0", "type": "macvlan", "ipam": {"type": "mine"}}`, `"ips": ["10.0.0.1/24"]`, "changes: if its IPAM mine ignores that, the pod fails"},
		{"mac of ptp", `{"cniVersion": "1.0.0", "type": "ptp", "ipam": {"type": "host-local"}}`, `"mac": "02:00:00:00:00:01"`, "fails: plugin ptp ignores requests"},
		{"mac of a plugin that nobody knows", `{"cniVersion": "1.0.0", "type": "mine"}`, `"mac": "02:00:00:00:00:01"`, "changes: if plugin mine ignores that"},
	} {
		t.Run(c.name, func(t *testing.T) {
			planner := meta.NewPlanner(one(c.config), meta.Config{Implied: map[string][]string{"ovs": {"ips", "mac"}}})
			p := meta.Pod{Namespace: "default", Name: "p", Annotations: map[string]string{meta.NetworksAnnotation: `[{"name": "n", ` + c.element + `}]`}}
			grade, text, _ := strings.Cut(c.want, ": ")
			found := c.want == ""
			for _, f := range CheckPod(context.Background(), planner, p) {
				if c.want == "" && f.Grade != Works {
					t.Errorf("%+v", f)
				}
				found = found || string(f.Grade) == grade && strings.Contains(f.Message, text)
			}
			if !found {
				t.Errorf("nothing %s", c.want)
			}
		})
	}
}

// one is a catalog of one network.
type one string

func (one) Pod(context.Context, string, string, string) (*meta.Pod, error) {
	return nil, meta.ErrNotFound
}
func (o one) Network(_ context.Context, ns, name string) (*meta.Network, error) {
	return &meta.Network{Namespace: ns, Name: name, Config: string(o)}, nil
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{thick, thin, `{`, `{"delegates": [1]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, _, err := Parse(b); err == nil {
			_, _ = c.Over(meta.Config{}) // may refuse
		}
	})
}
