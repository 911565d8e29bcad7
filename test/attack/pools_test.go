package attack

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func shared(name, network, more string) string {
	return `{"cniVersion": "1.0.0", "name": "` + name + `", "type": "bridge", "bridge": "sbr0",
 "ipam": {"type": "patchbay-ipam", "pool": "` + name + `", "network": "` + network + `", "subnetLen": 24, "cooldown": "0s"` + more + `}}`
}

// A pod ends with the configuration that it began with, whatever its pool has become since.
func TestADELWorksWhenThePoolMayOverlapByNow(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.nad("one", shared("one", "10.90.0.0/16", ""))
	n.Run(t, "old", "one")
	n.nad("one", shared("one", "10.90.0.0/16", `, "overlap": "allow"`))
	n.nad("two", shared("two", "10.90.0.0/16", `, "overlap": "allow"`))
	testnode.Eventually(t, "the networks may overlap", func() bool {
		if _, err := n.TryRun("x", "one,two"); err != nil {
			return false
		}
		return n.Remove("x") == nil
	})
	if err := n.Remove("old"); err != nil {
		t.Errorf("the old pod can't end: %v", err)
	}
}

// What ends takes no part in what a pool is.
func TestADELDoesNotForbidOverlapping(t *testing.T) {
	n := newNode(t)
	n.nad("one", shared("one", "10.91.0.0/16", ""))
	n.Run(t, "old", "one")
	n.nad("one", shared("one", "10.91.0.0/16", `, "overlap": "allow"`))
	testnode.Eventually(t, "the pool may overlap", func() bool {
		n.Run(t, "new", "one")
		if strings.Contains(n.etcdctl("get", "/patchbay/v1/ipam/one/spec"), "allow") {
			return true
		}
		_ = n.Remove("new")
		return false
	})
	if err := n.Remove("old"); err != nil {
		t.Fatal(err)
	}
	n.nad("two", shared("two", "10.91.0.0/16", `, "overlap": "allow"`))
	testnode.Eventually(t, "network two is known", func() bool {
		_, err := n.patchctl("get", "networks")
		return err == nil
	})
	if _, err := n.TryRun("b", "two"); err != nil {
		t.Errorf("both allow it: %v", err)
	} else {
		_ = n.Remove("b")
	}
}

// The refusal's own advice must work: a network that nobody uses any more must not hold its addresses for
// ever.
func TestAPoolWithoutNetworkAndClaimsGivesWay(t *testing.T) {
	n := newNode(t)
	n.nad("wide", shared("wide", "10.92.0.0/16", ""))
	n.Run(t, "a", "wide")
	const rm = "patchctl ipam rm wide"
	if out, err := n.patchctl("ipam", "rm", "wide"); err == nil || !strings.Contains(out, "10.92.0.2 by pod default/a net1") {
		t.Errorf("a pool in use is removed: %s", out)
	}
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.nad("wide", shared("narrow", "10.92.0.0/17", "")) // corrected; nothing is left of the first
	var err error
	testnode.Eventually(t, "the new network is known", func() bool {
		if _, err = n.TryRun("a", "wide"); err == nil {
			return n.Remove("a") != nil // it was the old one still
		}
		return true
	})
	if err == nil || !strings.Contains(err.Error(), rm) {
		t.Fatalf("the refusal names no way out: %v", err)
	}
	if out, err := n.patchctl(strings.Fields(rm)[1:]...); err != nil {
		t.Fatal(out)
	}
	n.Run(t, "a", "wide")
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	if out, err := n.patchctl("ipam", "rm", "wide"); err == nil || !strings.Contains(out, "pool wide: there is no pool of that name") {
		t.Errorf("removed twice: %s", out)
	}
	if log := n.LogTail(); !strings.Contains(log, `verb="remove pool wide"`) {
		t.Errorf("no audit line:\n%s", log)
	}
}

// Pools that a former release let overlap are in etcd.
func TestPoolsThatOverlapAlreadyAreToldOf(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"one", "two"} {
		n.nad(name, shared(name, "10.93.0.0/16", ""))
		n.etcdctl("put", "/patchbay/v1/ipam/"+name+"/spec", `{"mode":"node","networks":[{"network":"10.93.0.0/16","subnetLen":24,"subnetMin":"10.93.0.0","subnetMax":"10.93.255.0"}]}`)
	}
	a, errA := n.TryRun("a", "one")
	b, errB := n.TryRun("b", "two")
	if errA != nil || errB != nil {
		return // refused: well
	}
	t.Cleanup(func() { _, _ = n.Remove("a"), n.Remove("b") })
	findings, _ := n.patchctl("doctor")
	addrs := testnode.Exec(t, a, "ip", "-br", "-4", "addr", "show", "net1") + testnode.Exec(t, b, "ip", "-br", "-4", "addr", "show", "net1")
	if strings.Count(addrs, "10.93.0.2/24") == 2 && !strings.Contains(findings, "overlap") {
		t.Errorf("an address was given twice, and doctor is silent:\n%s%s", addrs, findings)
	}
}

