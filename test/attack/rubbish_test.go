package attack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// liar is a plugin whose answer to ADD is a file's content, and which is an IPAM plugin as well.
const liar = `#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND = ADD ] && cat LOG.answer
exit 0
`

// rubbish are results that are JSON, and of which parts are null or missing.
var rubbish = []string{
	`null`,
	`[]`,
	`{"cniVersion":"1.0.0","interfaces":[null]}`,
	`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[null]}`,
	`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[{}]}`,
	`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[{"address":"10.99.0.1/24","interface":7}]}`,
	`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[{"address":"10.99.0.1/24","interface":-1}]}`,
	`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"routes":[null]}`,
	`{"cniVersion":"1.0.0","routes":[null]}`,
	`{"cniVersion":"1.0.0","ips":[null]}`,
	`{"cniVersion":"1.1.0","interfaces":[null,{"name":"net1","sandbox":"x"}],"ips":[{"address":"10.99.0.1/24","interface":1}]}`,
	`{"cniVersion":"0.4.0","interfaces":[null]}`,
	`{"cniVersion":"0.4.0","ips":[null]}`,
	`{"cniVersion":"0.4.0","ips":[{"version":"4"}]}`,
	`{"cniVersion":"0.4.0","routes":[null]}`,
	`{"cniVersion":"0.2.0","ip4":{}}`,
	`{"cniVersion":"0.2.0","ip4":{"ip":"10.99.0.1/24","routes":[null]}}`,
	`{"cniVersion":"9.9.9"}`,
}

// A plugin's answer may be anything. None ends the daemon or is kept for ever, alone, behind another
// plugin, or as the IPAM plugin of our delegate.
func TestRubbishFromAPluginLeavesNothing(t *testing.T) {
	n := newNode(t)
	dir := filepath.Dir(n.log)
	if err := os.WriteFile(filepath.Join(dir, "liar"), []byte(strings.ReplaceAll(liar, "LOG", n.log)), 0o755); err != nil {
		t.Fatal(err)
	}
	n.nad("liar", `{"cniVersion": "1.0.0", "name": "liar", "type": "liar"}`)
	n.nad("behind", `{"cniVersion": "1.0.0", "name": "behind", "plugins": [{"type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.84.0.0/16", "subnetLen": 24, "cooldown": "0s"}}, {"type": "liar"}, {"type": "good"}]}`)
	n.nad("lied", `{"cniVersion": "1.0.0", "name": "lied", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "liar"}}`)
	ctx := context.Background()
	for k, networks := range []string{"liar", "behind", "lied", `[{"name":"liar","mac":"02:00:00:00:00:01"}]`} {
		for i, answer := range rubbish {
			if err := os.WriteFile(n.log+".answer", []byte(answer), 0o600); err != nil {
				t.Fatal(err)
			}
			s := n.pod(fmt.Sprintf("p%dx%d", k, i), networks)
			if _, err := n.Runtime.Add(ctx, s); err == nil {
				_ = n.Runtime.Check(ctx, s)
				n.Daemon.Stop()
				n.Launch(t)
				if !n.Alive(t) {
					t.Fatalf("%s: %s: the daemon does not start any more:\n%s", networks, answer, n.LogTail())
				}
			}
			if err := n.Runtime.Del(ctx, s); err != nil {
				t.Errorf("%s: %s: DEL: %v", networks, answer, err)
			}
		}
		n.AssertEmpty(t)
		n.noPanic()
	}
}
