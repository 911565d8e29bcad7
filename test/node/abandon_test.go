package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// stubborn is a node whose plugin good refuses every DEL as long as broken.
type stubborn struct{ *recorded }

// keeper is the plugin bridge, but that it keeps its interface and its address as long as DELs fail.
const keeper = `#!/bin/sh
[ "$CNI_COMMAND" = DEL ] && [ -e LOG.faildel ] && { echo '{"code":11,"msg":"not found"}'; exit 1; }
for dir in $(echo "$CNI_PATH" | tr : ' '); do [ -x "$dir/bridge" ] && exec "$dir/bridge"; done
`

func newStubborn(t *testing.T, set ...string) *stubborn {
	s := &stubborn{newRecorded(t, set...)}
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.log), "keeper"), []byte(strings.ReplaceAll(keeper, "LOG", s.log)), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Write(t, "addressed.yaml", nad("addressed", `{"cniVersion": "1.0.0", "name": "addressed", "plugins": [{"type": "keeper", "bridge": "sbr0",
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}, {"type": "good"}]}`))
	s.Write(t, "plain.yaml", nad("plain", `{"cniVersion": "1.0.0", "name": "plain", "plugins": [{"type": "bridge", "bridge": "sbr0",
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}`))
	s.breakIt(t)
	return s
}

func (s *stubborn) breakIt(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(s.log+".faildel", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *stubborn) mendIt(t *testing.T) {
	t.Helper()
	if err := os.Remove(s.log + ".faildel"); err != nil {
		t.Fatal(err)
	}
}

func (s *stubborn) leftovers(t *testing.T) []client.Leftover {
	t.Helper()
	l, err := s.Client.Leftovers(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// finding returns what doctor says of a check that must be bad.
func (s *stubborn) finding(t *testing.T, check string) string {
	t.Helper()
	findings, err := s.Client.Doctor(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Check == check && !f.OK {
			return f.Message
		}
	}
	t.Errorf("doctor finds %s good: %+v", check, findings)
	return ""
}

func (s *stubborn) patchctl(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(testnode.Bin(), "patchctl"), append([]string{"--server", "unix://" + s.API}, args...)...).CombinedOutput()
	return string(out), err
}

func (s *stubborn) metric(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(testnode.Sh(t, "curl", "-sS", "--unix-socket", s.API, "http://patchbay/metrics")) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Errorf("no metric %s", name)
	return ""
}

func lacks(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q lacks %q", text, w)
		}
	}
}

// A plugin that is gone, or whose server is, must not hold a pod in Terminating for ever.
func TestADELThatNeverSucceedsIsGivenUp(t *testing.T) {
	n := newStubborn(t, "gc.giveUp={attempts: 3, after: 1s}", "gc.interval=1h")
	a := n.Run(t, "a", "data,good,addressed")
	if err := n.Runtime.Del(context.Background(), a); err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	// What could be removed is gone, with its address; the rest is shown as what it is.
	out, err := n.patchctl("describe", "pod/a")
	if err != nil || strings.Contains(out, "Ready") || strings.Contains(out, "default/data") {
		t.Errorf("%v\n%s", err, out)
	}
	lacks(t, out, "Phase:    Failed", "plugin good", "default/addressed")
	lacks(t, n.finding(t, "detach"), "default/a net2: DEL failed 1 times since", "plugin good", "given up after 3 attempts in 1s")
	if v := n.metric(t, "patchbay_attachments_failing"); v != "2" {
		t.Errorf("%s attachments are failing", v)
	}
	testnode.Eventually(t, "the pod ends", func() bool { return n.Remove("a") == nil })

	l := n.leftovers(t)
	if len(l) != 2 || l[0].Kind != "attachment" || l[0].ID != a.ContainerID+"/net2" || l[0].Pod != "default/a" || !strings.Contains(l[0].Message, "plugin good") {
		t.Errorf("%+v", l)
	}
	lacks(t, n.finding(t, "leftovers"), "default/a net2: DEL failed", "patchctl leftovers")
	if v := n.metric(t, "patchbay_attachments_abandoned"); v != "2" {
		t.Errorf("%s attachments are abandoned", v)
	}
	if out, err := n.patchctl("get", "attachments", "-A"); err != nil || strings.Contains(out, "net2") {
		t.Errorf("%v\n%s", err, out)
	}
	// The address keeps its owner, over a restart too, and the pod's name is free for the next one.
	n.Daemon.Stop()
	n.Start(t)
	if _, err := n.TryRun("b", `[{"name": "plain", "ips": ["10.80.0.2"]}]`); err == nil || !strings.Contains(err.Error(), "taken by pod default/a net3") {
		t.Errorf("an address that may be in use was given again: %v", err)
	}
	n.Run(t, "a", "data")
	if made, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err != nil || made.Interface != "net2" {
		t.Errorf("%+v, %v", made, err)
	}

	out, err = n.patchctl("leftovers")
	lacks(t, out, "attachment/"+a.ContainerID+"/net2", "attachment/"+a.ContainerID+"/net3", "default/a")
	if err != nil {
		t.Error(err)
	}
	if out, err := n.patchctl("leftovers", "rm", "attachment/"+a.ContainerID+"/net9"); err == nil || !strings.Contains(out, "no such leftover") {
		t.Error(out, err)
	}
	if out, err := n.patchctl("leftovers", "rm", "--all"); err != nil {
		t.Error(out, err)
	}
	if l := n.leftovers(t); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	n.AssertClean(t)
	lacks(t, n.LogTail(), `msg=audit node=n1 verb="remove leftover attachment/`+a.ContainerID+`/net3"`, "discarded, as it can't be unmade: net3: plugin good")
	n.mendIt(t)
	n.Run(t, "b", `[{"name": "addressed", "ips": ["10.80.0.2"]}]`)
}

