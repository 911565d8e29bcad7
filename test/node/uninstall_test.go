package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A departing node has its plugin and configuration installed, as in a cluster.
type departing struct{ *testnode.Node }

func departingNode(t *testing.T) departing {
	t.Helper()
	dir := testnode.ShortDir(t)
	n := departing{testnode.Standard(t, "install.binDir="+dir+"/bin", "install.confFile="+dir+"/net.d/00-patchbay.conflist")}
	testnode.Eventually(t, "the configuration is there", func() bool { return len(n.installed(t)) == 4 })
	return n
}

// setting is one of the daemon's.
func (n departing) setting(key string) string {
	for _, s := range n.Set {
		if v, ok := strings.CutPrefix(s, key+"="); ok {
			return v
		}
	}
	return ""
}

func (n departing) installed(t *testing.T) (files []string) {
	t.Helper()
	for _, d := range []string{n.setting("install.binDir"), filepath.Dir(n.setting("install.confFile"))} {
		l, err := filepath.Glob(d + "/*")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, l...)
	}
	return files
}

func (n departing) command(args ...string) []string {
	return append([]string{filepath.Join(testnode.Bin(), "patchctl"), "uninstall", "--server=unix://" + n.API, "--ovs-db=" + n.OVS.DB,
		"--bin-dir=" + n.setting("install.binDir"), "--conf-file=" + n.setting("install.confFile")}, args...)
}

// uninstall runs patchctl uninstall and fails the test unless its output has all the texts.
func (n departing) uninstall(t *testing.T, code int, texts []string, args ...string) {
	t.Helper()
	c := n.command(args...)
	cmd := exec.Command(c[0], c[1:]...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("uninstall %v: exit code %d, want %d", args, got, code)
	}
	wantTexts(t, string(out), texts...)
}

func wantTexts(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("the output lacks %q:\n%s", text, out)
		}
	}
}

// end ends a pod as a runtime does that calls the plugin no more.
func end(t *testing.T, s *sandbox.Sandbox) {
	t.Helper()
	testnode.Sh(t, "ip", "netns", "del", filepath.Base(s.Netns))
}

