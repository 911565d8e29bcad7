package attack

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A pod that has more addresses than fit into one transaction of etcd, attached one after the other, ends.
func TestAPodOfMoreAddressesThanOneTransactionHasEnds(t *testing.T) {
	n := newNode(t)
	var first []string
	for range 25 {
		first = append(first, "control")
	}
	ctx := context.Background()
	s := n.pod("a", strings.Join(first, ","))
	if err := n.add(ctx, s); err != nil {
		t.Fatal(err)
	}
	for i := range 45 {
		if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control"}); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := n.Runtime.Del(ctx, s); err != nil {
		t.Errorf("%.600v", err)
	}
	n.quiet()
}

// Claims that nothing accounts for are freed, however many there are.
func TestManyClaimsWithoutARecordAreFreed(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	n.Daemon.Stop()
	for i := range 200 {
		key := fmt.Sprintf("/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.0.0/24/10.12.0.%d", 20+i)
		n.etcdctl("put", key, fmt.Sprintf(`{"node":"n1","containerID":"c%d","ifname":"net1","pod":"default/c%d"}`, i, i))
	}
	n.Start(t)
	testnode.Eventually(t, "they are free", func() bool { return len(n.claims("10.12.0.0-16")) == 1 })
	n.AssertClean(t)
}
