package attack

import (
	"context"
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Detached by force or not, the default route goes back to whom it was taken from.
func TestDetachForceGivesTheDefaultRouteBack(t *testing.T) {
	n := newNode(t)
	a := n.Run(t, "a", "data")
	testnode.Exec(t, a, "ip", "route", "add", "default", "via", "10.12.0.1", "dev", "net1")
	gw := []netip.Addr{netip.MustParseAddr("10.13.0.1")}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control", DefaultRoute: &gw}); err != nil {
		t.Fatal(err)
	}
	if out, err := n.patchctl("detach", "pod/a", "--interface", "net2", "--force"); err != nil {
		t.Fatal(out, err)
	}
	if r := testnode.Exec(t, a, "ip", "route", "show", "default"); !strings.Contains(r, "via 10.12.0.1") {
		t.Errorf("the pod has no default route any more: %q", r)
	}
}

// A call that waited while the pod's DEL failed must not bring the pod back.
func TestAnAttachBehindAFailingDELIsRefused(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	a := n.Run(t, "a", "good")
	n.Run(t, "b", "good")
	n.set("slowdel")
	n.set("faildel")
	ended, attached := make(chan error, 1), make(chan error, 1)
	go func() { ended <- n.Runtime.Del(context.Background(), a) }()
	testnode.Eventually(t, "the DEL is under way", func() bool { return strings.Contains(n.calls(), "DEL good") })
	go func() {
		_, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "data", Interface: "hot0"})
		attached <- err
	}()
	// The attach has found the pod and waits for the DEL by the time that a later one, of another pod, is done.
	n.AwaitCalls(t, 2)
	if _, err := n.Client.Attach(context.Background(), "default", "b", client.Request{Network: "data"}); err != nil {
		t.Error(err)
	}
	n.unset("slowdel")
	if err := <-ended; err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	if err := <-attached; err == nil {
		t.Error("an interface was attached to a pod that ends")
	}
	if v := n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/"); !strings.Contains(v, `"ending":true`) {
		t.Error("the record does not say any more that the pod ends")
	}
	if v := n.etcdctl("get", "/patchbay/v1/pods/default/a"); v != "" {
		t.Errorf("the pod's name leads to the sandbox that ended: %s", v)
	}
	n.unset("faildel")
}

// What is removed of an ended pod is not the interface of the pod that has its name now.
func TestAWatchDoesNotTakeALeftoverForTheNewPodsInterface(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	n.Run(t, "a", "good")
	n.set("faildel")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "a", "data")
	events := make(chan string, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Client.Watch(ctx, client.Filter{}, func(e client.Event) error {
			events <- e.Type + " " + e.Attachment.Pod + " " + e.Attachment.Interface + " " + e.Attachment.Network
			return nil
		})
	}()
	<-events // what there is
	if out, err := n.patchctl("leftovers", "rm", "--all"); err != nil {
		t.Error(out, err)
	}
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control"}); err != nil {
		t.Error(err)
	}
	if e := <-events; strings.HasPrefix(e, "DELETED a net1") {
		t.Errorf("the running pod's interface is told to be gone: %s", e)
	}
	cancel()
	<-done
	n.unset("faildel")
}

// A plugin that had made its interface when patchbayd was killed and then refuses its DEL: what it made
// stays, and something must name it.
func TestWhatAPluginMadeBeforeACrashIsNotForgotten(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	s := n.pod("a", "chain")
	n.Daemon.Kill()
	n.Start(t, "PATCHBAY_FAILPOINTS=add-made=kill") // every plugin has answered its ADD with success
	if _, err := n.Runtime.Add(context.Background(), s); err == nil {
		t.Fatal("it was not killed")
	}
	<-n.Daemon.Done()
	testnode.Exec(t, s, "ip", "link", "show", "net1")
	n.set("refusedel")
	n.Start(t)
	claims, left := n.claims("10.80.0.0-16"), n.leftovers()
	records := n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/sandboxes/")
	link, _ := exec.Command("ip", "netns", "exec", "a", "ip", "-br", "addr", "show", "net1").Output()
	if ok, _ := n.healthy("leftovers"); ok && strings.TrimSpace(records) == "" && (len(claims) > 0 || len(link) > 0) {
		t.Errorf("no record and no leftover names what is there: claims %+v, link %q, leftovers %+v", claims, link, left)
	}
	n.unset("refusedel")
	if err := n.Runtime.Del(context.Background(), s); err != nil {
		t.Error(err)
	}
	if c := n.claims("10.80.0.0-16"); len(c) > 0 {
		t.Errorf("the runtime's DEL was answered with success, and the address is lost for ever: %+v", c)
	}
}

