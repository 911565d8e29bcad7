package attack

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A database that neither answers nor closes its connection is as good as away: nobody waits for it as long
// as a call may take, and it is used again when it goes on.
func TestOvsdbServerHangs(t *testing.T) {
	n := newNode(t)
	old, young := n.pod("old", "data,control"), n.pod("young", "data,control")
	if err := n.add(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	thaw := n.OVS.FreezeServer()
	defer thaw()
	begin := time.Now()
	var e *types.Error
	if err := n.add(context.Background(), young); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Errorf("an ADD while ovsdb-server hangs: %v", err)
	}
	t.Logf("ADD was answered in %s", time.Since(begin))
	begin = time.Now()
	if err := errors.Join(each(append(n.many(100, "unknown", "data"), young, old), n.Runtime.Del)...); err != nil {
		t.Errorf("DELs while ovsdb-server hangs: %v", err)
	}
	t.Logf("DELs were answered in %s", time.Since(begin))
	if ok, _ := n.healthy("openvswitch"); ok {
		t.Error("doctor takes a database that hangs for one that answers")
	}
	thaw()
	n.quiet()
	if err := n.add(context.Background(), young); err != nil {
		t.Error(err)
	}
	if err := n.Runtime.Del(context.Background(), young); err != nil {
		t.Error(err)
	}
	testnode.Eventually(t, "the database is used again", func() bool { ok, _ := n.healthy("openvswitch"); return ok })
}

// A daemon that hangs has the same answer for all DELs, at the same time: they are put into the queue, beside
// each other.
func TestTheDaemonHangs(t *testing.T) {
	n := newNode(t)
	pods := n.many(50, "web", "data")
	if err := errors.Join(each(pods, n.add)...); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Signal(syscall.SIGSTOP)
	begin := time.Now()
	if err := errors.Join(each(pods, n.Runtime.Del)...); err != nil {
		t.Errorf("DELs while the daemon hangs: %v", err)
	}
	t.Logf("%d DELs were answered in %s", len(pods), time.Since(begin))
	n.Daemon.Signal(syscall.SIGCONT)
	n.quiet()
}
