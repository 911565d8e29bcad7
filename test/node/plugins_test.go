package node

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestOtherPluginsGetOurAddresses(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", `[{"name": "bridge", "ips": ["10.17.0.9"]}, {"name": "macvlan"}, {"name": "hostlocal"}, {"name": "chained"}]`)
	n.Check(t, a) // before b: a kernel bridge takes the lowest address of its ports, and bridge's CHECK minds
	b := n.Run(t, "b", "bridge,macvlan,hostlocal,chained")
	for nic, addr := range map[string]string{"net1": "10.17.0.9/24", "net2": "10.18.0.2/24", "net3": "10.19.0.", "net4": "10.12.0.2/24"} {
		if out := testnode.Exec(t, a, "ip", "-br", "addr", "show", nic); !strings.Contains(out, addr) {
			t.Errorf("%s: %s, want %s", nic, out, addr)
		}
	}
	testnode.Exec(t, b, "ping", "-c1", "-W10", "10.17.0.9")
	testnode.Exec(t, b, "ping", "-c1", "-W10", "10.18.0.2")
	if out := testnode.Exec(t, a, "ip", "link", "show", "net4"); !strings.Contains(out, "mtu 1300") {
		t.Errorf("tuning behind our delegate: %s", out)
	}
	for _, p := range []string{"a", "b"} {
		if err := n.Remove(p); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
	if left, _ := filepath.Glob("/run/host-local/hostlocal/10.*"); len(left) > 0 {
		t.Errorf("host-local's addresses are left: %v", left)
	}
}

func TestTheIPAMAndTheOVSDelegateWorkUnderAnyRuntime(t *testing.T) {
	n := testnode.Standard(t)
	t.Setenv("PATCHBAY_CNI_SOCKET", n.CNI)
	c := libcni.NewCNIConfigWithCacheDir([]string{testnode.Bin(), testnode.PluginDirs}, n.Dir+"/cache", nil)
	ctx := context.Background()
	for name, conf := range map[string]string{
		"ipam under bridge": `{"cniVersion": "1.0.0", "name": "foreign", "plugins": [{"type": "bridge", "bridge": "fbr0", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}`,
		"the OVS delegate":  `{"cniVersion": "1.0.0", "name": "direct", "plugins": [{"type": "patchbay-ovs", "bridge": "br-data", "ipam": {"type": "patchbay-ipam", "network": "10.31.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			list, err := libcni.NetworkConfFromBytes([]byte(conf))
			if err != nil {
				t.Fatal(err)
			}
			id := strings.ReplaceAll(name, " ", "-")
			rt := &libcni.RuntimeConf{ContainerID: id, NetNS: testnode.Netns(t, id), IfName: "net7"}
			res, err := c.AddNetworkList(ctx, list, rt)
			if err != nil {
				t.Fatal(err)
			}
			r, err := types100.GetResult(res)
			if err != nil || len(r.IPs) != 1 || !strings.HasSuffix(r.IPs[0].Address.String(), ".0.2/24") {
				t.Errorf("%+v, %v", r, err)
			}
			if err := c.CheckNetworkList(ctx, list, rt); err != nil {
				t.Error(err)
			}
			n.Daemon.Kill() // a restart must not take a foreign runtime's address for a leak
			n.Start(t)
			if err := c.CheckNetworkList(ctx, list, rt); err != nil {
				t.Errorf("after a restart: %v", err)
			}
			for range 2 {
				if err := c.DelNetworkList(ctx, list, rt); err != nil {
					t.Error(err)
				}
			}
		})
	}
	n.AssertEmpty(t)
}

func theDefaultRouteIsGivenBack(t *testing.T) {
	n := testnode.Standard(t, `meta.clusterNetwork=kube-system/cluster`)
	n.Write(t, "cluster.yaml", `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: cluster, namespace: kube-system}
spec:
  config: '{"cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cbr0", "isGateway": true, "isDefaultGateway": true,
    "ipam": {"type": "patchbay-ipam", "network": "10.40.0.0/16", "subnetLen": 24, "cooldown": "0s"}}'
`)
	a := n.Run(t, "a", `[{"name": "data", "default-route": ["10.12.0.1"]}]`)
	routes := func() string { return testnode.Exec(t, a, "ip", "route", "show", "default") }
	if r := routes(); strings.Contains(r, "eth0") || !strings.Contains(r, "via 10.12.0.1 dev net1") {
		t.Errorf("default route: %s", r)
	}
	n.Check(t, a)
	if err := n.Client.Detach(context.Background(), "default", "a", "net1"); err != nil {
		t.Fatal(err)
	}
	if r := routes(); !strings.Contains(r, "via 10.40.0.1 dev eth0") {
		t.Errorf("not given back: %s", r)
	}
	gw := []string{"10.12.0.1"}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "data", DefaultRoute: addrs(t, gw)}); err != nil {
		t.Fatal(err)
	}
	if r := routes(); !strings.Contains(r, "via 10.12.0.1") || strings.Contains(r, "eth0") {
		t.Errorf("hot: %s", r)
	}
}

func TestCNIResultDescribesTheClusterNetworkInEveryVersion(t *testing.T) {
	n := testnode.Standard(t)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		id := "v" + strings.ReplaceAll(version, ".", "")
		ns := testnode.Netns(t, id)
		n.Write(t, id+".yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: "+id+", annotations: {k8s.v1.cni.cncf.io/networks: data}}\n")
		env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + testnode.Bin(), "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + id}
		out, code := shim(t, env, `{"cniVersion":"`+version+`","name":"patchbay","type":"patchbay","socket":"`+n.CNI+`"}`)
		var r struct {
			CNIVersion string `json:"cniVersion"`
			Interfaces []struct{ Name, Sandbox string }
			IPs        []struct{ Address string }
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.CNIVersion != version || len(r.IPs) != 1 || len(r.Interfaces) != 2 || r.Interfaces[1].Sandbox != ns {
			t.Errorf("%s: exit %d, %s (%v)", version, code, out, err)
		}
		env[0] = "CNI_COMMAND=DEL"
		if out, code := shim(t, env, `{"cniVersion":"`+version+`","name":"patchbay","type":"patchbay","socket":"`+n.CNI+`"}`); code != 0 {
			t.Error(out)
		}
	}
	n.AssertEmpty(t)
}

func theShimIsACNIPlugin(t *testing.T) {
	n := testnode.Standard(t)
	conf := `{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay","socket":"` + n.CNI + `"}`
	for _, c := range []struct {
		name string
		env  []string
		conf string
		code uint
		want string
	}{
		{"C10 missing variables", []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_NETNS,CNI_IFNAME"},
		{"C10 GC without CNI_PATH", []string{"CNI_COMMAND=GC"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_PATH"},
		{"GC without its list", []string{"CNI_COMMAND=GC", "CNI_PATH=/x"}, conf, types.ErrInvalidNetworkConfig, "cni.dev/valid-attachments"},
		{"C12 container ID", []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=../x", "CNI_IFNAME=eth0"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"unknown command", []string{"CNI_COMMAND=FLY"}, conf, types.ErrInvalidEnvironmentVariables, "FLY"},
		{"interface name", []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=c", "CNI_IFNAME=a/b"}, conf, types.ErrInvalidEnvironmentVariables, "slash"},
		{"no configuration", []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0"}, "", types.ErrDecodingFailure, "missing"},
		{"configuration is no JSON", []string{"CNI_COMMAND=STATUS"}, "{", types.ErrDecodingFailure, "configuration"},
		{"version", []string{"CNI_COMMAND=STATUS"}, strings.Replace(conf, "1.1.0", "9.9.9", 1), types.ErrIncompatibleCNIVersion, "9.9.9"},
		{"CHECK of the unknown", []string{"CNI_COMMAND=CHECK", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/c"}, conf, types.ErrUnknownContainer, "not known"},
	} {
		out, code := shim(t, c.env, c.conf)
		var e struct {
			CNIVersion string `json:"cniVersion"`
			types.Error
		}
		if err := json.Unmarshal([]byte(out), &e); err != nil || code == 0 || e.Code != c.code || !strings.Contains(e.Error.Error(), c.want) {
			t.Errorf("%s: exit %d, %s, want code %d and %q", c.name, code, out, c.code, c.want)
		}
	}
	for _, env := range [][]string{{"CNI_COMMAND=STATUS"}, {"CNI_COMMAND=DEL", "CNI_CONTAINERID=never-seen", "CNI_IFNAME=eth0"}} {
		if out, code := shim(t, env, conf); code != 0 || out != "" {
			t.Errorf("%v: exit %d, %s", env, code, out)
		}
	}
	for _, socket := range []string{n.CNI, "/run/nobody.sock"} { // C25: also with the daemon away
		if out, code := shim(t, []string{"CNI_COMMAND=VERSION"}, `{"cniVersion":"0.4.0","socket":"`+socket+`"}`); code != 0 || !strings.Contains(out, `"cniVersion":"0.4.0"`) || !strings.Contains(out, `"0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"`) {
			t.Errorf("VERSION: exit %d, %s", code, out)
		}
	}
	if out, code := shim(t, []string{"CNI_COMMAND=STATUS"}, `{"cniVersion":"1.1.0","socket":"/run/nobody.sock"}`); code == 0 || !strings.Contains(out, `"code":50`) {
		t.Errorf("STATUS without a daemon: exit %d, %s", code, out)
	}
	n.OVS.StopServer()
	testnode.Eventually(t, "STATUS says 51", func() bool {
		out, code := shim(t, []string{"CNI_COMMAND=STATUS"}, conf)
		return code != 0 && strings.Contains(out, `"code":51`)
	})
}

func gcKeepsHotAttachedInterfaces(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	conf := `{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay","socket":"` + n.CNI + `","cni.dev/valid-attachments":[{"containerID":"` + a.ContainerID + `","ifname":"eth0"}]}`
	if out, code := shim(t, []string{"CNI_COMMAND=GC", "CNI_PATH=" + testnode.Bin()}, conf); code != 0 {
		t.Fatal(out)
	}
	l, err := n.Client.List(context.Background(), client.Filter{})
	if err != nil || len(l) != 2 || l[0].Pod != "a" || l[1].Pod != "a" {
		t.Errorf("%+v, %v", l, err)
	}
	n.AssertClean(t)
}

// A netconf of Multus with our type: its delegates are the cluster network and the default networks.
func TestANetconfOfMultusIsUnderstood(t *testing.T) {
	n := testnode.Standard(t)
	ns := testnode.Netns(t, "multus")
	n.Write(t, "multus.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: multus, annotations: {k8s.v1.cni.cncf.io/networks: data}}\n")
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=multus", "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + testnode.PluginDirs, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=multus"}
	conf := `{"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "patchbay", "socket": "` + n.CNI + `", "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig", "delegates": [
 {"cniVersion": "0.3.1", "name": "default-cni-network", "plugins": [{"type": "bridge", "bridge": "mbr0", "ipam": {"type": "host-local", "dataDir": "/run/multus", "ranges": [[{"subnet": "10.70.0.0/24"}]]}}]},
 {"cniVersion": "1.1.0", "name": "second", "type": "ovs", "bridge": "br-control"}]}`
	out, code := shim(t, env, conf)
	if code != 0 || !strings.Contains(out, `"address":"10.70.0.2/24"`) {
		t.Fatalf("exit %d, %s", code, out)
	}
	l, err := n.Client.List(context.Background(), client.Filter{Pod: "multus"})
	if err != nil || len(l) != 3 || l[0].Interface != "eth0" || l[1].Bridge != "br-control" || l[2].Network != "default/data" {
		t.Errorf("%+v, %v", l, err)
	}
	if out, code := shim(t, append([]string{"CNI_COMMAND=DEL"}, env[1:]...), conf); code != 0 {
		t.Error(out)
	}
	n.AssertEmpty(t)
}

// Two networks share a pool; the GC of one, which lists its own attachments alone, frees nothing of the
// other's.
func TestGCOfOneNetworkSparesAnothersAddresses(t *testing.T) {
	n := testnode.Standard(t)
	n.Run(t, "a", "macvlan")
	conf := `{"cniVersion": "1.1.0", "name": "other", "type": "macvlan", "socket": "` + n.CNI + `", "cni.dev/valid-attachments": [],
 "ipam": {"type": "patchbay-ipam", "network": "10.18.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`
	if out, code := called(t, "patchbay-ipam", []string{"CNI_COMMAND=GC", "CNI_PATH=/x"}, conf); code != 0 {
		t.Fatal(out)
	}
	pools, err := n.Client.Pools(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		if p.Name == "10.18.0.0-16" && len(p.Claims) != 1 {
			t.Errorf("the running pod's address is free: %+v", p.Claims)
		}
	}
}

// As CRI-O does: libcni deletes what it has cached and is not on the list, and then calls GC with the
// list. What was attached over REST is not on it.
func gcThroughLibcni(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	b := n.Run(t, "b", "data")
	ctx := context.Background()
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	if err := n.Runtime.GC(ctx, a); err != nil {
		t.Fatal(err)
	}
	l, err := n.Client.List(ctx, client.Filter{})
	if err != nil || len(l) != 2 || l[0].Pod != "a" || l[1].Pod != "a" {
		t.Errorf("%+v, %v", l, err)
	}
	if err := n.Runtime.Del(ctx, b); err != nil { // GC is no substitute for DEL, which finds nothing
		t.Error(err)
	}
	n.AssertClean(t)
}

func TestExamples(t *testing.T) {
	files := map[string]string{}
	for _, pattern := range []string{"networks/*.yaml", "pods/*.yaml"} {
		paths, err := filepath.Glob("../../examples/" + pattern)
		if err != nil || len(paths) == 0 {
			t.Fatal(pattern, err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(p)] = string(b)
		}
	}
	testnode.Lan(t)
	n := testnode.New(t, testnode.Config{Manifests: files})
	ctl := func(args ...string) string {
		t.Helper()
		args = append(args, "--server", "unix://"+n.API)
		if args[0] == "sandbox" {
			args = append(args, "--state-dir", n.Dir+"/sandboxes", "--cni-socket", n.CNI, "--del-queue", n.Dir+"/state/del-queue")
		}
		return testnode.Sh(t, filepath.Join(testnode.Bin(), "patchctl"), args...)
	}
	if _, err := config.Load("../../examples/patchbayd.yaml", true, nil); err != nil {
		t.Error(err)
	}
	pods, _ := filepath.Glob("../../examples/pods/*.yaml")
	for _, p := range pods {
		ctl("sandbox", "run", "-f", p)
	}
	networks, _ := filepath.Glob("../../examples/networks/*.yaml")
	wide := ctl("get", "attachments", "-o", "wide")
	for _, p := range networks {
		if name := strings.TrimSuffix(filepath.Base(p), ".yaml"); !strings.Contains(wide, "default/"+name) {
			t.Errorf("no pod uses %s:\n%s", name, wide)
		}
	}
	scripts, _ := filepath.Glob("../../examples/rest/*.sh")
	if len(scripts) < 4 {
		t.Fatal(scripts)
	}
	for _, s := range scripts {
		cmd := exec.Command(s)
		cmd.Env = append(os.Environ(), "PATCHBAY_API="+n.API)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s, err, out)
		}
	}
	for _, args := range [][]string{{"get", "attachments", "-o", "json"}, {"get", "sandboxes"}, {"get", "nodes", "-o", "yaml"}, {"get", "pools"}, {"get", "networks"}, {"describe", "pod/db"},
		{"ipam", "show"}, {"ipam", "check"}, {"doctor"}, {"completion", "bash"}, {"attach", "pod/web", "--network", "blue", "--interface", "b0", "--dry-run"}} {
		if out := ctl(args...); out == "" {
			t.Errorf("%v prints nothing", args)
		}
	}
	for _, p := range pods {
		ctl("sandbox", "rm", strings.TrimSuffix(filepath.Base(p), ".yaml"))
	}
	n.AssertEmpty(t)
}

func TestExitCodesOfPatchctl(t *testing.T) {
	n := testnode.Standard(t)
	for want, calls := range map[int][][]string{
		0: {{"get", "attachments"}, {"doctor", "-o", "json"}, {"get", "--help"}},
		1: {{"attach", "pod/none", "--network", "data"}, {"detach", "pod/none", "--interface", "x"}, {"describe", "pod/none"}, {"sandbox", "rm", "none"}},
		2: {{"attach", "pod/a"}, {"get", "things"}, {"attach", "svc/a", "--network", "x"}, {"get", "pools", "-o", "xml"}, {"get", "pools", "--colour"}, {"detach", "pod/a"}},
	} {
		for _, args := range calls {
			cmd := exec.Command(filepath.Join(testnode.Bin(), "patchctl"), append(args, "--server", "unix://"+n.API)...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("%v: exit code %d, want %d\n%s", args, code, want, out)
			}
		}
	}
}

// shim runs the meta-plugin with exactly this environment.
func shim(t *testing.T, env []string, conf string) (string, int) {
	t.Helper()
	return called(t, "patchbay", env, conf)
}

// called runs the shim under one of its names.
func called(t *testing.T, plugin string, env []string, conf string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(testnode.Bin(), plugin))
	cmd.Env, cmd.Stdin = env, strings.NewReader(conf)
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func addrs(t *testing.T, texts []string) *[]netip.Addr {
	t.Helper()
	var l []netip.Addr
	for _, s := range texts {
		l = append(l, netip.MustParseAddr(s))
	}
	return &l
}

// The chain runs for every pod, on the interfaces of others, and has none of its own: nothing takes that
// for damage.
func TestAuxiliaryCNIChainNameWorksAsInMultus(t *testing.T) {
	dir := testnode.ShortDir(t)
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
	write("10-net.conflist", `{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "bridge": "abr0",
 "ipam": {"type": "host-local", "dataDir": "/run/aux", "ranges": [[{"subnet": "10.71.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0", "gw": "10.71.0.1"}]}}]}`)
	write("vendor-cni-chain/sysctltwiddle.conf", `{"cniVersion": "0.3.1", "name": "sysctltwiddle", "type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}`)
	write("multus.json", `{"multusConfigFile": "auto", "auxiliaryCNIChainName": "vendor-cni-chain"}`)
	n := testnode.Standard(t, "meta.clusterNetwork="+dir+"/10-net.conflist", "meta.multus="+dir+"/multus.json")
	s := n.Run(t, "a", `[{"name": "data", "default-route": ["10.12.0.1"]}]`)
	if out := testnode.Exec(t, s, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"); strings.TrimSpace(out) != "1" {
		t.Errorf("arp_filter is %q", out)
	}
	l, err := n.Client.Sandboxes(context.Background())
	if err != nil || len(l) != 1 || len(l[0].Attachments) != 3 || l[0].Attachments[2].Source != "chain" {
		t.Fatalf("%+v, %v", l, err)
	}
	if !strings.Contains(string(l[0].NetworkStatus), `"name":"vendor-cni-chain"`) && !strings.Contains(string(l[0].NetworkStatus), `"name": "vendor-cni-chain"`) {
		t.Errorf("network-status: %s", l[0].NetworkStatus)
	}
	n.Check(t, s)
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err != nil {
		t.Error(err)
	}
	n.Daemon.Stop()
	n.Start(t) // which mends what it finds damaged
	n.Check(t, s)
	if log := n.LogTail(); strings.Contains(log, "interface is damaged") {
		t.Error(log)
	}
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.AssertEmpty(t)
}