// A plugin that took an address, failed, and refuses its DEL.
func TestAnAddressThatAFailedPluginTookIsFreedOrNamed(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.nad("taker", `{"cniVersion": "1.0.0", "name": "taker", "type": "taker",
 "ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`)
	n.set("refusedel")
	if _, err := n.TryRun("a", "taker"); err == nil {
		t.Fatal("it was accepted")
	}
	if c := n.claims("10.82.0.0-16"); len(c) > 0 {
		if ok, _ := n.healthy("leftovers"); ok && len(n.leftovers()) == 0 {
			t.Errorf("nothing names %+v, and nothing frees it", c)
		}
	}
	n.unset("refusedel")
}

// An ADD is repeated for a running pod, one of whose hot-attached interfaces can't be detached.
func TestAnADDRepeatedDoesNotUnmakeARunningPod(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	a := n.Run(t, "a", "data")
	ctx := context.Background()
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "chain", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	defer n.unset("faildel")
	if err := n.Client.Detach(ctx, "default", "a", "hot0"); err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	before := ifindex(t, a, "net1")
	if _, err := n.Runtime.Add(ctx, a); err != nil {
		t.Errorf("ADD: %v", err)
	}
	out, err := exec.Command("ip", "netns", "exec", filepath.Base(a.Netns), "cat", "/sys/class/net/net1/ifindex").CombinedOutput()
	if strings.TrimSpace(string(out)) != before {
		t.Errorf("net1 was interface %s, and is %s %v", before, out, err)
	}
}

// What was given up of an interface must not vanish when the same interface is made again.
func TestAnInterfaceMadeAgainKeepsWhatWasGivenUp(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	ns := testnode.Netns(t, "direct")
	conf := `{"cniVersion": "1.0.0", "name": "direct", "type": "patchbay-ovs", "socket": "` + n.CNI + `", "network": "data", "ipam": {"type": "good"}}`
	call := func(command string) (string, error) {
		cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay-ovs"))
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=direct", "CNI_NETNS=" + ns, "CNI_IFNAME=net1", "CNI_PATH=" + testnode.Bin()}
		cmd.Stdin = strings.NewReader(conf)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := call("ADD"); err != nil {
		t.Fatal(out, err)
	}
	n.set("faildel")
	if out, err := call("DEL"); err != nil { // given up at once
		t.Fatal(out, err)
	}
	if l := n.leftovers(); len(l) != 1 {
		t.Fatalf("%+v", l)
	}
	out, err := call("ADD")
	if err == nil && len(n.leftovers()) == 0 {
		t.Errorf("what was given up is forgotten, never unmade: %s\n%s", out, n.calls())
	}
	n.unset("faildel")
}

// Removing what was given up removes all of it.
func TestALeftoverThatIsRemovedLeavesNoPort(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	n.Run(t, "a", "headed")
	n.set("faildel")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if out, err := n.patchctl("leftovers", "rm", "--all"); err != nil {
		t.Error(out, err)
	}
	if l := n.leftovers(); len(l) > 0 {
		t.Errorf("there is a new one: %+v", l)
	}
	n.unset("faildel")
}

// Until it is given up, too, a person can discard what can't be unmade of a pod that ends.
func TestWhatFailsOfAnEndingPodCanBeDiscarded(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	a := n.Run(t, "a", "good")
	n.set("faildel")
	defer n.unset("faildel")
	if err := n.Runtime.Del(context.Background(), a); err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	out1, err1 := n.patchctl("detach", "pod/a", "--interface", "net1", "--force")
	out2, err2 := n.patchctl("leftovers", "rm", "attachment/"+a.ContainerID+"/net1")
	if err1 != nil && err2 != nil {
		t.Errorf("for five minutes nothing discards it: %s%s", out1, out2)
	}
}

// An attachment that was interrupted under the release before leaves no sandbox without interfaces.
func TestAnInterruptedADDOfTheReleaseBeforeLeavesNoSandbox(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	s := n.pod("a", "data")
	n.Daemon.Kill()
	n.Start(t, "PATCHBAY_FAILPOINTS=add-made=kill")
	if _, err := n.Runtime.Add(context.Background(), s); err == nil {
		t.Fatal("it was not killed")
	}
	<-n.Daemon.Done()
	key := "/patchbay/v1/sandboxes/n1/a"
	var record map[string]any
	if err := json.Unmarshal([]byte(n.etcdctl("get", "--print-value-only", key)), &record); err != nil {
		t.Fatal(err)
	}
	delete(record, "ending") // the release before had no such field
	b, _ := json.Marshal(record)
	n.etcdctl("put", key, string(b))
	n.etcdctl("put", "/patchbay/v1/pods/default/a", `{"node":"n1","containerID":"a"}`)
	n.Start(t)
	l, err := n.Client.Sandboxes(context.Background())
	if err != nil || len(l) > 0 {
		t.Errorf("a pod that was never answered for is shown as running: %+v, %v", l, err)
	}
}
