package attack

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func (n *node) uninstall(dir string, args ...string) []string {
	return append([]string{filepath.Join(testnode.Bin(), "patchctl"), "--server=unix://" + n.API, "uninstall", "--ovs-db=" + n.OVS.DB,
		"--bin-dir=" + dir + "/bin", "--conf-file=" + dir + "/net.d/00-patchbay.conflist"}, args...)
}

// From a toolbox, or a container that has the socket and not the node's network, no link is seen: a port
// without a link there is not one whose pod has ended.
func TestUninstallInAnotherNetworkNamespaceSparesPodsThatRun(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	ports := n.OVS.Ports(t)
	n.Daemon.Stop()
	testnode.Netns(t, "toolbox")
	out, err := exec.Command("ip", append([]string{"netns", "exec", "toolbox"}, n.uninstall(t.TempDir())...)...).CombinedOutput()
	if after := n.OVS.Ports(t); !slices.Equal(ports, after) {
		t.Errorf("the port of a pod that runs is removed: ports were %v, are %v; %v\n%s", ports, after, err, out)
	}
	n.Start(t)
}

// Links that come and go while they are listed interrupt the list (NLM_F_DUMP_INTR), and pods that end are
// what it waits for: the wait must survive that.
func TestUnplugEndedSurvivesABusyNode(t *testing.T) {
	n := newNode(t)
	n.Run(t, "stays", "data")
	n.Daemon.Stop()
	t.Cleanup(func() { n.Start(t) })
	for i := range 100 {
		testnode.Sh(t, "ip", "link", "add", fmt.Sprintf("many%d", i), "type", "veth", "peer", "name", fmt.Sprintf("many%dp", i))
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", fmt.Sprintf("many%d", i)).Run() })
	}
	ctx, cancel := context.WithCancel(context.Background())
	u := ovs.NewUnplugger(n.OVS.DB, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { u.Run(ctx) })
	churned := make(chan struct{})
	running.Go(func() {
		defer close(churned)
		for i := range 150 {
			name := fmt.Sprintf("busy%d", i)
			_ = exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", name+"p").Run()
			_ = exec.Command("ip", "link", "del", name).Run()
		}
	})
	waited := make(chan error, 1)
	running.Go(func() { waited <- u.Await(ctx, func(_, _ []ovs.Plug) {}) })
	select {
	case err := <-waited:
		t.Errorf("stopped waiting although a pod runs: %v", err)
	case <-churned:
	}
}

// Patchbay has come back, and Open vSwitch restarts: links that were listed before it was back tell nothing
// of the ports that are there afterwards.
func TestUninstallThatWaitsSparesPodsThatStartWhileOpenVSwitchRestarts(t *testing.T) {
	n := newNode(t)
	stays := n.Run(t, "stays", "data")
	n.Daemon.Stop()
	args := n.uninstall(t.TempDir(), "--wait")
	p := testnode.Start(t, filepath.Join(n.Dir, "wait.log"), nil, args[0], args[1:]...)
	t.Cleanup(p.Kill)
	says := func(text string) {
		t.Helper()
		testnode.Eventually(t, "uninstall says "+text, func() bool {
			out, _ := os.ReadFile(p.Log)
			return strings.Contains(string(out), text)
		})
	}
	says("waiting for the pods to end: 1 interface of 1 pod")
	n.Start(t)
	n.OVS.StopServer()
	says("connection to Open vSwitch lost")
	testnode.Sh(t, "ip", "link", "add", "some0", "type", "veth", "peer", "name", "some1")
	testnode.Sh(t, "ip", "link", "del", "some0")
	// It looks at what there is because of that link, as far as it comes without Open vSwitch. Nothing tells
	// that it has begun; if it has not, the test proves less, and fails no sooner.
	time.Sleep(300 * time.Millisecond)
	p.Signal(syscall.SIGSTOP) // it has little CPU
	n.OVS.StartServer(t)
	s, err := n.TryRun("new", "data")
	p.Signal(syscall.SIGCONT)
	if err != nil {
		t.Fatal(err)
	}
	// The next pod that ends has it look anew: then it finds that patchbayd is back, and ends.
	testnode.Sh(t, "ip", "netns", "del", filepath.Base(stays.Netns))
	<-p.Done()
	says("patchbayd runs on this node")
	if host := ovs.HostName(s.ContainerID, "net1"); !slices.Contains(n.OVS.Ports(t), host) {
		t.Errorf("pod new runs, and its port %s is gone", host)
	}
	if err := n.Remove("new"); err != nil {
		t.Error(err)
	}
}

// Two that ask for one logical port at the same time: one gets it.
func TestALogicalPortIsBoundOnce(t *testing.T) {
	n := newNode(t)
	n.nad("ovn", `{"cniVersion": "1.0.0", "name": "ovn", "type": "ovs", "bridge": "br-data"}`)
	n.Run(t, "first", "ovn")
	for round := range 15 {
		ask := fmt.Sprintf(`[{"name": "ovn", "cni-args": {"OvnPort": "lsp%d"}}]`, round)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _, _ = n.TryRun(fmt.Sprintf("r%d-%d", round, i), ask) })
		}
		wg.Wait()
		out := n.OVS.Vsctl(t, "--no-heading", "--columns=name", "find", "Interface", fmt.Sprintf("external_ids:iface-id=lsp%d", round))
		if got := len(strings.Fields(out)); got != 1 {
			t.Errorf("lsp%d is bound to %d ports", round, got)
		}
		for i := range 4 {
			_ = n.Remove(fmt.Sprintf("r%d-%d", round, i))
		}
	}
}