func TestNetworksOfOnePoolThatOverlapAreRefusedAsSuch(t *testing.T) {
	n := newNode(t)
	n.nad("twice", `{"cniVersion": "1.1.0", "name": "twice", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "networks": ["10.94.0.0/16", "10.94.0.0/17"], "subnetLen": 24}}`)
	_, err := n.TryRun("a", "twice")
	if err == nil {
		_ = n.Remove("a")
	}
	if err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("not refused as overlapping: %v", err)
	}
}

// An "ipam" object that no pod could begin with must not keep one from ending.
func TestADELNeedsNoValidPool(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	ns := testnode.Netns(t, "alone")
	plugin := func(command, ipam string) error {
		cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay-ipam"))
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=alone", "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=/x"}
		cmd.Stdin = strings.NewReader(`{"cniVersion": "1.0.0", "name": "x", "type": "bridge", "socket": "` + n.CNI + `", "prevResult": {"cniVersion": "1.0.0"}, "ipam": ` + ipam + `}`)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	const good = `{"type": "patchbay-ipam", "pool": "lab", "network": "10.95.0.0/16", "subnetLen": 24}`
	for _, now := range []string{good,
		`{"type": "patchbay-ipam", "pool": "lab", "network": "10.96.0.0/16", "subnetLen": 24}`,
		`{"type": "patchbay-ipam", "pool": "lab", "network": "10.95.0.0/16", "subnetLen": "24"}`,
		`{"type": "patchbay-ipam", "pool": "lab"}`,
		`{"type": "patchbay-ipam"}`,
	} {
		if err := plugin("ADD", good); err != nil {
			t.Fatal(err)
		}
		if err := plugin("CHECK", now); err != nil && now != `{"type": "patchbay-ipam"}` {
			t.Errorf("CHECK by %s: %v", now, err)
		}
		if err := plugin("DEL", now); err != nil {
			t.Errorf("DEL by %s: %v", now, err)
		}
		if left := n.claims("lab"); len(left) > 0 {
			t.Errorf("DEL by %s leaves %+v", now, left)
		}
	}
	if err := plugin("DEL", `{"type": "patchbay-ipam", "network": "10.97.0.0/16", "subnetLen": 24}`); err != nil {
		t.Error(err)
	}
	if pools := n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/10.97"); strings.TrimSpace(pools) != "" {
		t.Errorf("a DEL defined %s", pools)
	}
}

// A record that can't be read is somebody's, and costs the others nothing.
func TestDamagedPoolsAreToldOfAndHarmNobody(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data") // 10.12.0.2
	const key, value = "/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.0.0/24/10.12.0.3", `{"node":"n1","containerID":"gone","ifna`
	n.Daemon.Stop()
	n.etcdctl("put", key, value)
	n.etcdctl("put", "/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.0.0/24/ten", `{}`)
	n.etcdctl("put", "/patchbay/v1/ipam/torn/spec", `{"mode":"no`)
	n.Start(t)
	b := n.Run(t, "b", "data")
	if out := testnode.Exec(t, b, "ip", "-br", "addr", "show", "net1"); !strings.Contains(out, "10.12.0.4/") {
		t.Errorf("not the next free address: %s", out)
	}
	_, findings := n.healthy("pools")
	for _, want := range []string{key, "/10.12.0.0/24/ten", "/ipam/torn/spec", "patchctl ipam rm torn"} {
		if !strings.Contains(findings, want) {
			t.Errorf("doctor does not tell of %s: %s", want, findings)
		}
	}
	if out, err := n.patchctl("get", "pools", "-o", "wide"); err != nil || !strings.Contains(out, "torn") {
		t.Errorf("get pools: %s", out)
	}
	if out, err := n.patchctl("ipam", "show", "10.12.0.3"); err != nil || !strings.Contains(out, "10.12.0.3") {
		t.Errorf("ipam show: %s", out)
	}
	if out, err := n.patchctl("ipam", "release", "10.12.0.0-16", "10.12.0.3"); err == nil || !strings.Contains(out, "can't be read") {
		t.Errorf("ipam release: %s", out)
	}
	n.nad("other", shared("other", "10.98.0.0/16", ""))
	testnode.Eventually(t, "the new network is refused", func() bool {
		_, err := n.TryRun("c", "other")
		return err != nil && strings.Contains(err.Error(), "/ipam/torn/spec") && strings.Contains(err.Error(), "patchctl ipam rm torn")
	})
	if out, err := n.patchctl("ipam", "rm", "torn"); err != nil {
		t.Error(out)
	}
	n.Run(t, "c", "other")
	for _, pod := range []string{"a", "b", "c"} {
		if err := n.Remove(pod); err != nil {
			t.Error(err)
		}
	}
	if have := n.etcdctl("get", "--print-value-only", key); strings.TrimSpace(have) != value {
		t.Errorf("the damaged claim is now %q", have)
	}
}

