// Package fault tests a node whose parts go away, or lose what was made.
package fault

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

func TestADaemonThatIsAwayAndComesBack(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data,control")
	n.Run(t, "b", "data")
	n.Daemon.Kill()

	// Interfaces go on forwarding.
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")

	// ADD fails with code 11, after its wait, naming the socket.
	n.Runtime.NetConf = []byte(strings.Replace(string(n.Runtime.NetConf), `"type": "patchbay"`, `"type": "patchbay", "waitSeconds": 0`, 1))
	if _, err := n.TryRun("c", "data"); err == nil || !strings.Contains(err.Error(), n.CNI) {
		t.Errorf("ADD without a daemon: %v", err)
	}
	// DEL is a success, queued on disk.
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(n.Dir + "/state/del-queue/*.json")
	if err != nil || len(files) != 2 { // a's, and that of c's failed ADD
		t.Errorf("queue: %v, %v", files, err)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, fi.Mode(), err)
		}
	}
	n.Start(t)
	n.AssertClean(t)
	l, err := n.Client.List(context.Background(), client.Filter{})
	if err != nil || len(l) != 1 || l[0].Pod != "b" {
		t.Errorf("after the restart: %+v, %v", l, err)
	}
}

func TestOvsdbServerRestarts(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "gone", "bridge")
	// Without ovsdb-server ovs-vswitchd 3.1 does not poll ports that have no thread of their own:
	// packets wait until it is back. That is Open vSwitch's, with or without us.
	link := func() string { return testnode.Exec(t, a, "cat", "/sys/class/net/net1/ifindex") }
	before := link()
	n.OVS.StopServer()
	n.Vanish(t, "gone") // mending has looked after a since, and must not take silence for damage
	if now := link(); now != before {
		t.Errorf("interface %s was made again as %s while Open vSwitch was away", before, now)
	}
	result := make(chan error, 1)
	go func() {
		_, err := n.TryRun("c", "data,control")
		result <- err
	}()
	n.AwaitCalls(t, 1)
	n.OVS.StartServer(t)
	if err := <-result; err != nil {
		t.Errorf("an ADD during the restart: %v", err)
	}
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"a", "c"} {
		if err := n.Remove(p); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}

func TestVswitchdIsAwayDuringAnAdd(t *testing.T) {
	n := testnode.Standard(t)
	n.Run(t, "a", "data")
	n.OVS.StopSwitch()
	if _, err := n.TryRun("b", "data"); err == nil || !strings.Contains(err.Error(), "is ovs-vswitchd running?") {
		t.Errorf("ADD without ovs-vswitchd: %v", err)
	}
	n.OVS.StartSwitch(t)
	n.AssertClean(t)
	n.Run(t, "c", "data")
}

// A port that is added again before ovs-vswitchd has seen its removal would be the same to it, with the
// socket of a link that is gone.
func TestAnInterfaceIsMadeAgainWhileVswitchdIsBusy(t *testing.T) {
	n := testnode.Standard(t)
	a, b := n.Run(t, "a", "data"), n.Run(t, "b", "data")
	thaw := n.OVS.FreezeSwitch()
	t.Cleanup(thaw)
	if err := n.Client.Detach(context.Background(), "default", "a", "net1"); err != nil {
		t.Fatal(err)
	}
	attached := make(chan error, 2)
	attach := func(pod, nic string) {
		_, err := n.Client.Attach(context.Background(), "default", pod, client.Request{Network: "data", Interface: nic})
		attached <- err
	}
	go attach("a", "net1")
	n.AwaitCalls(t, 1)
	go attach("b", "later")
	testnode.Eventually(t, "a port that was asked for later is in the database", func() bool {
		return slices.Contains(n.OVS.Ports(t), ovs.HostName(b.ContainerID, "later"))
	})
	if slices.Contains(n.OVS.Ports(t), ovs.HostName(a.ContainerID, "net1")) {
		t.Error("the port is added again, and ovs-vswitchd has not seen its removal")
	}
	thaw()
	for range 2 {
		if err := <-attached; err != nil {
			t.Error(err)
		}
	}
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
}

