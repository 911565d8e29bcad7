package meta

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// nads is a catalog of networks, by namespace/name.
type nads map[string]string

func (n nads) Pod(context.Context, string, string, string) (*Pod, error) { return nil, ErrNotFound }

func (n nads) Network(_ context.Context, ns, name string) (*Network, error) {
	c, ok := n[ns+"/"+name]
	if !ok {
		return nil, ErrNotFound
	}
	return &Network{Namespace: ns, Name: name, Config: c}, nil
}

const bare = `{"cniVersion": "1.0.0", "name": "bare", "type": "bare"}`

func capable(caps string) string {
	return `{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "main"}, {"type": "second", "capabilities": {` + caps + `}}]}`
}

func plan(t *testing.T, src nads, cfg Config, annotation string, runtime map[string]json.RawMessage) ([]Wanted, error) {
	t.Helper()
	if cfg.GlobalNamespaces == nil {
		cfg.GlobalNamespaces = []string{"default"}
	}
	cfg.SystemNamespaces = []string{"kube-system"}
	return NewPlanner(src, cfg).Plan(context.Background(), Pod{Namespace: "default", Name: "p", Annotations: map[string]string{NetworksAnnotation: annotation}}, "eth0", runtime)
}

func arguments(w Wanted) string {
	b, err := json.Marshal(w.Requests)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func interfaces(ws []Wanted) string {
	var l []string
	for _, w := range ws {
		l = append(l, w.Network+"@"+w.Interface)
	}
	return strings.Join(l, " ")
}

// Addresses and the hardware address are handed over as CNI_ARGS, too: what comes of it, the engine sees.
func addressesNeedNoDeclaration(t *testing.T) {
	ws, err := plan(t, nads{"default/n": capable("")}, Config{}, `[{"name": "n", "ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01"}]`, nil)
	if err != nil || arguments(ws[0]) != `{"ips":["10.0.0.1"],"mac":"02:00:00:00:00:01"}` {
		t.Errorf("%+v, %v", ws, err)
	}
}

func undeclaredRequestsFail(t *testing.T) {
	for name, element := range map[string]string{
		"N22 portMappings": `"portMappings": [{"hostPort": 1, "containerPort": 2}]`,
		"N24 bandwidth":    `"bandwidth": {"ingressRate": 5}`, "N28 infinibandGUID": `"infiniband-guid": "02:00:00:00:00:00:00:01"`,
	} {
		t.Run(name, func(t *testing.T) {
			annotation := `[{"name": "n", ` + element + `}]`
			capability := strings.Fields(name)[1]
			_, err := plan(t, nads{"default/n": capable("")}, Config{}, annotation, nil)
			if err == nil || !strings.Contains(err.Error(), "network default/n can't honour") || !strings.Contains(err.Error(), capability) {
				t.Errorf("a request nobody honours: %v", err)
			}
			ws, err := plan(t, nads{"default/n": capable(`"` + capability + `": true`)}, Config{}, annotation, nil)
			if err != nil || ws[0].Requests.Arguments()[capability] == nil { // N14, N22, N24
				t.Errorf("with the capability: %+v, %v", ws, err)
			}
			ws, err = plan(t, nads{"default/n": bare}, Config{Implied: map[string][]string{"bare": {capability}}}, annotation, nil)
			if err != nil || ws[0].Requests.Arguments()[capability] == nil {
				t.Errorf("with a native plugin: %+v, %v", ws, err)
			}
		})
	}
}

func aNetworkTwice(t *testing.T) {
	ws, err := plan(t, nads{"default/n": bare}, Config{}, "n,n", nil)
	if err != nil || interfaces(ws) != "default/n@net1 default/n@net2" {
		t.Errorf("%s, %v", interfaces(ws), err)
	}
}

func generatedNames(t *testing.T) {
	for range 3 {
		ws, err := plan(t, nads{"default/n": bare, "kube-system/d": bare}, Config{DefaultNetworks: []string{"d"}}, "n@net2,n,n@x0,n", nil)
		if want := "kube-system/d@net1 default/n@net2 default/n@net3 default/n@x0 default/n@net5"; err != nil || interfaces(ws) != want {
			t.Errorf("%s, %v", interfaces(ws), err)
		}
	}
}

func theClusterNetworkComesFirst(t *testing.T) {
	src := nads{"kube-system/c": bare, "kube-system/d": bare, "default/n": bare}
	ws, err := plan(t, src, Config{ClusterNetwork: "c", DefaultNetworks: []string{"d"}}, "n", nil)
	if err != nil || interfaces(ws) != "kube-system/c@eth0 kube-system/d@net1 default/n@net2" {
		t.Errorf("%s, %v", interfaces(ws), err)
	}
	if _, err := plan(t, src, Config{ClusterNetwork: "c"}, "n@eth0", nil); err == nil || !strings.Contains(err.Error(), `"eth0" is taken`) { // N19
		t.Error(err)
	}
}

func theRuntimesArguments(t *testing.T) {
	src := nads{"kube-system/c": capable(`"portMappings": true, "x.example/any": true`), "default/n": capable(`"portMappings": true`)}
	ws, err := plan(t, src, Config{ClusterNetwork: "c"}, "n", map[string]json.RawMessage{
		"portMappings": json.RawMessage(`[{"hostPort":8080}]`), "x.example/any": json.RawMessage(`{"a":[1]}`), "undeclared": json.RawMessage(`1`)})
	if err != nil {
		t.Fatal(err)
	}
	if got := arguments(ws[0]); got != `{"portMappings":[{"hostPort":8080}],"x.example/any":{"a":[1]}}` { // C40
		t.Error(got)
	}
	if !ws[1].Requests.IsZero() {
		t.Errorf("hostPorts reach a secondary network: %s", arguments(ws[1]))
	}
}

func forbiddenNetworks(t *testing.T) {
	src := nads{"lab/n": bare, "default/n": bare}
	cfg := Config{NamespaceIsolation: true}
	if _, err := plan(t, src, cfg, "lab/n", nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("by annotation: %v", err)
	}
	p := NewPlanner(src, Config{NamespaceIsolation: true, SystemNamespaces: []string{"kube-system"}, GlobalNamespaces: []string{"default"}})
	if _, err := p.One(context.Background(), "default", Selection{Name: "n", Namespace: "lab"}, nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("by REST: %v", err)
	}
	if _, err := p.Plan(context.Background(), Pod{Namespace: "web", Annotations: map[string]string{DefaultNetworkAnnotation: "lab/n"}}, "eth0", nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("by default-network: %v", err)
	}
	if err := p.Allowed("web", "default"); err != nil {
		t.Errorf("global namespace: %v", err)
	}
	if ws, err := plan(t, src, Config{}, "lab/n", nil); err != nil || len(ws) != 1 {
		t.Errorf("without isolation: %v", err)
	}
}

func cniArgsGoOverTheNetworksOwn(t *testing.T) {
	src := nads{"default/n": `{"cniVersion": "1.0.0", "name": "n", "type": "t", "args": {"cni": {"a": 1, "b": 2}, "other": true}}`}
	ws, err := plan(t, src, Config{}, `[{"name": "n", "cni-args": {"b": 3, "c": [4]}}]`, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(ws[0].Config.Plugins[0].Raw["args"])
	if string(got) != `{"cni":{"a":1,"b":3,"c":[4]},"other":true}` {
		t.Errorf("%s", got)
	}
	src["default/n"] = `{"cniVersion": "1.0.0", "name": "n", "type": "t", "args": "text"}`
	if _, err := plan(t, src, Config{}, `[{"name": "n", "cni-args": {"b": 3}}]`, nil); err == nil || !strings.Contains(err.Error(), "must be an object") {
		t.Error(err)
	}
}

func anEmptyNAD(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("00-n.conf", `{"cniVersion": "1.0.0", "name": "n", "type": "single"}`)
	write("99-n.conflist", `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "listed"}]}`)
	ws, err := plan(t, nads{"default/n": ""}, Config{CNIConfDir: dir}, "n", nil)
	if err != nil || ws[0].Config.Plugins[0].Type != "listed" {
		t.Errorf("lists come first: %+v, %v", ws, err)
	}
	if _, err := plan(t, nads{"default/m": " "}, Config{CNIConfDir: dir}, "m", nil); err == nil || !strings.Contains(err.Error(), `no configuration named "m"`) {
		t.Error(err)
	}
}

func aMissingName(t *testing.T) {
	ws, err := plan(t, nads{"default/n": `{"cniVersion": "1.0.0", "type": "t"}`}, Config{}, "n", nil)
	if err != nil || ws[0].Config.Name != "n" {
		t.Errorf("%+v, %v", ws, err)
	}
}

// A pod that chooses its cluster network sheds the cluster's, and its policies.
func TestWhoMayChooseTheClusterNetwork(t *testing.T) {
	networks := nads{"kube-system/c": bare, "kube-system/d": bare, "web/own": bare, "lab/n": bare, "default/shared": bare}
	for _, c := range []struct {
		name, namespace, network string
		overriding               []string
		open                     bool   // no isolation
		want                     string // "" if it is forbidden
	}{
		{"nobody, unless it is said", "web", "d", nil, false, ""},
		{"nobody, with a network of its own", "web", "web/own", nil, false, ""},
		{"nobody, with another namespace's", "web", "lab/n", nil, false, ""},
		{"nobody, without isolation either", "web", "lab/n", nil, true, ""},
		{"the system's own pods", "kube-system", "d", nil, false, "kube-system/d@eth0"},
		{"another namespace's pods", "web", "d", []string{"lab"}, false, ""},
		{"those that may, a network of the system", "web", "d", []string{"lab", "web"}, false, "kube-system/d@eth0"},
		{"those that may, a network of their own", "web", "web/own", []string{"web"}, false, "web/own@eth0"},
		{"those that may, a global one", "web", "default/shared", []string{"web"}, false, "default/shared@eth0"},
		{"those that may, within isolation", "web", "lab/n", []string{"web"}, false, ""},
		{"all", "web", "d", []string{"*"}, false, "kube-system/d@eth0"},
		{"all, as Multus has it without isolation", "web", "lab/n", []string{"*"}, true, "lab/n@eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPlanner(networks, Config{ClusterNetwork: "c", SystemNamespaces: []string{"kube-system"}, GlobalNamespaces: []string{"default"},
				NamespaceIsolation: !c.open, Overriding: c.overriding})
			ws, err := p.Plan(context.Background(), Pod{Namespace: c.namespace, Annotations: map[string]string{DefaultNetworkAnnotation: c.network}}, "eth0", nil)
			if c.want == "" && !errors.Is(err, ErrForbidden) || c.want != "" && (err != nil || interfaces(ws) != c.want) {
				t.Errorf("%s, %v, want %q", interfaces(ws), err, c.want)
			}
		})
	}
}

