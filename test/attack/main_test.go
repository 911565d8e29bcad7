// Package attack holds attempts to break one node: each test is red as long as its fault is there.
package attack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.MainInParts(m, 3) }

// script is a plugin that writes down its calls; files beside its log make it slow or fail.
const script = `#!/bin/sh
conf=$(cat)
echo "$CNI_COMMAND $(basename $0) $CNI_IFNAME args=$CNI_ARGS" >> LOG
[ $CNI_COMMAND = DEL ] && [ -e LOG.slowdel ] && while [ -e LOG.slowdel ]; do sleep 0.05; done
[ $CNI_COMMAND = GC ] && while [ -e LOG.slowgc ]; do sleep 0.05; done
[ $CNI_COMMAND = DEL ] && [ -e LOG.faildel ] && { echo '{"code":11,"msg":"no"}'; exit 1; }
[ $CNI_COMMAND = DEL ] && [ -e LOG.refusedel ] && { echo '{"code":100,"msg":"never"}'; exit 1; }
[ $CNI_COMMAND = ADD ] && [ $(basename $0) = wrong ] && { echo '{"code":123,"msg":"wrong"}'; exit 1; }
[ $CNI_COMMAND = ADD ] && [ $(basename $0) = taker ] && { echo "$conf" | BINDIR/patchbay-ipam >/dev/null; echo '{"code":123,"msg":"broken"}'; exit 1; }
[ $CNI_COMMAND = ADD ] && [ $(basename $0) = mute ] && { echo '{"cniVersion":"1.0.0"}'; exit 0; }
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}'
exit 0
`

// A node has the plugins good, wrong, taker (which takes an address and then fails) and mute (which makes
// nothing), and its etcd in
// a process of its own.
type node struct {
	*testnode.Node
	t    *testing.T
	log  string
	etcd *testnode.Etcd
}

func newNode(t *testing.T, set ...string) *node {
	t.Helper()
	dir := testnode.ShortDir(t)
	n := &node{t: t, log: dir + "/log", etcd: testnode.StartEtcd(t, dir)}
	for _, name := range []string{"good", "wrong", "taker", "mute"} {
		text := strings.NewReplacer("LOG", n.log, "BINDIR", testnode.Bin()).Replace(script)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.Node = testnode.Standard(t, append([]string{"etcd.endpoints=[" + n.etcd.Endpoint + "]",
		"meta.cniBinDirs=[" + dir + "," + testnode.Bin() + "," + testnode.PluginDirs + "]"}, set...)...)
	n.nad("good", `{"cniVersion": "1.0.0", "name": "good", "type": "good"}`)
	n.nad("wrong", `{"cniVersion": "1.0.0", "name": "wrong", "type": "wrong"}`)
	n.nad("mute", `{"cniVersion": "1.0.0", "name": "mute", "type": "mute"}`)
	n.nad("chain", `{"cniVersion": "1.0.0", "name": "chain", "plugins": [{"type": "bridge", "bridge": "kbr0",
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}, {"type": "good"}]}`)
	n.nad("headed", `{"cniVersion": "1.0.0", "name": "headed", "plugins": [{"type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.81.0.0/16", "subnetLen": 24, "cooldown": "0s"}}, {"type": "good"}]}`)
	return n
}

func (n *node) nad(name, config string) {
	n.t.Helper()
	n.Write(n.t, name+".yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: "+name+"}\nspec: {config: '"+config+"'}\n")
}

func (n *node) set(flag string) {
	n.t.Helper()
	if err := os.WriteFile(n.log+"."+flag, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) unset(flag string) { _ = os.Remove(n.log + "." + flag) }

func (n *node) etcdctl(args ...string) string {
	n.t.Helper()
	return testnode.Sh(n.t, "etcdctl", append([]string{"--endpoints", n.etcd.Endpoint}, args...)...)
}

func (n *node) patchctl(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(testnode.Bin(), "patchctl"), append([]string{"--server", "unix://" + n.API}, args...)...).CombinedOutput()
	return string(out), err
}

// calls are what the plugins were called with.
func (n *node) calls() string {
	b, _ := os.ReadFile(n.log)
	return string(b)
}

// claims are the addresses of a pool that have an owner.
func (n *node) claims(pool string) []client.Claim {
	n.t.Helper()
	pools, err := n.Client.Pools(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range pools {
		if p.Name == pool {
			return p.Claims
		}
	}
	return nil
}

func (n *node) leftovers() []client.Leftover {
	n.t.Helper()
	l, err := n.Client.Leftovers(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

// healthy reports whether doctor finds a check good, and what it says.
func (n *node) healthy(check string) (bool, string) {
	n.t.Helper()
	findings, err := n.Client.Doctor(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range findings {
		if f.Check == check && !f.OK {
			return false, f.Message
		}
	}
	return true, ""
}

// noPanic fails if the daemon's log has a panic, which a server survives.
func (n *node) noPanic() {
	n.t.Helper()
	log, err := os.ReadFile(filepath.Join(n.Dir, "patchbayd.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	if _, after, found := strings.Cut(string(log), "panic"); found {
		n.t.Errorf("panic%s", after[:min(len(after), 2000)])
	}
}

// pod is a pod that no runtime remembers.
func (n *node) pod(name, networks string) *sandbox.Sandbox {
	n.t.Helper()
	return &sandbox.Sandbox{ContainerID: name, Netns: testnode.Netns(n.t, name), Namespace: "default", Pod: name,
		Annotations: map[string]string{meta.NetworksAnnotation: networks}}
}

func ifindex(t *testing.T, s *sandbox.Sandbox, name string) string {
	t.Helper()
	return strings.TrimSpace(testnode.Exec(t, s, "cat", "/sys/class/net/"+name+"/ifindex"))
}

// clusterNode is a node whose pods and networks are those of an API server.
func clusterNode(t *testing.T, a *testnode.APIServer, set ...string) *node {
	t.Helper()
	return newNode(t, append([]string{"kubernetes.enabled=true", "kubernetes.kubeconfig=" + a.Kubeconfig}, set...)...)
}
