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

// Answers of etcd are lost while pods come and go: no address has two owners, and none is left in the end.
func TestAnswersOfEtcdAreLost(t *testing.T) {
	proxy := testnode.StartProxy(t, "tcp", "127.0.0.1:0", "127.0.0.1:2379")
	n := newNode(t, "etcd.endpoints=[http://"+proxy.Addr()+"]")
	n.nad("few", `{"cniVersion": "1.1.0", "name": "few", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.98.0.0/28", "subnetLen": 28, "cooldown": "0s"}}`)
	n.nad("fewer", `{"cniVersion": "1.0.0", "name": "fewer", "plugins": [{"type": "bridge", "bridge": "kbr1",
 "ipam": {"type": "patchbay-ipam", "pool": "10.98.0.0-28", "network": "10.98.0.0/28", "subnetLen": 28, "cooldown": "0s"}}]}`)
	ctx := context.Background()
	var mu sync.Mutex
	has := map[string]string{}
	owns := func(pod, addr string, does bool) {
		mu.Lock()
		defer mu.Unlock()
		addr, _, _ = strings.Cut(addr, "/")
		switch other := has[addr]; {
		case !does:
			delete(has, addr)
		case other != "":
			t.Errorf("%s is given to %s, and %s has it", addr, pod, other)
		default:
			has[addr] = pod
		}
	}
	lived := make(chan bool)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 12 {
				s := n.pod(fmt.Sprintf("e%dx%d", i, k), []string{"few", "fewer", "few,fewer"}[k%3])
				_, err := n.Runtime.Add(ctx, s)
				var mine []string
				if err == nil {
					all, err := n.Client.List(ctx, client.Filter{Namespace: "default", Pod: s.Pod})
					if err != nil {
						t.Error(err)
					}
					for _, a := range all {
						mine = append(mine, a.IPs...)
					}
					if a, err := n.Client.Attach(ctx, "default", s.Pod, client.Request{Network: "few", Interface: "hot0"}); err == nil {
						mine = append(mine, a.IPs...)
					}
					for _, ip := range mine {
						owns(s.Pod, ip, true)
					}
				}
				for _, ip := range mine {
					owns(s.Pod, ip, false)
				}
				for range 5 {
					if n.Runtime.Del(ctx, s) == nil {
						break
					}
				}
				lived <- err == nil
			}
		})
	}
	go func() {
		wg.Wait()
		close(lived)
	}()
	proxy.Lose(1)
	added := 0
	for ok := range lived {
		if ok {
			added++
		}
		proxy.Lose(1 + added%3)
	}
	proxy.Pass()
	t.Logf("%d of 48 pods, %d answers lost", added, proxy.Lost())
	testnode.Eventually(t, "all is gone", func() bool {
		l, err := n.Client.Sandboxes(ctx)
		return err == nil && len(l) == 0
	})
	n.noPanic()
	n.AssertEmpty(t)
}
