package node

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// TestBadInputIsRefusedAndLeavesNothing: each request fails with an error that names the cause, and
// nothing of it is left.
func TestBadInputIsRefusedAndLeavesNothing(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "badipam.yaml", nad("badipam", `{"cniVersion": "1.0.0", "name": "badipam", "type": "patchbay-ovs", "network": "data",
  "ipam": {"type": "host-local", "dataDir": "/run/badipam", "ranges": [[{"subnet": "invalid"}]]}}`))
	n.Run(t, "holder", `[{"name": "data", "ips": ["10.12.0.50"]}]`)
	for _, c := range []struct{ name, networks, want string }{
		{"unknown network", "nowhere", "default/nowhere"},
		{"network in a forbidden namespace", "lab/other", "namespaceIsolation"},
		{"malformed short form", "data,,control", "character 6"},
		{"malformed JSON", `[{"name": "data"`, "character 16"},
		{"unknown key", `[{"name": "data", "ip": "10.12.0.9"}]`, `unknown key "ip"`},
		{"duplicate interface", "data@x0,control@x0", `interface "x0"`},
		{"address outside the pool", `[{"name": "data", "ips": ["192.0.2.1"]}]`, "outside pool 10.12.0.0-16"},
		{"address of another subnet", `[{"name": "data", "ips": ["10.12.9.1"]}]`, "subnet 10.12.9.0/24 of no node"},
		{"address taken", `[{"name": "data", "ips": ["10.12.0.50/24"]}]`, "taken by pod default/holder net1"},
		{"gateway's address", `[{"name": "data", "ips": ["10.12.0.1"]}]`, "is the gateway"},
		{"broadcast address", `[{"name": "data", "ips": ["10.12.0.255"]}]`, "network or broadcast"},
		{"malformed address", `[{"name": "data", "ips": ["10.12.0"]}]`, `"10.12.0" is neither`},
		{"malformed mac", `[{"name": "data", "mac": "02:00"}]`, `"02:00"`},
		{"multicast mac", `[{"name": "data", "mac": "03:00:00:00:00:01"}]`, "unicast"},
		{"bridge role unknown", "nobridge", `no bridge for role "storage" on node n1`},
		{"vlan 5000", "vlan5000", "vlan 5000 must be between 0 and 4095"},
		{"long interface name", "data@abcdefghijklmnop", "longer than 15 bytes"},
		{"slash in interface name", `[{"name": "data", "interface": "a/b"}]`, "slash"},
		{"loopback", `[{"name": "data", "interface": "lo"}]`, "loopback"},
		{"no plugin has the capability", `[{"name": "macvlan", "bandwidth": {"ingressRate": 1000000}}]`, `declares the capability "bandwidth"`},
		{"plugin is missing", "missing", `"no-such-plugin" is not in`},
		{"configuration names itself", "itself", "meta-plugin"},
		{"another IPAM refuses", "data,badipam", "invalid CIDR"},
		{"third of three fails", "data,control,vlan5000", "vlan 5000"},
		{"third of three fails late", "data,macvlan,fails", "plugin macvlan: Link missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.TryRun("bad", c.networks)
			if err == nil {
				_ = n.Remove("bad")
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q lacks %q", err, c.want)
			}
			var e *types.Error
			if !errors.As(err, &e) || e.Code == types.ErrInternal && !strings.Contains(err.Error(), "plugin macvlan") && !strings.Contains(err.Error(), "plugin host-local") { // whose own codes these are
				t.Errorf("not a CNI error with a code of its own: %v", err)
			}
			n.AssertClean(t)
			if ports := n.OVS.Ports(t); len(ports) != 1 {
				t.Errorf("ports: %v, want the holder's alone", ports)
			}
		})
	}
}

func TestABadManifestIsReportedAndDisturbsNoOther(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "bad.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: broken}\nspec:\n  config: '{\"type\": }'\n")
	n.Write(t, "worse.yaml", "apiVersion: v1\nkind: Pod\n  metadata: [\n")
	if _, err := n.TryRun("a", "broken"); err == nil || !strings.Contains(err.Error(), "bad.yaml") && !strings.Contains(err.Error(), "worse.yaml") {
		t.Errorf("the error does not lead to the file: %v", err)
	}
	n.Run(t, "b", "data")
	findings, err := n.Client.Doctor(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(findings)
	for _, want := range []string{"bad.yaml: line 1: ", "spec.config (line 5)", "worse.yaml: line"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("doctor lacks %q: %s", want, text)
		}
	}
	n.Write(t, "bad.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: broken}\nspec:\n  config: '{\"cniVersion\": \"1.1.0\", \"type\": \"patchbay-ovs\", \"network\": \"data\"}'\n")
	n.Run(t, "c", "broken")
}

