package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// loses are the ways in which an etcd loses what a node has written. Each is done while etcd is stopped; backup
// was copied before the last pod came.
var loses = map[string]func(t *testing.T, n *node, backup string){
	"emptied": func(t *testing.T, n *node, _ string) { remove(t, n.etcd.Data()) },
	"restored from a copy of its data": func(t *testing.T, n *node, backup string) {
		remove(t, n.etcd.Data())
		testnode.Sh(t, "cp", "-a", backup+"/data", n.etcd.Data())
	},
	"restored from a snapshot": func(t *testing.T, n *node, backup string) {
		remove(t, n.etcd.Data())
		testnode.Sh(t, "etcdctl", "snapshot", "restore", backup+"/snapshot", "--data-dir", n.etcd.Data(), "--name", "default",
			"--initial-cluster", "default=http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380")
	},
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// emptyEtcd exchanges etcd for an empty one at the same place.
func (n *node) emptyEtcd() {
	n.t.Helper()
	n.etcd.Stop()
	remove(n.t, n.etcd.Data())
	n.etcd.Start(n.t)
}

// decide is what the operator of a node that is suspended says, after which it goes on.
func (n *node) decide(how string) {
	n.t.Helper()
	n.suspended()
	if out, err := n.patchctl("recover", how); err != nil {
		n.t.Fatal(err, out)
	}
	n.resumed()
}

// backup copies what etcd has, in both ways.
func (n *node) backup() string {
	n.t.Helper()
	dir := n.t.TempDir()
	n.etcdctl("snapshot", "save", dir+"/snapshot")
	n.etcd.Stop()
	testnode.Sh(n.t, "cp", "-a", n.etcd.Data(), dir+"/data")
	n.etcd.Start(n.t)
	return dir
}

// addresses are those of a pod, in its namespace.
func addresses(t *testing.T, s *sandbox.Sandbox) string {
	t.Helper()
	var all []string
	for f := range strings.FieldsSeq(testnode.Exec(t, s, "ip", "-o", "-4", "addr", "show")) {
		if strings.Contains(f, "/") && !strings.HasPrefix(f, "127.") {
			all = append(all, f)
		}
	}
	return strings.Join(all, " ")
}

func (n *node) suspended() *client.Recovery {
	n.t.Helper()
	var r *client.Recovery
	testnode.Eventually(n.t, "the node is suspended", func() bool {
		var err error
		r, err = n.Client.Recovery(context.Background())
		return err == nil && r.Suspended
	})
	return r
}

// resumed waits until the daemon has started anew after a decision.
func (n *node) resumed() {
	n.t.Helper()
	testnode.Eventually(n.t, "the node is no longer suspended", func() bool {
		r, err := n.Client.Recovery(context.Background())
		if err != nil || r.Suspended {
			return false
		}
		_, err = n.Client.Version(context.Background())
		return err == nil
	})
}

// An etcd that has lost what the node has written is noticed, at the start and while the daemon runs. Then nothing
// is handed out and nothing removed, and the operator gets it back.
func TestAnEtcdThatLostRecordsIsNoticed(t *testing.T) {
	for how, lose := range loses {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/running=%v", how, running), func(t *testing.T) {
				n := newNode(t)
				first := n.Run(t, "first", "data,headed")
				backup := n.backup()
				second := n.Run(t, "second", "data,chain")
				had, ports := addresses(t, first), fmt.Sprint(n.OVS.Ports(t))
				if !running {
					n.Daemon.Kill()
				}
				n.etcd.Stop()
				lose(t, n, backup)
				n.etcd.Start(t)
				if !running {
					n.Launch(t)
				}
				r := n.suspended()
				if len(r.Pods) != 2 {
					t.Errorf("it knows of %+v", r.Pods)
				}
				_, err := n.TryRun("third", "data")
				if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
					t.Errorf("an ADD while it is suspended: %v", err)
				}
				if err := n.Runtime.Del(context.Background(), second); err != nil {
					t.Errorf("a DEL while it is suspended: %v", err)
				}
				if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
					t.Errorf("ports %s, there were %s", have, ports)
				}
				if ok, why := n.healthy("etcd-identity"); ok || !strings.Contains(why, "patchctl recover") {
					t.Errorf("doctor: %s", why)
				}
				out, err := n.patchctl("recover", "--from-node")
				if err != nil {
					t.Fatal(err, out)
				}
				n.resumed()
				n.AwaitQueue(t) // second is gone now
				for _, pod := range []string{"third", "fourth", "fifth"} {
					s := n.Run(t, pod, "data,headed,chain")
					for ip := range strings.FieldsSeq(addresses(t, s)) {
						if strings.Contains(had, ip) {
							t.Errorf("%s got %s, which first has", pod, ip)
						}
					}
				}
				if have := addresses(t, first); have != had {
					t.Errorf("first has %s, and had %s", have, had)
				}
				n.Check(t, first)
				for _, pod := range []string{"first", "second", "third", "fourth", "fifth"} {
					if err := n.Remove(pod); err != nil {
						t.Error(err)
					}
				}
				n.noPanic()
				n.AssertEmpty(t)
			})
		}
	}
}

