package attack

// The attempts that failed: these are green.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Killed at every step of DELs and ADDs that fail, of a live pod and of one that ends.
func TestKilledWhileDELsFail(t *testing.T) {
	n := newNode(t)
	for i, point := range strings.Fields("del-begin ovs-port-deleted ovs-link-deleted del-unmade del-recorded undo-begin undo-unmade recover-sandbox recover-leftovers add-recorded exec-plugin-ran") {
		t.Run(point, func(t *testing.T) {
			id := fmt.Sprintf("k%d", i)
			s := n.pod(id, "data,headed,chain,good")
			if _, err := n.Runtime.Add(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			n.set("faildel")
			n.Daemon.Kill()
			n.Launch(t, "PATCHBAY_FAILPOINTS="+point+"=kill")
			_ = n.Alive(t)
			_ = n.Client.Detach(context.Background(), "default", id, "net2")
			_, _ = n.patchctl("detach", "pod/"+id, "--interface", "net3", "--force")
			_, _ = n.Client.Attach(context.Background(), "default", id, client.Request{Network: "fails"})
			_ = n.Runtime.Del(context.Background(), s)
			n.Daemon.Kill() // unless the point was met
			n.Start(t)
			n.unset("faildel")
			if err := n.Runtime.Del(context.Background(), s); err != nil {
				t.Error(err)
			}
			testnode.Eventually(t, "all is gone", func() bool {
				l, err := n.Client.Sandboxes(context.Background())
				return err == nil && len(l) == 0
			})
			n.Daemon.Stop()
			n.Start(t) // which works off the queue
			n.AssertEmpty(t)
		})
		if t.Failed() {
			return
		}
	}
}

// Everybody at once, with a plugin that fails now and then, and a daemon that is killed now and then.
func TestEverybodyAtOnce(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 2, after: 0s}")
	ctx := context.Background()
	lived := make(chan struct{}) // a pod has come and gone
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			for k := range 16 {
				s := n.pod(fmt.Sprintf("p%dx%d", i, k), "data,headed,chain")
				s.Pod = fmt.Sprintf("p%d", i) // the name is used again at once
				_, err := n.Runtime.Add(ctx, s)
				if err == nil {
					var in sync.WaitGroup
					in.Go(func() { _ = n.Client.Detach(ctx, "default", s.Pod, "net2") })
					in.Go(func() { _, _ = n.patchctl("detach", "pod/"+s.Pod, "--interface", "net3", "--force") })
					in.Go(func() { _, _ = n.Client.Attach(ctx, "default", s.Pod, client.Request{Network: "control"}) })
					if rand.IntN(2) == 0 {
						in.Wait()
					}
					_ = n.Runtime.Del(ctx, s)
					in.Wait()
				}
				for range 3 {
					if n.Runtime.Del(ctx, s) == nil {
						break
					}
				}
				lived <- struct{}{}
			}
		})
	}
	go func() {
		wg.Wait()
		close(lived)
	}()
	for pods := 1; ; pods++ { // each falls into the middle of what the other workers do
		if _, more := <-lived; !more {
			break
		}
		switch {
		case pods%12 == 0:
			n.Daemon.Kill()
			n.Start(t)
		case pods%4 == 1:
			n.set("faildel")
		case pods%4 == 3:
			n.unset("faildel")
			_, _ = n.patchctl("leftovers", "rm", "--all")
		}
	}
	n.unset("faildel")
	n.Daemon.Stop()
	n.Start(t)
	testnode.Eventually(t, "all is gone", func() bool {
		l, err := n.Client.Sandboxes(ctx)
		return err == nil && len(l) == 0
	})
	for _, pool := range []string{"10.80.0.0-16", "10.81.0.0-16", "10.12.0.0-16"} {
		if c := n.claims(pool); len(c) > 0 {
			t.Errorf("claims of %s: %+v", pool, c)
		}
	}
	n.AssertEmpty(t)
	if out, _ := exec.Command("grep", "-c", "-e", "DATA RACE", "-e", "^panic", filepath.Join(n.Dir, "patchbayd.log")).Output(); strings.TrimSpace(string(out)) != "0" {
		t.Errorf("races or panics: %s", out)
	}
}