func TestAPortDeletedByHandIsMadeAgainAtTheStart(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	n.Daemon.Stop()
	l := n.OVS.Vsctl(t, "--bare", "--columns=name", "find", "port", `external_ids:patchbay-pod="default/a"`)
	n.OVS.Vsctl(t, "del-port", strings.TrimSpace(l))
	n.Start(t)
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
	n.Check(t, a)
}

// TestOpenVSwitchIsAwayAtTheStart starts the daemon without Open vSwitch: it serves, and when Open
// vSwitch is back it mends a pod that lost its port, and removes a port and a link without a record.
func TestOpenVSwitchIsAwayAtTheStart(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	n.Daemon.Kill()
	lost := strings.TrimSpace(n.OVS.Vsctl(t, "--bare", "--columns=name", "find", "port", `external_ids:patchbay-pod="default/a"`))
	leftover := ovs.HostName("nobody", "net1")
	testnode.Sh(t, "ip", "link", "add", leftover, "type", "veth", "peer", "name", "leftover0")
	n.OVS.Vsctl(t, "del-port", lost, "--", "add-port", "br-data", leftover, "--", "set", "port", leftover, "external_ids:patchbay-sandbox=nobody", "external_ids:patchbay-if=net1")
	n.OVS.StopServer()
	n.Start(t)
	if l, err := n.Client.List(context.Background(), client.Filter{}); err != nil || len(l) != 2 {
		t.Errorf("records without Open vSwitch: %+v, %v", l, err)
	}
	n.OVS.StartServer(t)
	testnode.Eventually(t, "the leftover is removed and a's port is back", func() bool {
		ports := n.OVS.Ports(t)
		return !slices.Contains(ports, leftover) && slices.Contains(ports, lost)
	})
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
	n.Check(t, a)
	n.AssertClean(t)
}

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("C19 CHECK tells what is lost", checkTellsWhatIsLost)
}

func checkTellsWhatIsLost(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	ctx := context.Background()
	testnode.Exec(t, a, "ip", "addr", "flush", "dev", "net1")
	if err := n.Runtime.Check(ctx, a); err == nil || !strings.Contains(err.Error(), "lost address 10.12.0.2/24") {
		t.Error(err)
	}
	testnode.Exec(t, a, "ip", "link", "set", "net1", "down")
	if err := n.Runtime.Check(ctx, a); err == nil || !strings.Contains(err.Error(), "is down") {
		t.Error(err)
	}
	testnode.Exec(t, a, "ip", "link", "del", "net1")
	if err := n.Runtime.Check(ctx, a); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
}

// While the daemon runs, what was lost of an interface is mended, by whomever it was made; gc.mend=false
// leaves it alone.
func TestWhatIsLostIsMended(t *testing.T) {
	n := testnode.Standard(t, "listen.metrics=127.0.0.1:9408")
	a := n.Run(t, "a", "data,bridge")
	n.Run(t, "b", "data,bridge")
	for _, l := range []struct {
		what string
		lose []string
	}{
		{"an address", []string{"ip", "addr", "flush", "dev", "net1"}}, {"the link", []string{"ip", "link", "del", "net1"}},
		{"a plugin's address", []string{"ip", "addr", "flush", "dev", "net2"}},
	} {
		testnode.Exec(t, a, l.lose...)
		testnode.Eventually(t, l.what+" is back", func() bool {
			out := testnode.Exec(t, a, "ip", "-br", "addr", "show", "up")
			return strings.Contains(out, "10.12.0.2/24") && strings.Contains(out, "10.17.0.2/24")
		})
	}
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
	testnode.Eventually(t, "the repairs are counted", func() bool {
		return strings.Contains(testnode.Sh(t, "curl", "-s", "http://127.0.0.1:9408/metrics"), `patchbay_repaired_total{kind="interface"} 3`)
	})
	n.Daemon.Stop()
	n.Set = append(n.Set, "gc.mend=false")
	n.Start(t)
	testnode.Exec(t, a, "ip", "addr", "flush", "dev", "net1")
	n.Vanish(t, "b")
	if out := testnode.Exec(t, a, "ip", "-br", "addr", "show", "net1"); strings.Contains(out, "10.12.0.2") {
		t.Errorf("mended: %s", out)
	}
}

