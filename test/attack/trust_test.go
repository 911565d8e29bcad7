package attack

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Whoever may write networks of a namespace has the node's bridges with them, and its addresses, if they may say so.
func TestWhoseNetworksReachTheNode(t *testing.T) {
	n := newNode(t, "ovs.trustedNamespaces=[lab]", "meta.globalNamespaces=[default, lab]")
	ctx := context.Background()
	n.Run(t, "running", "data")
	judge := admission.Judge{Planner: meta.NewPlanner(nil, meta.Config{Trusted: []string{"lab"}, NeedsTrust: ovs.NeedsTrust,
		Implied: map[string][]string{ovs.Type: ovs.Capabilities, ovs.ForeignType: ovs.Capabilities}})}
	for i, c := range []struct{ config, key string }{
		{`"type": "patchbay-ovs", "bridge": "br-control"`, "bridge"},
		{`"type": "ovs", "bridge": "br-control"`, "bridge"},
		{`"type": "patchbay-ovs", "Bridge": "br-control"`, ""}, // no key of ours
		{`"type": "ovs", "args": {"cni": {"ovnPort": "another"}}`, "bridge"},
		{`"type": "patchbay-ovs", "network": "data", "isGateway": true, "ipam": {"type": "static", "addresses": [{"address": "192.0.2.2/24", "gateway": "192.0.2.1"}]}`, "isGateway"},
		{`"type": "patchbay-ovs", "network": "data", "isDefaultGateway": true, "ipam": {"type": "static", "addresses": [{"address": "192.0.2.2/24", "gateway": "192.0.2.1"}]}`, "isDefaultGateway"},
	} {
		name, config := fmt.Sprintf("reaches%d", i), `{"cniVersion": "1.0.0", `+c.config+`}`
		n.nad(name, config)
		n.Write(t, "lab-"+name+".yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: "+name+", namespace: lab}\nspec: {config: '"+config+"'}\n")
		_, atStart := n.TryRun("a", name)
		_, hot := n.Client.Attach(ctx, "default", "running", client.Request{Network: name})
		written := judge.Network(meta.Network{Namespace: "default", Name: name, Config: config})
		for _, err := range []error{atStart, hot, written} {
			switch {
			case err == nil:
				t.Errorf("%s is accepted", c.config)
			case c.key != "" && (!strings.Contains(err.Error(), `"`+c.key+`" reaches the node`) || !strings.Contains(err.Error(), "ovs.trustedNamespaces")):
				t.Errorf("%s: %v", c.config, err)
			}
		}
		if c.key == "" || strings.Contains(c.config, "ovnPort") { // there is no OVN
			continue
		}
		n.Run(t, fmt.Sprintf("trusted%d", i), "lab/"+name)
		if err := n.Remove(fmt.Sprintf("trusted%d", i)); err != nil {
			t.Error(err)
		}
	}
}

// A delegate of ours that another plugin's list executes would ask the daemon for the sandbox that it is making.
func TestOurDelegateBehindAnotherPluginIsRefused(t *testing.T) {
	n := newNode(t)
	n.Run(t, "running", "data")
	n.nad("behind", `{"cniVersion": "1.0.0", "name": "behind", "plugins": [{"type": "bridge", "bridge": "kbr0"}, {"type": "patchbay-ovs", "network": "data"}]}`)
	_, atStart := n.TryRun("a", "behind")
	_, hot := n.Client.Attach(context.Background(), "default", "running", client.Request{Network: "behind"})
	for _, err := range []error{atStart, hot} {
		if err == nil || !strings.Contains(err.Error(), "plugin patchbay-ovs must be the first of its list") {
			t.Error(err)
		}
	}
	n.Run(t, "b", "chain") // with patchbay-ipam as its IPAM
	n.AssertClean(t)
}

// 128 references to a network of a megabyte, in four pods at once, took 3 GB. Nor do as many pods as there can be
// with the most that one can ask for cost the node its memory.
func TestAPodThatAsksForTooMuchCostsTheOthersNothing(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	text := func(name string, size int) string {
		return `{"cniVersion": "1.0.0", "name": "` + name + `", "type": "patchbay-ovs", "network": "data", "dns": {"domain": "` + strings.Repeat("x", size) + `"}}`
	}
	n.nad("huge", text("huge", 1<<20))
	n.nad("most", text("most", 250<<10))
	many := func(name string, pods int, networks, want string) {
		t.Helper()
		var all sync.WaitGroup
		for i := range pods {
			s := n.pod(fmt.Sprintf("%s%d", name, i), networks)
			all.Go(func() {
				switch _, err := n.Runtime.Add(ctx, s); {
				case want == "" && err != nil:
					t.Errorf("%.300v", err)
				case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
					t.Errorf("%.300v, want %q", err, want)
				}
				if err := n.Runtime.Del(ctx, s); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	var all sync.WaitGroup
	all.Go(func() {
		many("huge", 4, strings.TrimSuffix(strings.Repeat("huge,", 128), ","), "can have 256")
		many("most", 4, strings.TrimSuffix(strings.Repeat("most,", 128), ","), "512 KiB")
		many("two", 32, "most,most", "")
	})
	all.Go(func() {
		for i := range 10 {
			n.Run(t, fmt.Sprintf("other%d", i), "data")
		}
	})
	all.Wait()
	// The race detector multiplies memory; 3 GB were 3 GB without it.
	if peak := peakMemory(t, n.Daemon); peak > 1<<30 {
		t.Errorf("the daemon took %d MiB", peak>>20)
	} else {
		t.Logf("the daemon took %d MiB at most", peak>>20)
	}
	n.noPanic()
	n.AssertClean(t)
}

// peakMemory is the most memory that a process has had so far, in bytes.
func peakMemory(t *testing.T, p *testnode.Process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