// The same addresses, written as IPv6 ones.
func TestAPoolOfMappedAddressesOverlapsTheIPv4Pool(t *testing.T) {
	n := newNode(t)
	n.nad("mapped", `{"cniVersion": "1.1.0", "name": "mapped", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "pool": "mapped", "network": "::ffff:10.12.0.0/112", "subnetLen": 120, "cooldown": "0s"}}`)
	n.Run(t, "a", "data")
	_, err := n.TryRun("b", "mapped")
	if err == nil || !strings.Contains(err.Error(), "write 10.12.0.0/16") {
		t.Errorf("one address, two pods: %v", err)
	}
}

// More claims than one answer may have: it says that it is cut, and how to get the rest, which patchctl does.
func TestAnAnswerHasSoManyClaimsAtMost(t *testing.T) {
	n := newNode(t)
	n.nad("wide", `{"cniVersion": "1.1.0", "name": "wide", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.128.0.0/12", "subnetLen": 24}}`)
	n.Run(t, "a", "wide,headed")
	n.claimElsewhere(130, 110)
	n.etcdctl("put", "/patchbay/v1/ipam/10.128.0.0-12/ips/10.140.0.9", `{"node":"before","containerID":"x","ifname":"net1"}`) // the release before has it
	ask := func(query string) (pools []client.Pool) {
		t.Helper()
		if err := json.Unmarshal([]byte(testnode.Sh(t, "curl", "-sS", "--unix-socket", n.API, "http://patchbay/v1/pools"+query)), &pools); err != nil {
			t.Fatal(err)
		}
		return pools
	}
	claims, cut := 0, ""
	for _, p := range ask("") {
		if claims += len(p.Claims); p.Continue != "" {
			cut = "?pool=" + p.Name + "&continue=" + p.Continue
		}
	}
	if claims != 10_000 || cut == "" {
		t.Errorf("%d claims in one answer, the rest by %q", claims, cut)
	}
	if rest := ask(cut); len(rest) != 1 || len(rest[0].Claims) == 0 || rest[0].Continue != "" {
		t.Errorf("the rest: %.300v", rest)
	}
	seen := map[string]bool{}
	for _, c := range n.claims("10.128.0.0-12") {
		seen[c.IP] = true
	}
	if all := n.claims("10.128.0.0-12"); len(all) != 130*110+2 || len(seen) != len(all) || !seen["10.140.0.9"] {
		t.Errorf("%d claims of %d addresses", len(all), len(seen))
	}
	if own := n.claims("10.81.0.0-16"); len(own) != 1 {
		t.Errorf("another pool has %v", own)
	}
	if out, err := n.patchctl("ipam", "show", "10.129.129.111"); err != nil || !strings.Contains(out, "other-129") {
		t.Errorf("%v: %s", err, out)
	}
}

// Records of the pools can't be read: the metric has as many as doctor names.
func TestFaultsOfPoolsAreInTheMetrics(t *testing.T) {
	n := newNode(t, "gc.interval=1s")
	n.Run(t, "a", "data,headed")
	faults := func(want int) {
		t.Helper()
		testnode.Eventually(t, fmt.Sprint("patchbay_pool_faults is ", want), func() bool {
			return strings.Contains(n.Metrics(t), fmt.Sprintf("\npatchbay_pool_faults %d\n", want))
		})
		if ok, why := n.healthy("pools"); ok != (want == 0) {
			t.Errorf("doctor: %s", why)
		}
	}
	faults(0)
	key := strings.Fields(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/10.81.0.0-16/ips/10.81."))[0]
	claim, spec := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key)), "/patchbay/v1/ipam/odd/spec"
	n.etcdctl("put", key, `{"node`)
	n.etcdctl("put", spec, "{")
	faults(2)
	n.etcdctl("put", key, claim)
	n.etcdctl("del", spec)
	faults(0)
}