func TestTenPodsRaceForOneAddress(t *testing.T) {
	n := testnode.Standard(t)
	errs := make(chan error, 10)
	for i := range 10 {
		go func() {
			_, err := n.TryRun("racer"+string(rune('a'+i)), "tiny")
			errs <- err
		}()
	}
	won := 0
	for range 10 {
		err := <-errs
		if err == nil {
			won++
		} else if !strings.Contains(err.Error(), "pool 10.20.0.0-29: no free address") {
			t.Error(err)
		}
	}
	if won != 2 {
		t.Errorf("%d pods have an address of a pool that has 2 left", won)
	}
	n.AssertClean(t)
	for i := range 10 {
		_ = n.Remove("racer" + string(rune('a'+i))) // most of them never ran
	}
	n.AssertEmpty(t)
}

func TestRESTRefusesWithTheRightStatus(t *testing.T) {
	n := testnode.Standard(t)
	n.Run(t, "a", "data")
	ctx := context.Background()
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control", Interface: "x0"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		pod    string
		r      client.Request
		status int
		want   string
	}{
		{"no such pod", "b", client.Request{Network: "data"}, 404, "pod default/b"},
		{"unknown network", "a", client.Request{Network: "nowhere"}, 422, "default/nowhere"},
		{"forbidden namespace", "a", client.Request{Network: "lab/other"}, 403, "namespaceIsolation"},
		{"same interface, another spec", "a", client.Request{Network: "data", Interface: "x0"}, 409, "x0"},
		{"interface of the annotation", "a", client.Request{Network: "control", Interface: "net1"}, 409, "net1"},
		{"eth0", "a", client.Request{Network: "data", Interface: "eth0"}, 422, "eth0"},
		{"long name", "a", client.Request{Network: "data", Interface: "abcdefghijklmnop"}, 422, "15 bytes"},
		{"address outside", "a", client.Request{Network: "data", IPs: []string{"192.0.2.9"}}, 422, "outside pool"},
		{"neither network nor config", "a", client.Request{}, 422, "either network or config"},
		{"inline config is no JSON object", "a", client.Request{Config: json.RawMessage(`[]`)}, 422, "not a JSON object"},
		{"inline type with a path", "a", client.Request{Config: json.RawMessage(`{"cniVersion": "1.0.0", "name": "x", "type": "../../bin/sh"}`)}, 422, "plain file name"},
		{"inline vlan", "a", client.Request{Config: json.RawMessage(`{"cniVersion": "1.0.0", "name": "x", "type": "patchbay-ovs", "network": "data", "vlan": 5000}`)}, 422, "vlan 5000"},
		{"another UID", "a", client.Request{Network: "data", UID: "other"}, 409, "UID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				if dry && c.name == "address outside" {
					continue // only the claim itself can tell
				}
				c.r.DryRun = dry
				_, err := n.Client.Attach(ctx, "default", c.pod, c.r)
				var p *client.Problem
				if !errors.As(err, &p) {
					t.Fatalf("dry run %v: %v", dry, err)
				}
				if p.Status != c.status || !strings.Contains(p.Error(), c.want) {
					t.Errorf("dry run %v: status %d, want %d; %q lacks %q", dry, p.Status, c.status, p, c.want)
				}
			}
		})
	}
	if a, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "data", DryRun: true}); err != nil || a.Phase != "Pending" {
		t.Errorf("%+v, %v", a, err)
	}
	if l, err := n.Client.List(ctx, client.Filter{Pod: "a"}); err != nil || len(l) != 2 {
		t.Errorf("after refusals and a dry run: %+v, %v", l, err)
	}
	if err := n.Client.Detach(ctx, "default", "a", "nix"); err == nil || !strings.Contains(err.Error(), "no such attachment") {
		t.Error(err)
	}
	n.AssertClean(t)
}

func TestAWatchSeesEveryChange(t *testing.T) {
	n := testnode.Standard(t)
	n.Run(t, "a", "data")
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- n.Client.Watch(ctx, client.Filter{Namespace: "default"}, func(e client.Event) error {
			events <- e.Type + " " + e.Attachment.Interface
			return nil
		})
	}()
	expect := func(want string) {
		t.Helper()
		if got := <-events; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
	expect("ADDED net1")
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "control"}); err != nil {
		t.Fatal(err)
	}
	expect("ADDED net2")
	if err := n.Client.Detach(ctx, "default", "a", "net2"); err != nil {
		t.Fatal(err)
	}
	expect("DELETED net2")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	n := testnode.Standard(t)
	out := testnode.Sh(t, "curl", "-sS", "--fail", "--unix-socket", n.API, "http://patchbay/openapi.json")
	var doc struct {
		OpenAPI string         `json:"openapi"`
		Paths   map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("%v: %.200s", err, out)
	}
	for _, p := range []string{"/v1/namespaces/{namespace}/pods/{pod}/attachments", "/v1/namespaces/{namespace}/pods/{pod}/attachments/{interface}", "/v1/attachments", "/v1/sandboxes", "/v1/nodes", "/v1/pools", "/v1/networks", "/v1/version"} {
		if doc.Paths[p] == nil {
			t.Errorf("no path %s", p)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		testnode.Sh(t, "curl", "-sS", "--fail", "--unix-socket", n.API, "http://patchbay"+path)
	}
}