func TestADELThatFailsForAWhileIsRepeatedByGC(t *testing.T) {
	n := newStubborn(t, "gc.interval=1s")
	a := n.Run(t, "a", "good,data")
	if err := n.Runtime.Del(context.Background(), a); err == nil {
		t.Fatal("a DEL that fails must say so")
	}
	n.mendIt(t)
	testnode.Eventually(t, "GC has finished what the DEL began", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 0
	})
	n.AssertEmpty(t)
}

func TestWhatWasGivenUpIsTriedAgainAtAStart(t *testing.T) {
	n := newStubborn(t, "gc.giveUp={attempts: 1, after: 0s}")
	n.Run(t, "a", "good")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if l := n.leftovers(t); len(l) != 1 {
		t.Fatalf("%+v", l)
	}
	n.mendIt(t)
	n.Daemon.Stop()
	n.Start(t)
	testnode.Eventually(t, "it is removed", func() bool { return len(n.leftovers(t)) == 0 })
	n.AssertEmpty(t)
}

func TestAFailedAddWhoseDelIsRefusedForGoodDoesNotHoldThePod(t *testing.T) {
	n := newStubborn(t, "gc.giveUp={attempts: 2, after: 0s}", "gc.interval=1h")
	if _, err := n.TryRun("a", "good,wrong"); err == nil {
		t.Fatal("it was accepted")
	}
	testnode.Eventually(t, "its DEL is answered", func() bool {
		_, err := n.Runtime.Find("default", "a")
		return err != nil || n.Remove("a") == nil
	})
	if l := n.leftovers(t); len(l) != 2 {
		t.Errorf("%+v", l)
	}
	n.mendIt(t)
	if out, err := n.patchctl("leftovers", "rm", "--all"); err != nil {
		t.Error(out, err)
	}
	n.AssertEmpty(t)
}

// A live pod: with --force its interface is taken out of it, as its address will have another owner.
func TestDetachForceDiscardsWhatCantBeUnmade(t *testing.T) {
	n := newStubborn(t, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	a := n.Run(t, "a", "data,addressed")
	for range 2 { // given up or not, the interface is still there
		out, err := n.patchctl("detach", "pod/a", "--interface", "net2")
		if err == nil {
			t.Fatal("a DEL that fails must say so")
		}
		lacks(t, out, "plugin good", "--force")
	}
	testnode.Exec(t, a, "ip", "link", "show", "net2")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control", Interface: "net2"}); err == nil {
		t.Error("an interface was attached over one that is there")
	}
	if out, err := n.patchctl("detach", "pod/a", "--interface", "net2", "--force"); err != nil {
		t.Fatal(out, err)
	}
	if out := testnode.Exec(t, a, "ip", "-br", "link"); strings.Contains(out, "net2") {
		t.Errorf("the interface is still in the pod: %s", out)
	}
	lacks(t, n.LogTail(), `verb="detach --force"`, "discarded, as it can't be unmade: net2: plugin good")
	n.AssertClean(t)
	n.mendIt(t)
	n.Run(t, "b", `[{"name": "addressed", "ips": ["10.80.0.2"]}]`)
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	if out, err := n.patchctl("detach", "pod/b", "--interface", "net1", "--force"); err != nil || !strings.Contains(out, "detached") { // nothing is in the way
		t.Error(out, err)
	}
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// The node's disk has lost everything. Running pods keep their interfaces, at the next start and the one after.
func TestLostRecordsCostNoPodItsInterfaces(t *testing.T) {
	n := testnode.Standard(t)
	a, b := n.Run(t, "a", "data"), n.Run(t, "b", "data")
	ports := fmt.Sprint(n.OVS.Ports(t))
	n.Daemon.Stop()
	if err := os.RemoveAll(n.Dir + "/state"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n.Start(t)
		testnode.Exec(t, a, "ping", "-c1", "-W10", "10.12.0.3")
		if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
			t.Errorf("ports %s, there were %s", have, ports)
		}
		findings, err := n.Client.Doctor(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(findings)
		lacks(t, text, "etcd did not know this node", "are kept")
		if strings.Contains(text, "restart") {
			t.Errorf("doctor advises a restart: %s", text)
		}
		if l, err := n.Client.Leftovers(context.Background()); err != nil || len(l) != 2 {
			t.Errorf("%+v, %v", l, err)
		}
		n.Daemon.Stop()
	}
	n.Start(t)
	if err := n.Remove("a"); err != nil { // its DEL frees what bears its name
		t.Error(err)
	}
	if have := n.OVS.Ports(t); len(have) != 1 {
		t.Errorf("ports after the DEL: %v", have)
	}
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	_ = b
	n.AssertEmpty(t)
	// The records are whole again: what has none is left by a crash.
	n.Daemon.Stop()
	n.Start(t)
	testnode.Sh(t, "ip", "link", "add", "pb0123456789ab", "group", fmt.Sprint(0x7062), "type", "veth", "peer", "name", "peer0")
	n.Daemon.Stop()
	n.Start(t)
	n.AssertEmpty(t)
}