func TestANetnsThatIsGoneOrReused(t *testing.T) {
	n := testnode.Standard(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	// Another pod's namespace at the path: nothing in it is touched.
	testnode.Sh(t, "ip", "netns", "del", filepath.Base(a.Netns))
	testnode.Netns(t, filepath.Base(a.Netns))
	testnode.Exec(t, a, "ip", "link", "add", "net1", "type", "veth", "peer", "name", "other")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("hot attach into a reused path: %v", err)
	}
	if err := n.Runtime.Del(context.Background(), a); err != nil {
		t.Error(err)
	}
	if out := testnode.Exec(t, a, "ip", "link"); !strings.Contains(out, "net1") {
		t.Error("DEL touched another pod's interface")
	}
	// The host's own namespace is never entered.
	testnode.Sh(t, "touch", "/run/netns/host")
	testnode.Sh(t, "mount", "--bind", "/proc/1/ns/net", "/run/netns/host")
	defer testnode.Sh(t, "umount", "/run/netns/host")
	host := &sandbox.Sandbox{ContainerID: "host", Netns: "/run/netns/host", Namespace: "default", Pod: "h", Annotations: map[string]string{meta.NetworksAnnotation: "data"}}
	for path, want := range map[string]string{"/run/netns/host": "host's own", "/run/nothing": "gone", "/etc/passwd": "gone", "/proc/1/ns/net": "open network namespace"} {
		host.Netns = path
		if _, err := n.Runtime.Add(context.Background(), host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("netns %s: %v, want %q", path, err, want)
		}
	}
	// b's namespace vanishes and nobody calls DEL: it is collected after the grace.
	n.Vanish(t, "b")
	n.AssertEmpty(t)
	_ = os.Remove(n.Dir + "/sandboxes/default_a.json")
}

func TestEtcdStopsAndStarts(t *testing.T) {
	dir := testnode.ShortDir(t)
	etcd := testnode.StartEtcd(t, dir)
	n := testnode.Standard(t, "etcd.endpoints=["+etcd.Endpoint+"]")
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	etcd.Stop()
	testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
	_, err := n.TryRun("c", "data")
	if err == nil || !strings.Contains(err.Error(), "etcd is unavailable at "+etcd.Endpoint) {
		t.Errorf("ADD without etcd: %v", err)
	}
	if err := n.Remove("b"); err != nil {
		t.Errorf("a DEL without etcd: %v", err)
	}
	etcd.Start(t)
	testnode.Eventually(t, "a pod starts again", func() bool { _, err := n.TryRun("d", "data"); return err == nil })
	for _, p := range []string{"a", "d"} {
		if err := n.Remove(p); err != nil {
			t.Errorf("remove %s: %v", p, err)
		}
	}
	testnode.Eventually(t, "the failed ADD's leftovers are collected", func() bool {
		l, err := n.Client.List(context.Background(), client.Filter{})
		return err == nil && len(l) == 0
	})
	n.AssertEmpty(t)
}