// What a daemon has only read, as after an upgrade, is written back as well.
func TestWhatWasReadIsWrittenBack(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "data,headed,chain")
	had := addresses(t, s)
	n.Daemon.Stop()
	remove(t, n.Dir+"/state/mirror")
	remove(t, n.Dir+"/state/etcd.json")
	n.Start(t)
	keys := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/")
	n.emptyEtcd()
	n.decide("--from-node")
	if have := n.etcdctl("get", "--prefix", "/patchbay/v1/ipam/"); have != keys {
		t.Errorf("etcd has\n%s\nand had\n%s", have, keys)
	}
	if have := addresses(t, s); have != had {
		t.Errorf("it has %s, and had %s", have, had)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// What others have by now is not taken from them.
func TestWhatIsAnothersByNowIsNotWrittenBack(t *testing.T) {
	n := newNode(t)
	keeps, loses := n.Run(t, "keeps", "data"), n.Run(t, "loses", "headed")
	ip, _, _ := strings.Cut(strings.Fields(addresses(t, loses))[0], "/")
	lines := strings.Fields(n.etcdctl("get", "--prefix", "--keys-only", "/patchbay/v1/ipam/10.81.0.0-16/subnets/"))
	if len(lines) != 1 {
		t.Fatal(lines)
	}
	n.emptyEtcd()
	n.etcdctl("put", lines[0], `{"node":"other"}`)
	r := n.suspended()
	var refused, free []string
	for _, p := range r.Pods {
		if p.Conflict != "" {
			refused = append(refused, p.Pod+": "+p.Conflict)
		} else {
			free = append(free, p.Pod)
		}
	}
	if len(refused) != 1 || !strings.HasPrefix(refused[0], "loses: ") || !strings.Contains(refused[0], "other") || strings.Join(free, "") != "keeps" {
		t.Errorf("refused %q, free %q", refused, free)
	}
	out, err := n.patchctl("recover", "--from-node")
	if err == nil || !strings.Contains(out, "default/loses") {
		t.Errorf("%v: %s", err, out)
	}
	n.resumed()
	if v := strings.TrimSpace(n.etcdctl("get", "--print-value-only", lines[0])); v != `{"node":"other"}` {
		t.Errorf("the subnet is %s's", v)
	}
	if have, _, _ := strings.Cut(strings.Fields(addresses(t, loses))[0], "/"); have != ip {
		t.Errorf("a running pod has lost its address %s: %s", ip, have)
	}
	n.Check(t, keeps)
	s := n.Run(t, "new", "headed")
	if strings.Contains(addresses(t, s), ip+"/") {
		t.Errorf("%s is given out again", ip)
	}
	for _, pod := range []string{"keeps", "loses", "new"} {
		if err := n.Remove(pod); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}

// An operator may take etcd as it is: what runs goes on, and ends clean.
func TestAnEmptyEtcdIsAccepted(t *testing.T) {
	n := newNode(t)
	a := n.Run(t, "a", "data,headed")
	had := addresses(t, a)
	n.emptyEtcd()
	n.decide("--accept")
	if have := addresses(t, a); have != had {
		t.Errorf("a has %s, and had %s", have, had)
	}
	if ok, why := n.healthy("records"); ok || !strings.Contains(why, "kept") {
		t.Errorf("doctor: %s", why)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.Run(t, "b", "data")
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	n.Daemon.Stop()
	n.Start(t)
	n.AssertEmpty(t)
}

// The etcd that a node has written to comes back: no operator is needed.
func TestTheRightEtcdComesBack(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	n.etcd.Stop()
	aside := n.etcd.Data() + ".aside"
	if err := os.Rename(n.etcd.Data(), aside); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.suspended()
	n.etcd.Stop()
	remove(t, n.etcd.Data())
	if err := os.Rename(aside, n.etcd.Data()); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	n.resumed()
	testnode.Eventually(t, "a pod can be added", func() bool { return n.add(context.Background(), n.pod("b", "data")) == nil })
	if out, err := n.patchctl("recover", "--accept"); err == nil || !strings.Contains(out, "nothing to recover") {
		t.Errorf("%v: %s", err, out)
	}
}

// An operator who names another etcd has decided, unless there is something in the former one.
func TestAnotherEtcdIsTakenWhereItIsNamed(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	n.Daemon.Stop()
	n.emptyEtcd()
	n.Set = append(n.Set, "etcd.endpoints=[http://localhost:2379]")
	n.Launch(t)
	n.decide("--from-node")
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	n.Daemon.Stop()
	n.emptyEtcd()
	n.Set = append(n.Set, "etcd.endpoints=["+n.etcd.Endpoint+"]")
	n.Start(t)
	n.Run(t, "b", "data")
	if err := n.Remove("b"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// An address that a plugin has asked for on behalf of a pod of ours ends with that pod.
func TestAnEndedPodsAddressesKeepNoNodeSuspended(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "chain")
	n.Daemon.Stop()
	testnode.Sh(t, "ip", "netns", "del", filepath.Base(s.Netns))
	n.emptyEtcd()
	n.Set = append(n.Set, "etcd.endpoints=[http://localhost:2379]")
	n.Start(t)
	n.Run(t, "b", "chain")
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
}

// Keys of a newer release are not touched.
func TestKeysOfANewerReleaseAreNotTouched(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "data")
	n.Daemon.Stop()
	n.etcdctl("put", "/patchbay/v1/version", "999")
	n.Launch(t)
	if r := n.suspended(); !strings.Contains(r.Reason, "999") {
		t.Error(r.Reason)
	}
	n.etcdctl("put", "/patchbay/v1/version", "2")
	n.resumed()
	n.Check(t, s)
}

// Whoever can write to etcd can't have a node execute what it likes: a record that the node has not written is
// checked, and one that is refused costs the pod nothing.
func TestAForgedRecordIsNotExecuted(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "good")
	n.Daemon.Stop()
	evil := n.t.TempDir()
	mark := filepath.Join(evil, "mark")
	if err := os.WriteFile(evil+"/evil", []byte("#!/bin/sh\ntouch "+mark+"\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	key := "/patchbay/v1/sandboxes/n1/" + s.ContainerID
	whole := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key))
	var record map[string]any
	if err := json.Unmarshal([]byte(whole), &record); err != nil {
		t.Fatal(err)
	}
	if record["signature"] == nil || record["version"] == nil {
		t.Errorf("the record has no signature or no version: %s", whole)
	}
	for what, change := range map[string]func(){
		"a plugin elsewhere": func() {
			record["cniPath"] = []string{evil}
			config := record["attachments"].([]any)[0].(map[string]any)["spec"].(map[string]any)["config"].(map[string]any)
			config["plugins"] = []any{map[string]any{"type": "evil"}}
		},
		"another namespace's network": func() {
			record["attachments"].([]any)[0].(map[string]any)["spec"].(map[string]any)["network"] = "secret/good"
		},
	} {
		if err := json.Unmarshal([]byte(whole), &record); err != nil {
			t.Fatal(err)
		}
		change()
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		n.etcdctl("put", key, string(b))
		n.asTheReleaseBefore() // which signed nothing, so that it may have written this
		n.Start(t)
		if ok, why := n.healthy("records"); ok {
			t.Errorf("%s: doctor finds nothing (%s)", what, why)
		}
		before := n.calls()
		if err := n.Runtime.Del(context.Background(), s); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Fatalf("%s: it was executed", what)
		}
		if after := n.calls(); what == "another namespace's network" && after != before {
			t.Errorf("%s: called %s", what, after)
		}
		n.Daemon.Stop()
	}
	n.etcdctl("put", key, whole)
	n.Start(t)
	n.Check(t, s)
}
