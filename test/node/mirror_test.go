package node

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// mirrored is a network of ovs-cni's documentation: its plugin for mirrors behind our delegate.
func mirrored(n *testnode.Node, name, head, role, subnet string) string {
	return nad(name, `{"cniVersion": "0.4.0", "name": "`+name+`", "plugins": [
		{`+head+`, "ipam": {"type": "patchbay-ipam", "network": "`+subnet+`", "subnetLen": 24, "cooldown": "0s"}},
		{"type": "ovs-cni-mirror-`+role+`", "bridge": "br-data", "socket_file": "`+n.OVS.DB+`",
		 "mirrors": [{"name": "mirror-1", "ingress": true, "egress": true}]}]}`)
}

// TestOvsCNIsMirrorsShowOnePodsTrafficToAnother, with its own plugins.
func TestOvsCNIsMirrorsShowOnePodsTrafficToAnother(t *testing.T) {
	n := testnode.Standard(t, "meta.cniBinDirs=["+testnode.Bin()+","+testnode.OvsCNI()+"]")
	for _, head := range []string{`"type": "ovs", "bridge": "br-data"`, `"type": "patchbay-ovs", "network": "data"`} {
		n.Write(t, "producer.yaml", mirrored(n, "producer", head, "producer", "10.50.0.0/16"))
		n.Write(t, "consumer.yaml", mirrored(n, "consumer", head, "consumer", "10.51.0.0/16"))
		n.Write(t, "peer.yaml", nad("peer", `{"cniVersion": "0.4.0", "name": "peer", `+head+`, "ipam": {"type": "patchbay-ipam", "network": "10.50.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`))
		t.Run(head, func(t *testing.T) { mirror(t, n) })
		n.AssertEmpty(t)
		if left := n.OVS.Vsctl(t, "--bare", "--columns=name", "list", "mirror"); strings.TrimSpace(left) != "" {
			t.Errorf("mirrors left: %s", left)
		}
	}
}

func mirror(t *testing.T, n *testnode.Node) {
	const from, to = "10.50.0.21", "10.50.0.22"
	producer := n.Run(t, "producer", `[{"name": "producer", "ips": ["`+from+`"]}]`)
	consumer := n.Run(t, "consumer", "consumer")
	n.Run(t, "peer", `[{"name": "peer", "ips": ["`+to+`"]}]`)
	n.Check(t, producer)
	n.Check(t, consumer)
	// The plugins for mirrors leave the addresses out of their results; the pod has them.
	sandboxes, err := n.Client.Sandboxes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sandboxes {
		if a := s.Attachments[0]; len(a.IPs) != 1 || a.Bridge != "br-data" || a.Port == "" {
			t.Errorf("attachment of pod %s: %+v", s.Pod, a)
		}
	}
	seen := capture(t, consumer)
	testnode.Exec(t, producer, "ping", "-c3", "-i0.2", "-W10", to)
	out := seen()
	for _, want := range []string{from + " > " + to + ": ICMP echo request", to + " > " + from + ": ICMP echo reply"} {
		if !strings.Contains(out, want) {
			t.Errorf("the mirror lacks %q: %s", want, out)
		}
	}
	for _, pod := range []string{"producer", "consumer", "peer"} {
		if err := n.Remove(pod); err != nil {
			t.Error(err)
		}
	}
}

// capture returns when the pod listens; seen waits for four packets of a ping and returns them.
func capture(t *testing.T, s *sandbox.Sandbox) (seen func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", filepath.Base(s.Netns), "tcpdump", "-i", "net1", "-nn", "-l", "-c4", "icmp")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(stderr)
	for said.Scan() && !strings.Contains(said.Text(), "listening on") {
	}
	return func() string {
		for said.Scan() { // until it has ended
		}
		return fmt.Sprintf("%s(%v)", &out, cmd.Wait())
	}
}