func TestADelegateThatHangsIsEnded(t *testing.T) {
	n := testnode.Standard(t)
	plugins := n.Dir + "/plugins"
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = ADD ] && sleep 1000\nexit 0\n"
	if err := os.WriteFile(plugins+"/hang", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	n.Set = append(n.Set, "meta.cniBinDirs=["+plugins+"]", "meta.delegateTimeout=2s")
	n.Start(t)
	n.Write(t, "hang.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: hang}\nspec: {config: '{\"cniVersion\": \"1.0.0\", \"name\": \"hang\", \"type\": \"hang\"}'}\n")
	if _, err := n.TryRun("a", "data,hang"); err == nil || !strings.Contains(err.Error(), "plugin hang did not finish ADD within 2s") {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

func TestSIGHUPTakesOverWhatCanChange(t *testing.T) {
	file := testnode.ShortDir(t) + "/patchbayd.yaml"
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {level: info}\n")
	n := testnode.Standard(t)
	n.Daemon.Stop()
	n.Args = []string{"--config", file}
	n.Set = slices.DeleteFunc(n.Set, func(s string) bool { return strings.HasPrefix(s, "log.") })
	n.Start(t)
	for _, c := range []struct{ text, want string }{
		{"log: {levle: debug}\n", `unknown key \"log.levle\"`},
		{"log: {level: debug}\nipam: {pools: {x: {network: 10.0.0.0/8, subnetLen: 24}}}\n", "sections=ipam"},
	} {
		write(c.text)
		n.Daemon.Signal(syscall.SIGHUP)
		testnode.Eventually(t, c.want, func() bool { return strings.Contains(n.LogTail(), c.want) })
	}
	n.Run(t, "a", "data") // it serves on
	n.Daemon.Stop()
	if code := n.Daemon.ExitCode(); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	n.Start(t)
}

func TestABridgeIsAdoptedAndForeignPortsAreLeftAlone(t *testing.T) {
	ovs := testnode.StartOVS(t)
	for _, link := range []string{"up", "foreign"} {
		testnode.Sh(t, "ip", "link", "add", link+"0", "type", "veth", "peer", "name", link+"1")
		t.Cleanup(func() { testnode.Sh(t, "ip", "link", "del", link+"0") })
	}
	ovs.Vsctl(t, "add-br", "br-data", "--", "set", "bridge", "br-data", "datapath_type=netdev", "external_ids:mine=yes", "--", "add-port", "br-data", "foreign0", "tag=7")
	n := testnode.New(t, testnode.Config{OVS: ovs, Manifests: map[string]string{"networks.yaml": testnode.Networks},
		Set: []string{"ovs.bridges.data.uplinks=[up0]", "ovs.bridges.data.failMode=secure", "ovs.bridges.data.protocols=[OpenFlow13, OpenFlow15]",
			"ovs.bridges.data.controllers=[tcp:127.0.0.1:6653]"}})
	verify := func() {
		t.Helper()
		if ports := strings.Fields(ovs.Vsctl(t, "list-ports", "br-data")); !slices.Equal(ports, []string{"foreign0", "up0"}) {
			t.Errorf("ports %v", ports)
		}
		for column, want := range map[string]string{"fail_mode": "secure", "protocols": "OpenFlow13, OpenFlow15", "external_ids:mine": "yes"} {
			if got := ovs.Vsctl(t, "get", "bridge", "br-data", column); !strings.Contains(got, want) {
				t.Errorf("%s is %s, want %s", column, got, want)
			}
		}
		if got := strings.TrimSpace(ovs.Vsctl(t, "get", "port", "foreign0", "tag")); got != "7" {
			t.Errorf("foreign0 has tag %s", got)
		}
		if got := strings.TrimSpace(ovs.Vsctl(t, "get-controller", "br-data")); got != "tcp:127.0.0.1:6653" {
			t.Errorf("controller %s", got)
		}
	}
	verify()
	before := ovs.Vsctl(t, "--bare", "--columns=_uuid", "list", "controller")
	n.Daemon.Kill()
	n.Start(t)
	verify()
	if after := ovs.Vsctl(t, "--bare", "--columns=_uuid", "list", "controller"); after != before {
		t.Errorf("the controller's row was replaced: %s, then %s", before, after)
	}
	n.Daemon.Stop()
	n.Set = append(n.Set, "ovs.bridges.data.uplinks=[nothere0]")
	n.Launch(t)
	testnode.Eventually(t, "the log names the uplink", func() bool { return strings.Contains(n.LogTail(), "uplink nothere0") })
	n.Daemon.Kill()
	n.Daemon = nil
}

func TestASecondDaemonOnTheSameSocketIsRefused(t *testing.T) {
	n := testnode.Standard(t)
	first := n.Daemon
	n.Launch(t)
	<-n.Daemon.Done()
	if code := n.Daemon.ExitCode(); code != 1 || !strings.Contains(n.LogTail(), "is a patchbayd running already?") {
		t.Errorf("exit %d: %s", code, n.LogTail())
	}
	n.Daemon = first
	n.Run(t, "a", "data")
}
