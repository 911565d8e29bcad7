package attack

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A daemon starts although the disk of its state is full, and pods come and go.
func TestTheStatesDiskIsFull(t *testing.T) {
	n := newNode(t)
	state, ctx := n.Dir+"/state", context.Background()
	a := n.pod("a", "data,headed")
	n.mustAdd(a)
	n.Daemon.Stop()
	testnode.Sh(t, "sh", "-c", "mkdir "+state+".full && mount -t tmpfs -o size=512k none "+state+".full && cp -a "+state+"/. "+state+".full/ && mount --move "+state+".full "+state)
	t.Cleanup(func() { testnode.Sh(t, "umount", "-l", state) })
	_ = os.WriteFile(state+"/fill", make([]byte, 1<<20), 0o600) // as far as it goes
	if err := os.WriteFile(state+"/more", []byte("x"), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	n.Launch(t)
	if !n.Alive(t) {
		t.Fatal("the daemon does not start")
	}
	b := n.pod("b", "data")
	if err := errors.Join(n.add(ctx, b), n.Runtime.Del(ctx, b)); err != nil {
		t.Error(err)
	}
	n.mustDel(a)
	n.AssertEmpty(t)
	if err := errors.Join(os.Remove(state+"/fill"), os.Remove(state+"/more")); err != nil {
		t.Fatal(err)
	}
	n.mustAdd(b)
	n.mustDel(b)
	n.Daemon.Stop()
	n.Start(t)
	if _, err := os.Stat(state + "/resting.new"); err == nil {
		t.Error("what rests is not written once there is space")
	}
}

// An etcd whose quota is used up takes deletions only: an ADD is to be tried again, and a DEL is done.
func TestAnEtcdThatIsFull(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	ends, stays := n.pod("ends", "data,headed"), n.pod("stays", "data")
	n.mustAdd(ends)
	n.mustAdd(stays)
	_, member, _ := strings.Cut(n.etcdctl("endpoint", "status", "-w", "json"), `"member_id":`)
	member, _, _ = strings.Cut(member, ",")
	alarm := func(action string) {
		testnode.Sh(t, "curl", "-sSf", n.etcd.Endpoint+"/v3/maintenance/alarm", "-d", `{"action":"`+action+`","memberID":"`+member+`","alarm":"NOSPACE"}`)
	}
	alarm("ACTIVATE")
	err := n.add(ctx, n.pod("young", "data"))
	if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Errorf("ADD: %v", err)
	}
	if _, err := n.Client.Attach(ctx, "default", "stays", client.Request{Network: "control"}); err == nil || !strings.Contains(err.Error(), "space exceeded") {
		t.Errorf("attach: %v", err)
	}
	if err := n.Client.Detach(ctx, "default", "stays", "net1"); err == nil {
		t.Error("a detach is said to be recorded")
	}
	n.mustDel(ends)
	alarm("DEACTIVATE")
	n.AwaitQueue(t)
	n.mustDel(stays)
	n.quiet()
}