// etcd goes in the middle of a roll-back, a DEL, and a forced detach.
func TestEtcdGoesInTheMiddle(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.Run(t, "live", "data")
	if _, err := n.Client.Attach(ctx, "default", "live", client.Request{Network: "chain", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	a, b := n.Run(t, "a", "chain"), n.pod("b", "good,wrong")
	n.set("slowdel")
	done := make(chan error, 3)
	go func() { done <- n.Runtime.Del(ctx, a) }()
	go func() { _, err := n.Runtime.Add(ctx, b); done <- err }()
	go func() { _, err := n.patchctl("detach", "pod/live", "--interface", "hot0", "--force"); done <- err }()
	testnode.Eventually(t, "three DELs hang", func() bool { return strings.Count(n.calls(), "DEL ") >= 3 })
	n.set("faildel")
	n.etcd.Stop()
	n.unset("slowdel")
	for range 3 {
		<-done
	}
	n.unset("faildel")
	n.etcd.Start(t)
	out, err := n.patchctl("get", "attachments", "-A")
	t.Logf("%s %v", out, err)
	_, _ = n.patchctl("detach", "pod/live", "--interface", "hot0", "--force")
	for _, s := range []string{"live", "a"} {
		if err := n.Remove(s); err != nil {
			t.Error(err)
		}
	}
	if err := n.Runtime.Del(ctx, b); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}

// The machine was restarted with attachments in every state.
func TestARebootWithAttachmentsInEveryState(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 2, after: 0s}", "gc.interval=1h")
	ctx := context.Background()
	ready, failed, abandoned := n.pod("ready", "data,chain"), n.pod("failed", "data,chain"), n.pod("abandoned", "data,chain")
	for _, s := range []*sandbox.Sandbox{ready, failed, abandoned} {
		if _, err := n.Runtime.Add(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	n.set("faildel")
	_ = n.Runtime.Del(ctx, failed)
	_ = n.Runtime.Del(ctx, abandoned)
	_ = n.Runtime.Del(ctx, abandoned)
	n.Daemon.Stop()
	boot := strings.TrimSpace(testnode.Sh(t, "cat", "/proc/sys/kernel/random/boot_id"))
	for _, id := range []string{"ready", "failed", "abandoned"} {
		key := "/patchbay/v1/sandboxes/n1/" + id
		n.etcdctl("put", key, strings.ReplaceAll(strings.TrimSpace(n.etcdctl("get", "--print-value-only", key)), boot, "00000000-0000-0000-0000-000000000000"))
	}
	n.forget() // what it knows of its own records goes with the boot
	n.Start(t)
	n.Daemon.Stop()
	n.unset("faildel")
	n.Start(t)
	for _, id := range []string{"ready", "failed", "abandoned"} {
		s := n.pod(id+"-2", "data")
		s.Pod = id
		if _, err := n.Runtime.Add(ctx, s); err != nil {
			t.Error(err)
		}
		if err := n.Runtime.Del(ctx, s); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}

// Two networks name one pool, and only one says that it may overlap: pods that start together, of both,
// get addresses.
func TestTwoNetworksOfOnePoolDifferInOverlapOnly(t *testing.T) {
	n := newNode(t)
	for name, more := range map[string]string{"one": "", "other": `, "overlap": "allow"`} {
		n.nad(name, `{"cniVersion": "1.1.0", "name": "`+name+`", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "pool": "both", "network": "10.95.0.0/16", "subnetLen": 24`+more+`}}`)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 5 {
				s := n.pod(fmt.Sprintf("q%dx%d", i, k), []string{"one", "other"}[i%2])
				if _, err := n.Runtime.Add(context.Background(), s); err != nil {
					t.Error(err)
				}
				if err := n.Runtime.Del(context.Background(), s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.AssertEmpty(t)
}

// The cluster's own interface is the runtime's, and no caller's of the REST API.
func TestThePodsOwnInterfaceCannotBeDetached(t *testing.T) {
	n := newNode(t, "meta.clusterNetwork=default/data")
	s := n.Run(t, "web", "control")
	for _, args := range [][]string{{}, {"--force"}} {
		out, err := n.patchctl(append([]string{"detach", "pod/web", "--interface", "eth0"}, args...)...)
		if err == nil || !strings.Contains(out, "eth0") || !strings.Contains(out, "default/web") || !strings.Contains(out, "goes with the pod") {
			t.Errorf("%v: %s", args, out)
		}
	}
	n.Check(t, s)
	if out, err := n.patchctl("detach", "pod/web", "--interface", "net1"); err != nil {
		t.Error(out)
	}
	// A runtime may have no meta-plugin.
	config := `{"cniVersion": "1.0.0", "name": "main", "type": "patchbay-ovs", "socket": "` + n.CNI + `", "network": "data"}`
	env := []string{"CNI_CONTAINERID=alone", "CNI_NETNS=" + testnode.Netns(t, "alone"), "CNI_IFNAME=eth0", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=alone"}
	if e := n.shim("patchbay-ovs", config, append(env, "CNI_COMMAND=ADD")...); e != nil {
		t.Fatal(e)
	}
	if out, err := n.patchctl("detach", "pod/alone", "--interface", "eth0"); err == nil || !strings.Contains(out, "goes with the pod") {
		t.Errorf("%v: %s", err, out)
	}
	if e := n.shim("patchbay-ovs", config, append(env, "CNI_COMMAND=DEL")...); e != nil {
		t.Error(e)
	}
}