// waiter starts uninstall --wait and returns when it waits for so many interfaces.
func (n departing) waiter(t *testing.T, log, interfaces string) *testnode.Process {
	t.Helper()
	c := n.command("--wait")
	p := testnode.Start(t, filepath.Join(n.Dir, log), nil, c[0], c[1:]...)
	t.Cleanup(p.Stop)
	testnode.Eventually(t, "it waits", func() bool { return strings.Contains(read(t, p.Log), "waiting for the pods to end: "+interfaces) })
	return p
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUninstallWaitsForPodsThatRunAndRemovesTheirPorts(t *testing.T) {
	n := departingNode(t)
	a, b := n.Run(t, "a", "data,control"), n.Run(t, "b", "data")
	n.uninstall(t, 1, []string{"patchbayd runs on this node", "stop it first"})
	if len(n.installed(t)) != 4 {
		t.Errorf("it removed something while the daemon runs: %v", n.installed(t))
	}
	n.Daemon.Stop()
	end(t, b)

	n.uninstall(t, 0, []string{"removed: 1 interface of 1 pod", "default/b net1", "still there: 2 interfaces of 1 pod", "default/a net1", "default/a net2", "--wait", "--now"})
	if l := n.installed(t); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
	if l := n.OVS.Ports(t); len(l) != 2 {
		t.Errorf("ports: %v", l)
	}
	testnode.Exec(t, a, "ip", "link", "show", "net2")

	stopped := n.waiter(t, "stopped.log", "2 interfaces of 1 pod")
	stopped.Signal(syscall.SIGTERM)
	<-stopped.Done()
	if wantTexts(t, read(t, stopped.Log), "Error: stopped waiting: 2 interfaces of 1 pod still there"); stopped.ExitCode() != 1 {
		t.Errorf("stopped, it ended with %d", stopped.ExitCode())
	}

	// Open vSwitch may be away when a pod ends.
	p := n.waiter(t, "wait.log", "2 interfaces of 1 pod")
	n.OVS.StopServer()
	end(t, a)
	n.OVS.StartServer(t)
	<-p.Done()
	if wantTexts(t, read(t, p.Log), "removed: 2 interfaces of 1 pod"); p.ExitCode() != 0 {
		t.Errorf("it ended with %d:\n%s", p.ExitCode(), read(t, p.Log))
	}
	if l := n.OVS.Ports(t); len(l) != 0 {
		t.Errorf("ports: %v", l)
	}
	n.uninstall(t, 0, nil, "--wait") // again, with nothing there
}

func TestUninstallNowUnplugsPodsThatRun(t *testing.T) {
	n := departingNode(t)
	a := n.Run(t, "a", "data@d0,control@c0")
	n.Daemon.Stop()
	// An interface that has lost its port is unplugged, too; what is not ours stays.
	n.OVS.Vsctl(t, "del-port", n.OVS.Ports(t)[0])
	n.OVS.Vsctl(t, "add-port", "br-data", "mine0", "--", "set", "interface", "mine0", "type=internal")
	n.uninstall(t, 0, []string{"unplugged: 2 interfaces of 2 pods", "without a port", "default/a"}, "--now")
	if l := n.OVS.Ports(t); len(l) != 0 {
		t.Errorf("ports: %v", l)
	}
	if out := testnode.Exec(t, a, "ip", "-br", "link"); strings.Contains(out, "d0") || strings.Contains(out, "c0") {
		t.Errorf("the pod has:\n%s", out)
	}
	if l := strings.Fields(n.OVS.Vsctl(t, "list-ports", "br-data")); !slices.Contains(l, "mine0") {
		t.Errorf("br-data has %v", l)
	}
}

func TestUninstallSaysWhatItCouldNotLookAt(t *testing.T) {
	n := departingNode(t)
	n.Daemon.Stop()
	n.uninstall(t, 2, []string{"--wait or --now"}, "--wait", "--now")
	if len(n.installed(t)) != 4 {
		t.Error("a mistaken call removed something")
	}
	n.uninstall(t, 0, []string{"there is no Open vSwitch at unix:/run/none.sock"}, "--ovs-db=unix:/run/none.sock")
	n.OVS.StopServer()
	n.uninstall(t, 1, []string{"Open vSwitch does not answer at " + n.OVS.DB})
	n.OVS.StartServer(t)
}

// At boot Open vSwitch may start later than the uninstaller; its database has the ports of pods that the
// node had before.
func TestUninstallThatWaitsDoesSoForOpenVSwitch(t *testing.T) {
	n := departingNode(t)
	a := n.Run(t, "a", "data")
	n.Daemon.Stop()
	end(t, a)
	n.OVS.StopServer()
	if err := os.Remove(strings.TrimPrefix(n.OVS.DB, "unix:")); err != nil {
		t.Fatal(err)
	}
	n.uninstall(t, 1, []string{"ports of pods may be left", "--wait", "Open vSwitch does not answer at " + n.OVS.DB})
	c := n.command("--wait")
	p := testnode.Start(t, filepath.Join(n.Dir, "wait.log"), nil, c[0], c[1:]...)
	t.Cleanup(p.Stop)
	testnode.Eventually(t, "it has looked for Open vSwitch", func() bool { return strings.Contains(read(t, p.Log), "not usable yet") })
	n.OVS.StartServer(t)
	<-p.Done()
	if wantTexts(t, read(t, p.Log), "removed: 1 interface of 1 pod"); p.ExitCode() != 0 {
		t.Errorf("it ended with %d:\n%s", p.ExitCode(), read(t, p.Log))
	}
	if l := n.OVS.Ports(t); len(l) != 0 {
		t.Errorf("ports: %v", l)
	}
}

func TestUninstallThatWaitsEndsWhenTheDaemonIsBack(t *testing.T) {
	n := departingNode(t)
	a := n.Run(t, "a", "data")
	n.Daemon.Stop()
	p := n.waiter(t, "wait.log", "1 interface of 1 pod")
	n.Start(t)
	end(t, a)
	<-p.Done()
	if wantTexts(t, read(t, p.Log), "stopped waiting: 1 interface of 1 pod still there: patchbayd runs on this node", "stop it first"); p.ExitCode() != 1 {
		t.Errorf("it ended with %d:\n%s", p.ExitCode(), read(t, p.Log))
	}
}
