package attack

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A runtime that calls the delegate again for a container in another namespace loses nothing by it.
func TestAnInterfaceInANewNamespaceForgetsNothing(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	conf := `{"cniVersion": "1.0.0", "name": "direct", "type": "patchbay-ovs", "socket": "` + n.CNI + `", "network": "data", "ipam": {"type": "good"}}`
	call := func(command, ns, nic string) (string, error) {
		cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay-ovs"))
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=direct", "CNI_NETNS=" + ns, "CNI_IFNAME=" + nic, "CNI_PATH=" + testnode.Bin()}
		cmd.Stdin = strings.NewReader(conf)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	one, two := testnode.Netns(t, "one"), testnode.Netns(t, "two")
	if out, err := call("ADD", one, "net1"); err != nil {
		t.Fatal(out, err)
	}
	if _, err := call("ADD", two, "net2"); err != nil {
		return // refused: well
	}
	for _, nic := range []string{"net1", "net2"} {
		if out, err := call("DEL", two, nic); err != nil {
			t.Error(out)
		}
	}
	if c := strings.Count(n.calls(), "DEL good net1"); c != 1 {
		t.Errorf("net1 was never unmade: %s", n.calls())
	}
	n.AssertEmpty(t)
}

// etcd is away while a DEL fails; when it is back, the pod is not shown as whole.
func TestADELThatFailedWhileEtcdWasAwayIsShown(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	a := n.Run(t, "a", "good,data")
	n.set("slowdel")
	n.set("faildel")
	done := make(chan error, 1)
	go func() { done <- n.Runtime.Del(context.Background(), a) }()
	testnode.Eventually(t, "the DEL hangs", func() bool { return strings.Contains(n.calls(), "DEL good") })
	n.etcd.Stop()
	n.unset("slowdel")
	<-done
	n.etcd.Start(t)
	out, err := n.patchctl("describe", "pod/a")
	if err != nil || strings.Contains(out, "Ready") {
		t.Errorf("%v %s", err, out)
	}
	if ok, _ := n.healthy("detach"); ok {
		t.Error("doctor finds that no DEL fails")
	}
	n.unset("faildel")
}
