package attack

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// slow is a plugin that takes its time for ADD.
const slow = `#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND = ADD ] && { echo ADD slow >> LOG; while [ -e LOG.slowadd ]; do sleep 0.05; done; }
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}'
exit 0
`

// Two pods that start at once ask for one address of a network without IPAM: one gets it.
func TestAStaticAddressIsGivenOnceToPodsThatStartAtOnce(t *testing.T) {
	n := newNode(t)
	if err := os.WriteFile(filepath.Join(filepath.Dir(n.log), "slow"), []byte(strings.ReplaceAll(slow, "LOG", n.log)), 0o755); err != nil {
		t.Fatal(err)
	}
	n.nad("held", `{"cniVersion": "1.0.0", "name": "held", "plugins": [{"type": "patchbay-ovs", "network": "data"}, {"type": "slow"}]}`)
	ctx := context.Background()
	n.set("slowadd")
	a, b := n.pod("a", `[{"name":"held","ips":["10.96.0.9/24"]}]`), n.pod("b", `[{"name":"held","ips":["10.96.0.9/24"]}]`)
	first := make(chan error, 1)
	go func() { _, err := n.Runtime.Add(ctx, a); first <- err }()
	testnode.Eventually(t, "the first is being made", func() bool { return strings.Contains(n.calls(), "ADD slow") })
	second := make(chan error, 1)
	go func() { _, err := n.Runtime.Add(ctx, b); second <- err }()
	var err error
	testnode.Eventually(t, "the second is refused, or being made", func() bool {
		select {
		case err = <-second:
			second = nil
			return true
		default:
			return strings.Count(n.calls(), "ADD slow") == 2
		}
	})
	n.unset("slowadd")
	if second != nil {
		err = <-second
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err == nil {
		t.Error("two running pods have 10.96.0.9")
	} else if !strings.Contains(err.Error(), "by pod default/a") {
		t.Errorf("refused as %v", err)
	}
	for _, s := range []*sandbox.Sandbox{a, b} {
		if err := n.Runtime.Del(ctx, s); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}
