package attack

import (
	"context"
	"errors"
	"os"
	"testing"

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
