package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// Whoever can write to etcd had a running pod's interfaces unmade by the next start of patchbayd, with a record
// that says less or is an older one, and new ones made, on any bridge and with an address for the node.
func TestARecordOfSomebodyElseCostsThePodNothing(t *testing.T) {
	n := newNode(t, "ovs.trustedNamespaces=[lab]")
	s := n.Run(t, "a", "data")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control", Interface: "hot1"}); err != nil {
		t.Fatal(err)
	}
	ports := fmt.Sprint(n.OVS.Ports(t))
	key, whole, _ := n.record(s)
	attachments := func(r map[string]any) []any { return r["attachments"].([]any) }
	gateway := func(r map[string]any) {
		b, err := json.Marshal(attachments(r)[0])
		if err != nil {
			t.Fatal(err)
		}
		var more map[string]any
		if err := json.Unmarshal([]byte(strings.ReplaceAll(string(b), "net1", "net7")), &more); err != nil {
			t.Fatal(err)
		}
		more["spec"].(map[string]any)["config"] = json.RawMessage(`{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "patchbay-ovs", "bridge": "br-control", "isGateway": true}]}`)
		more["status"] = json.RawMessage(`{"phase": "Ready", "result": {"cniVersion": "1.1.0", "interfaces": [{"name": "h"}, {"name": "net7", "sandbox": "` + s.Netns + `"}],
 "ips": [{"interface": 1, "address": "192.0.2.2/24", "gateway": "192.0.2.1"}]}}`)
		r["attachments"] = append(attachments(r), more)
	}
	forge := func(change func(map[string]any)) func() {
		return func() {
			_, _, r := n.record(s)
			change(r)
			n.forge(key, r)
		}
	}
	for what, write := range map[string]func(){
		"no attachments": forge(func(r map[string]any) { r["attachments"] = []any{} }),
		"nothing answered for": forge(func(r map[string]any) {
			for _, a := range attachments(r) {
				a.(map[string]any)["status"].(map[string]any)["phase"] = "Pending"
			}
		}),
		"an earlier boot": forge(func(r map[string]any) { r["bootID"] = "another" }),
		"a gateway":       forge(gateway),
		"another sandbox": func() {
			_, _, r := n.record(s)
			gateway(r)
			r["containerID"], r["attachments"] = "another", attachments(r)[2:]
			n.forge("/patchbay/v1/sandboxes/n1/another", r)
		},
		"an older record": func() {
			_, created, _ := strings.Cut(n.etcdctl("get", key, "-w", "fields"), `"CreateRevision" : `)
			created, _, _ = strings.Cut(created, "\n")
			n.etcdctl("put", key, strings.TrimSpace(n.etcdctl("get", "--print-value-only", "--rev", created, key)))
		},
	} {
		for range 2 { // what was refused is not taken for the node's own at the next start
			n.Daemon.Stop()
			write()
			n.Start(t)
			if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
				t.Fatalf("%s: ports %s, there were %s", what, have, ports)
			}
			if ok, _ := n.healthy("records"); ok {
				t.Errorf("%s: doctor finds nothing", what)
			}
		}
		if addrs, _ := exec.Command("ip", "addr", "show", "br-control").Output(); strings.Contains(string(addrs), "192.0.2.1") {
			t.Errorf("%s: %s", what, addrs)
		}
		n.Daemon.Stop()
		n.etcdctl("put", key, whole)
		n.etcdctl("del", "/patchbay/v1/sandboxes/n1/another")
		n.Start(t)
		n.Check(t, s)
	}
}
