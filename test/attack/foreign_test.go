package attack

import (
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// patchbay-ipam under a plugin that a runtime calls without us: a claim whose DEL never comes could not be
// released by anybody, nor was it collected after a reboot.
func TestClaimsMadeUnderOtherPluginsCanBeFreed(t *testing.T) {
	n := newNode(t)
	const pool = "10.84.0.0-16"
	add := func(id string) {
		t.Helper()
		config := `{"cniVersion": "1.0.0", "name": "plain", "type": "bridge", "socket": "` + n.CNI + `",
 "ipam": {"type": "patchbay-ipam", "network": "10.84.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`
		if e := n.shim("patchbay-ipam", config, "CNI_COMMAND=ADD", "CNI_CONTAINERID="+id, "CNI_NETNS="+testnode.Netns(t, id), "CNI_IFNAME=eth0"); e != nil {
			t.Fatal(e)
		}
	}
	owners := func() string {
		var ids []string
		for _, c := range n.claims(pool) {
			ids = append(ids, c.ContainerID)
		}
		return strings.Join(ids, " ")
	}
	add("first")
	ip := n.claims(pool)[0].IP
	if out, err := n.patchctl("ipam", "release", pool, ip); err == nil || !strings.Contains(out, "--force") || owners() != "first" {
		t.Errorf("its pod may be there: %v: %s", err, out)
	}
	if out, err := n.patchctl("ipam", "release", "--force", pool, ip); err != nil || owners() != "" {
		t.Errorf("by force: %v: %s, left %s", err, out, owners())
	}
	// That of a pod that we attached is not free by force.
	n.Run(t, "a", "chain")
	own := n.claims("10.80.0.0-16")[0].IP
	if out, err := n.patchctl("ipam", "release", "--force", "10.80.0.0-16", own); err == nil || !strings.Contains(out, "detach that") {
		t.Errorf("a running pod's: %v: %s", err, out)
	}

	add("old")
	add("young")
	n.Daemon.Stop()
	boot := strings.TrimSpace(testnode.Sh(t, "cat", "/proc/sys/kernel/random/boot_id"))
	key := strings.TrimSpace(n.keyOf("old"))
	value := n.etcdctl("get", "--print-value-only", key)
	if !strings.Contains(value, boot) {
		t.Fatalf("%s does not tell the boot: %s", key, value)
	}
	n.etcdctl("put", key, strings.Replace(strings.TrimSpace(value), boot, "an-earlier-boot", 1))
	n.Start(t)
	testnode.Eventually(t, "that of the earlier boot is free", func() bool { return owners() == "young" })
	if len(n.claims("10.80.0.0-16")) != 1 {
		t.Error("the running pod's is gone too")
	}
}

// keyOf is the key of a container's claim.
func (n *node) keyOf(id string) string {
	n.t.Helper()
	lines := strings.Split(n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/"), "\n")
	for i, line := range lines {
		if i > 0 && strings.Contains(line, `"`+id+`"`) {
			return lines[i-1]
		}
	}
	n.t.Fatalf("no claim of %s: %s", id, lines)
	return ""
}
