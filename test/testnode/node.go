package testnode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/internal/install"
	"github.com/patchbay-cni/patchbay/meta"
)

// A Node is a patchbayd with its own Open vSwitch and etcd.
type Node struct {
	Dir       string
	Manifests string
	CNI, API  string // sockets
	OVS       *OVS
	Client    *client.Client
	Runtime   *sandbox.Runtime
	Daemon    *Process
	Set       []string // settings of the daemon, for the next Start
	Args      []string // further arguments
}

// Config of a node.
type Config struct {
	// Set are settings of the daemon besides those that make it a node of its own.
	Set []string
	// Manifests are files by name, YAML.
	Manifests map[string]string
	// OVS is an Open vSwitch to share; nil: one is started.
	OVS *OVS
}

// PluginDirs are where third-party plugins are: Debian's package containernetworking-plugins.
const PluginDirs = "/usr/lib/cni"

// New starts a node and waits until it is ready.
func New(t testing.TB, c Config) *Node {
	t.Helper()
	n := &Node{Dir: ShortDir(t), OVS: c.OVS}
	if n.OVS == nil {
		n.OVS = StartOVS(t)
	}
	n.Manifests = filepath.Join(n.Dir, "manifests")
	n.CNI, n.API = filepath.Join(n.Dir, "cni.sock"), filepath.Join(n.Dir, "api.sock")
	if err := os.Mkdir(n.Manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range c.Manifests {
		n.Write(t, name, text)
	}
	n.Set = append([]string{"node=n1", "stateDir=" + n.Dir + "/state", "listen.cni=" + n.CNI, "listen.api=" + n.API, "ovs.db=" + n.OVS.DB,
		"ovs.bridges.data.name=br-data", "ovs.bridges.control.name=br-control", "standalone.manifests=" + n.Manifests,
		"meta.cniBinDirs=[" + Bin() + "," + PluginDirs + "]", "meta.cniConfDir=" + n.Dir + "/net.d", "log.level=debug",
		"gc.interval=1s", "gc.grace=1s", "cri.endpoint=none"}, c.Set...)
	n.Runtime = &sandbox.Runtime{StateDir: n.Dir + "/sandboxes", BinDirs: []string{Bin()}, NetConf: install.NetConf(n.CNI, n.Dir+"/state/del-queue")}
	var err error
	if n.Client, err = client.New("unix://"+n.API, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Client.Close()
		defer n.endPods(t)
		if n.Daemon != nil {
			n.Daemon.Stop()
			if t.Failed() {
				t.Logf("log of patchbayd:\n%s", n.LogTail())
			}
		}
	})
	n.Start(t)
	return n
}

// endPods takes the namespaces of pods away that a test has left, as other tests see their links.
func (n *Node) endPods(t testing.TB) {
	files, err := filepath.Glob(n.Runtime.StateDir + "/*.json")
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		var s sandbox.Sandbox
		if b, err := os.ReadFile(f); err != nil || json.Unmarshal(b, &s) != nil {
			t.Errorf("what is in %s? %v", f, err)
		}
		name := filepath.Base(s.Netns)
		var links []string
		for line := range strings.Lines(run(t, "ip", "-o", "link", "show", "type", "veth")) {
			if link, _, _ := strings.Cut(strings.Fields(line)[1], "@"); strings.Contains(line, "link-netns "+name) {
				links = append(links, link)
			}
		}
		_ = netns.DeleteNamed(name) // it may be gone
		for _, link := range links {
			Eventually(t, "link "+link+" is gone", func() bool { return exec.Command("ip", "link", "show", link).Run() != nil })
		}
	}
}

// Start starts the daemon, again after Stop or Kill, and waits until it is ready.
func (n *Node) Start(t testing.TB, env ...string) {
	t.Helper()
	n.Launch(t, env...)
	if !n.Alive(t) {
		t.Fatalf("patchbayd ended:\n%s", n.LogTail())
	}
}

// Launch starts the daemon and does not wait.
func (n *Node) Launch(t testing.TB, env ...string) {
	t.Helper()
	args := slices.Clone(n.Args)
	for _, s := range n.Set {
		args = append(args, "--set", s)
	}
	n.Daemon = Start(t, filepath.Join(n.Dir, "patchbayd.log"), append([]string{"GORACE=halt_on_error=1"}, env...), filepath.Join(Bin(), "patchbayd"), args...)
}

// Alive waits until the daemon answers or has ended, and reports whether it answers.
func (n *Node) Alive(t testing.TB) (alive bool) {
	t.Helper()
	Eventually(t, "patchbayd answers or has ended", func() bool {
		select {
		case <-n.Daemon.Done():
			return true
		default:
		}
		_, err := n.Client.Version(context.Background())
		alive = err == nil
		return alive
	})
	return alive
}

