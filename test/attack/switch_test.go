package attack

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Open vSwitch's daemons are killed and started, again and again, while pods come and go. What has been
// answered for is there, what was refused is not, and a pod that runs keeps its interfaces.
func TestOpenVSwitchIsKilledWhilePodsComeAndGo(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 3, after: 1h}")
	ctx := context.Background()
	live := n.Run(t, "live", "data,control,headed")
	was := ifindex(t, live, "net1") + ifindex(t, live, "net2") + ifindex(t, live, "net3")
	lived := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 10 {
				s := n.pod(fmt.Sprintf("o%dx%d", i, k), []string{"data,control", "limited,headed", "vlan,trunk,hostlocal"}[k%3])
				_, err := n.Runtime.Add(ctx, s)
				if err == nil {
					_, hot := n.Client.Attach(ctx, "default", s.Pod, client.Request{Network: "control", Interface: "hot0"})
					for range 3 {
						if err = n.Runtime.Check(ctx, s); err == nil || !strings.Contains(err.Error(), "again later") && !strings.Contains(err.Error(), "does not answer") {
							break
						}
					}
					if err != nil {
						t.Errorf("%s (hot: %v): what was answered for is not there: %v", s.Pod, hot, err)
					}
					if hot == nil {
						_ = n.Client.Detach(ctx, "default", s.Pod, "hot0")
					}
				}
				for range 5 {
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
	for pods := 1; ; pods++ {
		if _, more := <-lived; !more {
			break
		}
		switch pods % 6 {
		case 1:
			n.OVS.StopServer()
			n.OVS.StartServer(t)
		case 3:
			n.OVS.StopSwitch()
			n.OVS.StartSwitch(t)
		case 4:
			n.Daemon.Kill()
			n.Start(t)
		case 5:
			n.OVS.StopServer()
			n.OVS.StopSwitch()
			n.OVS.StartServer(t)
			n.OVS.StartSwitch(t)
		}
	}
	testnode.Eventually(t, "all is gone but the pod that runs", func() bool {
		l, err := n.Client.Sandboxes(ctx)
		return err == nil && len(l) == 1
	})
	if is := ifindex(t, live, "net1") + ifindex(t, live, "net2") + ifindex(t, live, "net3"); is != was {
		t.Errorf("a running pod's interfaces were made again: %s, %s", was, is)
	}
	n.Check(t, live)
	n.noPanic()
	n.AssertClean(t)
	if err := n.Remove("live"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
