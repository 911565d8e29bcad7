package attack

import (
	"os"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Two machines were given one name: the second one does not take the first one's pods for its own of an earlier boot.
// Once the first is gone it goes on, as after a reboot.
func TestTwoMachinesOfOneName(t *testing.T) {
	const bootID = "/proc/sys/kernel/random/boot_id"
	n := newNode(t)
	n.mustAdd(n.pod("a", "data"))
	records := func() string { return n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/") }
	have := records()
	boot := n.Dir + "/boot"
	if err := os.WriteFile(boot, []byte("11111111-2222-3333-4444-555555555555\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	testnode.Sh(t, "mount", "--bind", boot, bootID)
	unmount := func() { testnode.Sh(t, "umount", bootID) }
	log := n.Dir + "/twin.log"
	twin := testnode.Start(t, log, nil, testnode.Bin()+"/patchbayd", "--set", "node=n1", "--set", "stateDir="+n.Dir+"/twin",
		"--set", "etcd.endpoints=["+n.etcd.Endpoint+"]", "--set", "listen.cni="+n.Dir+"/twin-cni.sock", "--set", "listen.api="+n.Dir+"/twin-api.sock",
		"--set", "ovs.db="+n.OVS.DB, "--set", "meta.cniConfDir="+n.Dir+"/twin.d")
	t.Cleanup(twin.Stop)
	said := func(text string) func() bool {
		return func() bool {
			b, err := os.ReadFile(log)
			return err == nil && strings.Contains(string(b), text)
		}
	}
	testnode.Eventually(t, "the twin says why it does nothing", said("another machine's patchbayd is up"))
	unmount()
	if now := records(); now != have {
		t.Errorf("the records are\n%s\nand were\n%s", now, have)
	}
	n.Daemon.Kill()
	testnode.Eventually(t, "the twin goes on", said("of an earlier boot: dropped"))
}
