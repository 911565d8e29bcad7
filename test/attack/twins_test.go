package attack

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// twin starts another machine's patchbayd, which was booted at another time, under the name of the node. said reports
// whether it has said something.
func (n *node) twin(args ...string) (said func(text string) func() bool) {
	n.t.Helper()
	const bootID = "/proc/sys/kernel/random/boot_id"
	boot := n.Dir + "/boot"
	if err := os.WriteFile(boot, []byte("11111111-2222-3333-4444-555555555555\n"), 0o444); err != nil {
		n.t.Fatal(err)
	}
	testnode.Sh(n.t, "mount", "--bind", boot, bootID)
	defer testnode.Sh(n.t, "umount", bootID)
	log := n.Dir + "/twin.log"
	twin := testnode.Start(n.t, log, nil, testnode.Bin()+"/patchbayd", append([]string{"--set", "node=n1", "--set", "stateDir=" + n.Dir + "/twin",
		"--set", "etcd.endpoints=[" + n.etcd.Endpoint + "]", "--set", "listen.cni=" + n.Dir + "/twin-cni.sock", "--set", "listen.api=" + n.Dir + "/twin-api.sock",
		"--set", "meta.cniConfDir=" + n.Dir + "/twin.d"}, args...)...)
	n.t.Cleanup(func() {
		twin.Stop()
		if b, err := os.ReadFile(log); n.t.Failed() {
			n.t.Logf("log of the twin (%v):\n%s", err, b)
		}
	})
	said = func(text string) func() bool {
		return func() bool {
			b, err := os.ReadFile(log)
			return err == nil && strings.Contains(string(b), text)
		}
	}
	testnode.Eventually(n.t, "the twin has begun", said("task has started"))
	return said
}

// Two machines were given one name: the second one does not take the first one's pods for its own of an earlier boot.
// Once the first is gone it goes on, as after a reboot.
func TestTwoMachinesOfOneName(t *testing.T) {
	n := newNode(t)
	n.mustAdd(n.pod("a", "data"))
	records := func() string { return n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/") }
	have := records()
	said := n.twin("--set", "ovs.db="+n.OVS.DB)
	testnode.Eventually(t, "the twin says why it does nothing", said("another machine's patchbayd is up"))
	if now := records(); now != have {
		t.Errorf("the records are\n%s\nand were\n%s", now, have)
	}
	n.Daemon.Kill()
	testnode.Eventually(t, "the twin goes on", said("of an earlier boot: dropped"))
}

// The first machine is out of sight for so long that the second takes the node's records over. When the first is back it
// knows, and does nothing: neither to what the second has written, nor to its own pods.
func TestTheFirstOfTwoMachinesOfOneNameComesBack(t *testing.T) {
	n := newNode(t)
	a := n.pod("a", "data")
	n.mustAdd(a)
	before, had := ifindex(t, a, "net1"), addresses(t, a)
	n.Daemon.Signal(syscall.SIGSTOP)
	said := n.twin("--set", "ovs.db=unix:"+n.Dir+"/none")
	testnode.Eventually(t, "the twin takes over", said("patchbayd is ready"))
	const record = "/patchbay/v1/sandboxes/n1/twins"
	n.etcdctl("put", record, `{"containerID": "twins"}`)
	n.Daemon.Signal(syscall.SIGCONT)
	if r := n.suspended(); !strings.Contains(r.Reason, "another patchbayd has taken the records of node n1 over") {
		t.Error(r.Reason)
	}
	records := n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/")
	_, err := n.TryRun("b", "data")
	if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Errorf("an ADD of the first machine: %v", err)
	}
	if err := n.Runtime.Del(context.Background(), a); err != nil {
		t.Errorf("a DEL of the first machine: %v", err)
	}
	if out, err := n.patchctl("recover", "--from-node"); err == nil || !strings.Contains(out, "nothing to decide") {
		t.Errorf("a decision: %v, %s", err, out)
	}
	if now := n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/"); now != records {
		t.Errorf("the records are\n%s\nand were\n%s", now, records)
	}
	if now := ifindex(t, a, "net1"); now != before || addresses(t, a) != had || len(n.OVS.Ports(t)) != 1 {
		t.Errorf("interface %s was %s, %s was %s; ports %v", now, before, addresses(t, a), had, n.OVS.Ports(t))
	}
}
