package attack

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The claims of 3000 other nodes, 110 each, are in etcd, in the layouts of this release and of the one before. A node
// reads none of them: not when it starts, not for GC, and not for doctor.
func TestTheClaimsOfOtherNodesCostANodeNothing(t *testing.T) {
	n := newNode(t)
	n.nad("wide", `{"cniVersion": "1.1.0", "name": "wide", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.128.0.0/12", "subnetLen": 24}}`)
	n.Run(t, "a", "wide") // 10.128.0.2
	empty := n.restarted("b")
	n.claimElsewhere(3000, 110)
	full := n.restarted("c")
	t.Logf("without other nodes: %v", empty)
	t.Logf("with 330,000 claims: %v", full)
	// A single page of claims is 100 kB.
	if full.read > empty.read+50_000 {
		t.Errorf("etcd sent %d bytes, and %d when there were no other nodes' claims", full.read, empty.read)
	}
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
}

// cost is what a start, a look around by GC, and doctor take.
type cost struct {
	ready  time.Duration
	read   int // bytes, from etcd
	memory int // kB
}

func (c cost) String() string {
	return fmt.Sprintf("ready after %s, %d kB of memory, %d kB from etcd", c.ready.Round(time.Millisecond), c.memory, c.read/1000)
}

func (n *node) restarted(pod string) cost {
	n.t.Helper()
	n.Daemon.Stop()
	sent := n.sent()
	begin := time.Now()
	n.Start(n.t)
	c := cost{ready: time.Since(begin)}
	n.Run(n.t, pod, "wide")
	n.Vanish(n.t, pod)
	n.AssertClean(n.t)
	c.read = n.sent() - sent
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Daemon.Pid()))
	if err != nil {
		n.t.Fatal(err)
	}
	c.memory = number(n.t, `VmRSS:\s+(\d+) kB`, string(status))
	return c
}

// sent is how many bytes etcd has sent to its clients.
func (n *node) sent() int {
	n.t.Helper()
	return number(n.t, `(?m)^etcd_network_client_grpc_sent_bytes_total (\S+)$`, testnode.Sh(n.t, "curl", "-sS", n.etcd.Endpoint+"/metrics"))
}

func number(t *testing.T, expression, text string) int {
	t.Helper()
	m := regexp.MustCompile(expression).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s", expression)
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(f)
}

// claimElsewhere writes what other nodes have of the pool of network wide.
func (n *node) claimElsewhere(nodes, claims int) {
	n.t.Helper()
	kv, err := etcd.Dial(etcd.Options{Endpoints: []string{n.etcd.Endpoint}})
	if err != nil {
		n.t.Fatal(err)
	}
	defer kv.Close()
	const root, pool = "/patchbay/v1/", "10.128.0.0-12"
	work := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				node, net := fmt.Sprint("other-", i), fmt.Sprintf("10.%d.%d.", 129+i/250, i%250)
				var ops []clientv3.Op
				put := func(key, value string) {
					ops = append(ops, clientv3.OpPut(root+key, value))
				}
				put("ipam/"+pool+"/subnets/"+net+"0/24", `{"node":"`+node+`"}`)
				put("subnets/"+node+"/"+pool+"/"+net+"0/24", `{"node":"`+node+`"}`)
				for k := range claims {
					owner := fmt.Sprintf(`{"node":%q,"containerID":"%064x","ifname":"net1","pod":"default/pod-%d"}`, node, i*claims+k, k)
					put(fmt.Sprintf("ipam/%s/ips/%s0/24/%s%d", pool, net, net, k+2), owner)
					put(fmt.Sprintf("ipam/%s/ips/%s%d", pool, net, k+2), owner)
				}
				for len(ops) > 0 {
					some := ops[:min(len(ops), 128)]
					if _, err := kv.Txn(context.Background()).Then(some...).Commit(); err != nil {
						n.t.Error(err)
					}
					ops = ops[len(some):]
				}
			}
		})
	}
	for i := range nodes {
		work <- i
	}
	close(work)
	wg.Wait()
}
