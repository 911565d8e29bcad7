package attack

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The daemon has 256 file descriptors, and more calls than it has of them come at once: each is answered, none is half done,
// and afterwards it goes on.
func TestR11TheDaemonRunsOutOfFileDescriptors(t *testing.T) {
	n := newNode(t, "gc.interval=1s")
	open := func() int {
		t.Helper()
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Daemon.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	stays := n.Run(t, "stays", "data,headed")
	before := open()
	limit := unix.Rlimit{Cur: 256, Max: 256}
	if err := unix.Prlimit(n.Daemon.Pid(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	pods := n.many(300, "p", "data,control")
	added, most := 0, 0
	for _, err := range each(pods, n.add) {
		if e := (*types.Error)(nil); err == nil {
			added++
		} else if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
			t.Errorf("%.400v", err)
		}
		most = max(most, open())
	}
	t.Logf("%d of %d ADDs; %d descriptors are open", added, len(pods), most)
	for _, pod := range pods {
		testnode.Eventually(t, "the DEL is answered with success", func() bool { return n.Runtime.Del(t.Context(), pod) == nil })
	}
	n.AwaitQueue(t)
	n.mustAdd(pods[0])
	n.Check(t, pods[0])
	n.mustDel(pods[0])
	n.Check(t, stays)
	if err := n.Remove("stays"); err != nil {
		t.Error(err)
	}
	testnode.Eventually(t, "what was half done is gone", func() bool {
		l, err := n.Client.Sandboxes(t.Context())
		return err == nil && len(l) == 0
	})
	testnode.Eventually(t, fmt.Sprint("no more descriptors are open than the ", before, " before"), func() bool { return open() <= before+8 })
	n.noPanic()
	n.AssertEmpty(t)
}
