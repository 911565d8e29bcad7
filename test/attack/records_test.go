package attack

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// keepsPorts restarts the daemon over what loseRecords did and looks for the pod's interface.
func keepsPorts(t *testing.T, lose func(n *node, containerID string)) {
	t.Helper()
	n := newNode(t)
	a := n.Run(t, "a", "data")
	n.Run(t, "b", "data")
	ports := fmt.Sprint(n.OVS.Ports(t))
	n.Daemon.Stop()
	lose(n, a.ContainerID)
	n.judged()
	if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
		t.Errorf("ports %s, there were %s: a running pod has lost its interface", have, ports)
	}
}

// forget has the node no longer know what it has written to etcd, as one whose disk was lost.
func (n *node) forget() {
	n.t.Helper()
	for _, name := range []string{"mirror", "etcd.json"} {
		remove(n.t, n.Dir+"/state/"+name)
	}
}

// judged starts the daemon and waits until it knows what to think of etcd: it serves, or is suspended.
func (n *node) judged() {
	n.t.Helper()
	n.Launch(n.t)
	testnode.Eventually(n.t, "it serves, or is suspended", func() bool {
		r, err := n.Client.Recovery(context.Background())
		_, starting := n.Client.Version(context.Background())
		return err == nil && (r.Suspended || starting == nil)
	})
}

// etcd was restored from a snapshot that knows the node and not its pods.
func TestASnapshotWithoutThePodsCostsThemNothing(t *testing.T) {
	keepsPorts(t, func(n *node, _ string) { n.etcdctl("del", "--prefix", "/patchbay/v1/sandboxes/n1/") })
}

func TestARecordThatCantBeReadCostsThePodNothing(t *testing.T) {
	keepsPorts(t, func(n *node, id string) { n.etcdctl("put", "/patchbay/v1/sandboxes/n1/"+id, `{"node": "n1", "contai`) })
}

func TestARecordOfTheNodeThatCantBeReadKeepsNoDaemonDown(t *testing.T) {
	n := newNode(t)
	n.Daemon.Stop()
	n.etcdctl("put", "/patchbay/v1/nodes/n1", `{"node": "n1", "boo`)
	n.Launch(t)
	if !n.Alive(t) {
		t.Errorf("it does not start any more: %s", lastLine(n.LogTail()))
	}
}

func TestARecordWithoutAConfigurationDoesNotPanic(t *testing.T) {
	n := newNode(t)
	n.Daemon.Stop()
	boot := strings.TrimSpace(testnode.Sh(t, "cat", "/proc/sys/kernel/random/boot_id"))
	n.etcdctl("put", "/patchbay/v1/sandboxes/n1/x", `{"node":"n1","containerID":"x","namespace":"default","pod":"x","bootID":"`+boot+`","attachments":[{"spec":{"interface":"net1"},"status":{"phase":"Pending"}}]}`)
	n.Launch(t)
	_ = n.Alive(t)
	if log := n.LogTail(); strings.Contains(log, "panic") {
		t.Error("panic at every start")
	}
}

// rm --all is for what was given up; it is no way to lose running pods' interfaces.
func TestRmAllSparesWhatIsKeptForRunningPods(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	ports := fmt.Sprint(n.OVS.Ports(t))
	n.Daemon.Stop()
	n.etcdctl("del", "--prefix", "/patchbay/")
	n.forget()
	n.Start(t)
	if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
		t.Fatalf("ports %s, there were %s", have, ports)
	}
	out, err := n.patchctl("leftovers", "rm", "--all")
	if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
		t.Errorf("ports %s, there were %s, without a question: %s%v", have, ports, out, err)
	}
}

func lastLine(text string) string { return text[strings.LastIndex(text, "\n")+1:] }