// AwaitCalls waits until the daemon is answering so many calls.
func (n *Node) AwaitCalls(t testing.TB, calls int) {
	t.Helper()
	want := fmt.Sprintf("patchbay_inflight %d\n", calls)
	Eventually(t, fmt.Sprintf("%d calls are under way", calls), func() bool {
		return strings.Contains(n.Metrics(t), want)
	})
}

// Vanish takes a pod's namespace away without a DEL, and waits until the daemon has collected what the pod
// had: GC has then looked after every pod at least once since.
func (n *Node) Vanish(t testing.TB, pod string) {
	t.Helper()
	s, err := n.Runtime.Find("default", pod)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "netns", "del", filepath.Base(s.Netns))
	Eventually(t, pod+" is collected", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && !slices.ContainsFunc(l, func(have client.Sandbox) bool { return have.ContainerID == s.ContainerID })
	})
}

// LogTail returns the end of the daemon's log.
func (n *Node) LogTail() string {
	b, err := os.ReadFile(filepath.Join(n.Dir, "patchbayd.log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// Write writes a manifest.
func (n *Node) Write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.Manifests, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Run starts a pod with a networks annotation, in namespace default, and ends it with the test.
func (n *Node) Run(t testing.TB, pod, networks string) *sandbox.Sandbox {
	t.Helper()
	s, err := n.TryRun(pod, networks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := n.Runtime.Find("default", pod); err != nil {
			return // the test has removed it
		}
		if err := n.Remove(pod); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TryRun starts a pod.
func (n *Node) TryRun(pod, networks string) (*sandbox.Sandbox, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	return n.Runtime.Run(ctx, meta.Pod{Namespace: "default", Name: pod, Annotations: map[string]string{meta.NetworksAnnotation: networks}})
}

// Check runs CHECK on a pod.
func (n *Node) Check(t testing.TB, s *sandbox.Sandbox) {
	t.Helper()
	if err := n.Runtime.Check(context.Background(), s); err != nil {
		t.Error(err)
	}
}

// Remove ends a pod.
func (n *Node) Remove(pod string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	return n.Runtime.Remove(ctx, "default", pod)
}

// Exec runs a command in a pod's namespace and returns its output.
func Exec(t testing.TB, s *sandbox.Sandbox, args ...string) string {
	t.Helper()
	return run(t, "ip", append([]string{"netns", "exec", filepath.Base(s.Netns)}, args...)...)
}

// Netns makes a namespace without any plugin, for runtimes of the test's own.
func Netns(t testing.TB, name string) string {
	t.Helper()
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = netns.DeleteNamed(name) })
	return "/run/netns/" + name
}

// Sh runs a command on the node.
func Sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	return run(t, name, args...)
}

// AwaitQueue waits until every DEL that was queued is done.
func (n *Node) AwaitQueue(t testing.TB) {
	t.Helper()
	Eventually(t, "no DEL waits", func() bool { return strings.Contains(n.Metrics(t), "\npatchbay_del_queue 0\n") })
}

// Metrics returns the daemon's metrics.
func (n *Node) Metrics(t testing.TB) string {
	t.Helper()
	return run(t, "curl", "-sS", "--unix-socket", n.API, "http://patchbay/metrics")
}

// AssertClean fails unless nothing of ours is left when the queued DELs are done: no attachment, port, link,
// address or record without an owner. Pods that run are not leftovers.
func (n *Node) AssertClean(t testing.TB) {
	t.Helper()
	n.AwaitQueue(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	findings, err := n.Client.Doctor(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, f := range findings {
		if !f.OK && f.Check != "manifests" {
			t.Errorf("doctor: %s: %s", f.Check, f.Message)
		}
	}
}

// AssertEmpty fails unless there is nothing at all: no sandbox, port, link or claim.
func (n *Node) AssertEmpty(t testing.TB) {
	t.Helper()
	n.AssertClean(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sandboxes, err := n.Client.Sandboxes(ctx)
	if err != nil || len(sandboxes) > 0 {
		t.Errorf("sandboxes left: %+v, %v", sandboxes, err)
	}
	pools, err := n.Client.Pools(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, p := range pools {
		if len(p.Claims) > 0 {
			t.Errorf("addresses left in pool %s: %+v", p.Name, p.Claims)
		}
	}
	if ports := n.OVS.Ports(t); len(ports) > 0 {
		t.Errorf("ports left: %v", ports)
	}
	if links := run(t, "ip", "-br", "link", "show", "type", "veth"); strings.Contains(links, "pb") {
		t.Errorf("links left:\n%s", links)
	}
}
