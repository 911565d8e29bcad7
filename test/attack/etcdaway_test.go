package attack

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// each runs a call for many pods at once, and returns their errors.
func each(pods []*sandbox.Sandbox, call func(context.Context, *sandbox.Sandbox) error) []error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, s := range pods {
		wg.Go(func() { errs[i] = call(context.Background(), s) })
	}
	wg.Wait()
	return errs
}

func (n *node) add(ctx context.Context, s *sandbox.Sandbox) error {
	_, err := n.Runtime.Add(ctx, s)
	return err
}

// quiet waits until no sandbox is left, and fails if anything else is.
func (n *node) quiet() {
	n.t.Helper()
	testnode.Eventually(n.t, "no sandbox is left", func() bool {
		l, err := n.Client.Sandboxes(context.Background())
		if err != nil {
			n.t.Fatal(err)
		}
		return len(l) == 0
	})
	n.AssertEmpty(n.t)
}

func (n *node) many(count int, name, networks string) []*sandbox.Sandbox {
	pods := make([]*sandbox.Sandbox, count)
	for i := range pods {
		pods[i] = n.pod(fmt.Sprintf("%s%d", name, i), networks)
	}
	return pods
}

// While etcd is away nobody can be promised anything, and nobody has to wait for it: an ADD is to be tried
// again, and a DEL is a wish that the daemon remembers.
func TestEtcdIsAwayAndManyPodsComeAndGo(t *testing.T) {
	n := newNode(t)
	old, young := n.many(100, "old", "data"), n.many(100, "young", "data")
	if err := errors.Join(each(old, n.add)...); err != nil {
		t.Fatal(err)
	}
	n.etcd.Stop()
	begin := time.Now()
	for _, err := range each(young, n.add) {
		if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
			t.Errorf("an ADD while etcd is away: %v", err)
		}
	}
	t.Logf("%d ADDs were answered in %s", len(young), time.Since(begin))
	begin = time.Now()
	if err := errors.Join(each(append(young, old...), n.Runtime.Del)...); err != nil {
		t.Errorf("DELs while etcd is away: %v", err)
	}
	t.Logf("%d DELs were answered in %s", len(young)+len(old), time.Since(begin))
	n.etcd.Start(t)
	begin = time.Now()
	n.quiet()
	t.Logf("they were done %s after etcd was back", time.Since(begin))
	if claims := n.claims("10.12.0.0-16"); len(claims) > 0 {
		t.Errorf("%d claims are left", len(claims))
	}
}

// A daemon that starts while etcd is away can't know what there is: it remembers DELs, sends ADDs away, and
// says what it lacks.
func TestTheDaemonStartsWhileEtcdIsAway(t *testing.T) {
	n := newNode(t)
	old := n.pod("old", "data")
	if err := n.add(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	n.etcd.Stop()
	n.Launch(t)
	testnode.Eventually(t, "the daemon answers", func() bool {
		return exec.Command("curl", "-sS", "--unix-socket", n.API, "http://patchbay/healthz").Run() == nil
	})
	conf := `{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "socket": "` + n.CNI + `"}`
	if e := n.shim("patchbay", conf, "CNI_COMMAND=STATUS"); e == nil || e.Code != 50 || !strings.Contains(e.Msg+e.Details, n.etcd.Endpoint) {
		t.Errorf("STATUS: %v", e)
	}
	var e *types.Error
	if err := n.add(context.Background(), n.pod("young", "data")); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater || !strings.Contains(e.Error(), n.etcd.Endpoint) {
		t.Errorf("ADD: %v", err)
	}
	if err := n.Runtime.Del(context.Background(), old); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if _, err := n.Client.Attach(context.Background(), "default", "old", client.Request{Network: "control"}); err == nil || !strings.Contains(err.Error(), "patchbayd is starting") {
		t.Errorf("attach: %v", err)
	}
	n.etcd.Start(t)
	if !n.Alive(t) {
		t.Fatal("the daemon has ended")
	}
	n.quiet()
	n.Run(t, "later", "data")
}

// A DEL that waits must not unmake what a later ADD of the same sandbox has made.
func TestAnAddComesAfterTheDelThatWaits(t *testing.T) {
	n := newNode(t)
	s := n.pod("web", "data")
	if err := n.add(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	n.etcd.Stop()
	if err := n.Runtime.Del(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	n.etcd.Start(t)
	testnode.Eventually(t, "the ADD is served", func() bool { return n.add(context.Background(), s) == nil })
	before := ifindex(t, s, "net1")
	n.AwaitQueue(t)
	n.Vanish(t, n.Run(t, "other", "data").Pod) // the daemon has looked after every pod at least once since
	if now := ifindex(t, s, "net1"); now != before {
		t.Errorf("interface %s was made again as %s", before, now)
	}
	n.Check(t, s)
}