func anIPAMClaimThatNobodyHonours(t *testing.T) {
	_, err := plan(t, nads{"default/n": bare}, Config{}, `[{"name": "n", "ipam-claim-reference": "c"}]`, nil)
	if err == nil || !strings.Contains(err.Error(), "ipam-claim-reference") {
		t.Error(err)
	}
	const ours = `{"cniVersion": "1.1.0", "name": "n", "type": "own", "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/16", "subnetLen": 24}}`
	ws, err := plan(t, nads{"default/n": ours}, Config{Implied: map[string][]string{"own": {"ips"}}}, `[{"name": "n", "ipam-claim-reference": "c"}]`, nil)
	if err != nil || ws[0].IPAMClaim != "default/c" {
		t.Errorf("%+v, %v", ws, err)
	}
}

func readinessOfTheClusterNetwork(t *testing.T) {
	file := t.TempDir() + "/ready"
	cfg := Config{ReadinessFile: file}
	var e *types.Error
	if _, err := plan(t, nads{"default/n": bare}, cfg, "n", nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater || !strings.Contains(err.Error(), file) {
		t.Error(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := plan(t, nads{"default/n": bare}, cfg, "n", nil); err != nil {
		t.Error(err)
	}
}

// As Multus does for auxiliaryCNIChainName.
func TestAnAuxiliaryChainIsPlannedForEveryPod(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("10-net.conflist", `{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}`)
	for _, cluster := range []string{dir, filepath.Join(dir, "10-net.conflist")} {
		cfg := Config{ClusterNetwork: cluster, AuxiliaryChain: "vendor"}
		ws, err := plan(t, nads{"default/n": bare}, cfg, "n", nil)
		if err != nil || len(ws) != 2 {
			t.Errorf("without files there is no chain: %+v, %v", ws, err)
		}
		write("vendor/b.conf", `{"name": "b", "type": "two"}`)
		write("vendor/a.conf", `{"name": "a", "type": "one"}`)
		ws, err = plan(t, nads{"default/n": bare}, cfg, "n", nil)
		if err != nil || len(ws) != 3 {
			t.Fatalf("%+v, %v", ws, err)
		}
		if w := ws[2]; w.Source != SourceChain || w.Interface != "net2" || w.Config.Name != "vendor" || strings.Join(w.Config.Types(), ",") != "passthru,one,two" {
			t.Errorf("%+v", w)
		}
		if err := os.RemoveAll(filepath.Join(dir, "vendor")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := plan(t, nads{"default/n": bare}, Config{ClusterNetwork: "default/n", AuxiliaryChain: "vendor"}, "", nil); err == nil || !strings.Contains(err.Error(), "auxiliary chain vendor: the cluster network must be a file or directory") {
		t.Error(err)
	}
}
