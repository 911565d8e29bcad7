package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// words of the language and of libraries that say nothing to somebody who runs a cluster.
var goisms = []string{"json: ", "strconv", "netip", "invalid character", "cannot unmarshal", "can't unmarshal", "ParsePrefix", "ParseAddr", "unexpected EOF", "EOF",
	"no such file", "unexpected end of JSON", "!!str", "!!seq", "!!map", "!!int", "[]string", "map[", "interface {", "<nil>", "%!", `""`, "duplicate key", ": invalid",
	"dial unix", "dial tcp", "Go value", "Go struct", "config.", "client.", "main.", "cannot assign requested address", "validation failed", "unsupported protocol"}

// plain fails unless a text has all the words, and none that only a programmer understands.
func plain(t *testing.T, text string, want ...string) {
	t.Helper()
	if os.Getenv("WORDS") != "" {
		fmt.Printf("%-60s %s\n", strings.TrimPrefix(t.Name(), "TestTheWords"), text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q lacks %q", text, w)
		}
	}
	for _, w := range goisms {
		if strings.Contains(text, w) {
			t.Errorf("%q has %q", text, w)
		}
	}
}

// badNetworks are configurations that can't work, by the network's name.
var badNetworks = []struct {
	name, config string
	want         []string
}{
	{"syntax", `{"cniVersion": "1.1.0", "type": }`, []string{"default/syntax", "syntax.yaml: line 1", "spec.config (line 5)", "} at character 33 comes too early"}},
	{"unquoted", `{"cniVersion": "1.1.0", "type": patchbay-ovs}`, []string{"default/unquoted", "texts and keys stand in double quotes"}},
	{"cut", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data"`, []string{"default/cut", "a bracket or a quote is not closed"}},
	{"list", `[{"type": "patchbay-ovs"}]`, []string{"default/list", "it must be an object in braces, not a list"}},
	{"typeless", `{"cniVersion": "1.1.0", "network": "data"}`, []string{"default/typeless", `"type" is missing`}},
	{"typenumber", `{"cniVersion": "1.1.0", "type": 7}`, []string{"default/typenumber", `"type" must be a text in double quotes, not a number`}},
	{"typepath", `{"cniVersion": "1.1.0", "type": "../sh"}`, []string{"default/typepath", "plain file name"}},
	{"version", `{"cniVersion": "9.9", "type": "patchbay-ovs"}`, []string{"default/version", "cniVersion 9.9 is not supported", "1.1.0"}},
	{"badname", `{"cniVersion": "1.1.0", "name": "a b", "type": "patchbay-ovs"}`, []string{"default/badname", `name "a b"`}},
	{"noplugins", `{"cniVersion": "1.1.0", "plugins": []}`, []string{"default/noplugins", "empty list of plugins"}},
	{"pluginstext", `{"cniVersion": "1.1.0", "plugins": "ovs"}`, []string{"default/pluginstext", `"plugins" must be a list in square brackets, not a text`}},
	{"capslist", `{"cniVersion": "1.1.0", "type": "macvlan", "capabilities": ["ips"]}`, []string{"default/capslist", `"capabilities" must be an object in braces, not a list`}},

	{"misspelt", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "netwrok": "data"}`, []string{"default/misspelt", `unknown key "netwrok": did you mean "network"?`}},
	{"norole", `{"cniVersion": "1.1.0", "type": "patchbay-ovs"}`, []string{"default/norole", `give either "network"`}},
	{"role", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "dtaa"}`, []string{"default/role", `no bridge for role "dtaa" on node n1`}},
	{"bridgeless", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "bridge": "br-nix"}`, []string{"default/bridgeless", "br-nix"}},
	{"vlantext", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "vlan": "100"}`, []string{"default/vlantext", `"vlan" must be a whole number, not a text`}},
	{"vlanbig", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "vlan": 4096}`, []string{"default/vlanbig", "vlan 4096 must be between 0 and 4095"}},
	{"trunkrange", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "trunk": [{"minID": 30, "maxID": 20}]}`, []string{"default/trunkrange", "minID 30 is above maxID 20"}},
	{"trunkhalf", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "trunk": [{"minID": 30}]}`, []string{"default/trunkhalf", `both "minID" and "maxID"`}},
	{"mtu", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "mtu": 9}`, []string{"default/mtu", "mtu 9 must be between 68 and 65535"}},
	{"rate", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "qos": {"ingressRate": "fast"}}`, []string{"default/rate", "qos", "such as \"100M\""}},
	{"zeromac", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "mac": "00:00:00:00:00:00"}`, []string{"default/zeromac", "mac: an interface can't have 00:00:00:00:00:00", "02:00:00:00:00:01"}},
	{"groupmac", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "mac": "01:00:5e:00:00:01"}`, []string{"default/groupmac", "multicast"}},
	{"argsmac", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "args": {"cni": {"mac": "ff:ff:ff:ff:ff:ff"}}}`, []string{"default/argsmac", "mac: ff:ff:ff:ff:ff:ff is the broadcast address"}},

	{"ipamkey", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "netwrok": "10.30.0.0/16"}}`, []string{"default/ipamkey", `ipam: unknown key "netwrok": did you mean "network"?`}},
	{"ipamlen", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16"}}`, []string{"default/ipamlen", "subnetLen is missing"}},
	{"ipamlentext", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": "24"}}`, []string{"default/ipamlentext", `"subnetLen" must be a whole number, not a text`}},
	{"ipamcidr", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0", "subnetLen": 24}}`, []string{"default/ipamcidr", `network "10.30.0.0" is not a CIDR, such as 10.12.0.0/16`}},
	{"ipamhost", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.1/16", "subnetLen": 24}}`, []string{"default/ipamhost", "write 10.30.0.0/16"}},
	{"ipamsmall", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 8}}`, []string{"default/ipamsmall", "subnetLen 8", "between 16 and 30"}},
	{"ipammode", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "mode": "flat", "network": "10.30.0.0/16"}}`, []string{"default/ipammode", `mode "flat"`}},
	{"ipamgw", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "gateway": "gw"}}`, []string{"default/ipamgw", `gateway "gw"`}},
	{"ipamexclude", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "exclude": ["10.30"]}}`, []string{"default/ipamexclude", `exclude "10.30"`}},
	{"ipamroute", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "routes": [{"dst": "all"}]}}`, []string{"default/ipamroute", "routes", `"all"`}},
	{"ipamroutegw", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "routes": [{"dst": "0.0.0.0/0", "gw": "gw"}]}}`, []string{"default/ipamroutegw", "routes", `"gw"`}},
	{"ipamcooldown", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.30.0.0/16", "subnetLen": 24, "cooldown": 30}}`, []string{"default/ipamcooldown", `"cooldown" must be a text in double quotes, not a number`}},
	{"ipamtext", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": "patchbay-ipam"}`, []string{"default/ipamtext", "ipam", `it must be an object`}},
	{"ipamtype", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipma", "network": "10.30.0.0/16", "subnetLen": 24}}`, []string{"default/ipamtype", `"patchbay-ipma" is not in`}},
	{"ipamtypeless", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"network": "10.30.0.0/16", "subnetLen": 24}}`, []string{"default/ipamtypeless", "ipam", `"type" is missing`}},
	{"redefined", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 26}}`,
		[]string{"default/redefined", "pool 10.12.0.0-16: it is there already with other values (in use on node n1): subnetLen is 24, and this asks for 26; write the same values, or give this network a \"pool\" name"}},
}

// badAnnotations are networks annotations that can't work.
var badAnnotations = []struct {
	name, text string
	want       []string
}{
	{"unknown network", "nowhere", []string{"default/nowhere", "missing in"}},
	{"comma too much", "data,,control", []string{"character 6", "name is missing"}},
	{"comma at the end", "data,", []string{"character 6", "name is missing"}},
	{"two interfaces", "data@x@y", []string{`"data@x@y"`, "more than one @"}},
	{"empty interface", "data@", []string{"interface name is empty"}},
	{"two slashes", "a/b/c", []string{`"b/c" is not a network's name`}},
	{"slash first", "/data", []string{"the namespace is missing"}},
	{"space for comma", "data control", []string{`"data control" is not a network's name`}},
	{"capitals", "Data", []string{`"Data" is not a network's name: lower-case letters`}},
	{"long interface", "data@abcdefghijklmnop", []string{"longer than 15 bytes"}},
	{"one interface twice", "data@x0,control@x0", []string{"elements 1 and 2", `interface "x0"`}},
	{"forbidden namespace", "lab/other", []string{"lab/other", "meta.namespaceIsolation"}},
	{"object for list", `{"name": "data"}`, []string{"it must be a list in square brackets, not an object"}},
	{"cut JSON", `[{"name": "data"}`, []string{"a bracket or a quote is not closed"}},
	{"single quotes", `[{'name': 'data'}]`, []string{"texts and keys stand in double quotes"}},
	{"trailing comma", `[{"name": "data"},]`, []string{"] at character 19 comes too early"}},
	{"text in the list", `["data"]`, []string{"element 1", `it must be an object, such as {"name": "blue"}`}},
	{"null in the list", `[null]`, []string{"element 1", "it must be an object"}},
	{"no name", `[{"namespace": "default"}]`, []string{"element 1", `"name" is missing`}},
	{"name a number", `[{"name": 7}]`, []string{`"name" must be a text in double quotes, not a number`}},
	{"unknown key", `[{"name": "data", "ip": "10.12.0.9"}]`, []string{`unknown key "ip"`, `"ips"`}},
	{"misspelt key", `[{"name": "data", "interfce": "x0"}]`, []string{`unknown key "interfce": did you mean "interface"?`}},
	{"ips a text", `[{"name": "data", "ips": "10.12.0.9"}]`, []string{`"ips" must be a list in square brackets, not a text`}},
	{"ips of numbers", `[{"name": "data", "ips": [10]}]`, []string{`"ips" must be a text in double quotes, not a number`}},
	{"ips empty", `[{"name": "data", "ips": []}]`, []string{`"ips" is empty`}},
	{"ip twice", `[{"name": "data", "ips": ["10.12.0.9", "10.12.0.9/24"]}]`, []string{"default/data", "ips: address 10.12.0.9 is listed twice"}},
	{"ip cut", `[{"name": "data", "ips": ["10.12.0"]}]`, []string{"default/data", `ips: "10.12.0" is neither an address`, "10.12.0.9/24"}},
	{"ip outside", `[{"name": "data", "ips": ["192.0.2.1"]}]`, []string{"default/data", "192.0.2.1 is outside pool 10.12.0.0-16 (10.12.0.0/16)"}},
	{"ip another node's", `[{"name": "data", "ips": ["10.12.9.9"]}]`, []string{"default/data", "subnet 10.12.9.0/24 of no node; node n1 has 10.12.0.0/24"}},
	{"ip taken", `[{"name": "data", "ips": ["10.12.0.50"]}]`, []string{"default/data", "10.12.0.50", "taken by pod default/holder net1"}},
	{"ip the gateway's", `[{"name": "data", "ips": ["10.12.0.1"]}]`, []string{"default/data", "10.12.0.1", "is the gateway"}},
	{"ip unspecified", `[{"name": "data", "ips": ["0.0.0.0"]}]`, []string{"default/data", "0.0.0.0"}},
	{"mac short", `[{"name": "data", "mac": "02:00"}]`, []string{"default/data", `mac: "02:00" is not a hardware address of six bytes`}},
	{"mac of zeros", `[{"name": "data", "mac": "00:00:00:00:00:00"}]`, []string{"default/data", "mac: an interface can't have 00:00:00:00:00:00"}},
	{"mac broadcast", `[{"name": "data", "mac": "ff:ff:ff:ff:ff:ff"}]`, []string{"default/data", "mac: ff:ff:ff:ff:ff:ff is the broadcast address"}},
	{"mac multicast", `[{"name": "data", "mac": "03:00:00:00:00:01"}]`, []string{"default/data", "mac: 03:00:00:00:00:01 is a multicast address"}},
	{"mac by cni-args", `[{"name": "data", "cni-args": {"mac": "00:00:00:00:00:00"}}]`, []string{"default/data", "mac: an interface can't have"}},
	{"cni-args a list", `[{"name": "data", "cni-args": []}]`, []string{`"cni-args" must be an object in braces, not a list`}},
	{"guid", `[{"name": "data", "infiniband-guid": "02:00"}]`, []string{"default/data", "GUID of eight bytes"}},
	{"interface empty", `[{"name": "data", "interface": ""}]`, []string{`"interface" is empty`}},
	{"interface lo", `[{"name": "data", "interface": "lo"}]`, []string{"default/data", "loopback"}},
	{"interface with slash", `[{"name": "data", "interface": "a/b"}]`, []string{"default/data", `"a/b"`, "slash"}},
	{"route not a list", `[{"name": "data", "default-route": "10.12.0.1"}]`, []string{`"default-route" must be a list of gateways, such as ["10.12.0.1"]`}},
	{"route not an address", `[{"name": "data", "default-route": ["gw"]}]`, []string{`"default-route": "gw" is not a gateway's address, such as 10.12.0.1`}},
	{"two routes", `[{"name": "data", "default-route": ["10.12.0.1"]}, {"name": "control", "default-route": ["10.13.0.1"]}]`, []string{"2 elements have default-route: only one may"}},
	{"route nowhere", `[{"name": "data", "default-route": ["192.0.2.1"]}]`, []string{"default/data", "default route via 192.0.2.1 on net1: the interface has no address in a subnet with that gateway"}},
	{"bandwidth a text", `[{"name": "data", "bandwidth": {"ingressRate": "10M"}}]`, []string{`"bandwidth.ingressRate" must be a whole number, not a text`}},
	{"bandwidth negative", `[{"name": "data", "bandwidth": {"ingressRate": -1}}]`, []string{"ingressRate -1 is negative"}},
	{"burst alone", `[{"name": "data", "bandwidth": {"ingressBurst": 5, "egressRate": 5}}]`, []string{"ingressBurst without ingressRate"}},
	{"port 0", `[{"name": "data", "portMappings": [{"hostPort": 0, "containerPort": 80}]}]`, []string{"hostPort 0", "between 1 and 65535"}},
	{"port protocol", `[{"name": "data", "portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "http"}]}]`, []string{`protocol "http" is none of tcp, udp, sctp`}},
	{"no port mappings there", `[{"name": "data", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]`, []string{"default/data", `"portMappings"`, "capability"}},
	{"claim and ips", `[{"name": "data", "ips": ["10.12.0.9"], "ipam-claim-reference": "c"}]`, []string{"exclude each other"}},
	{"claim without an API server", `[{"name": "data", "ipam-claim-reference": "c"}]`, []string{"IPAMClaim default/c", "no API server"}},
	{"plugin missing", "missing", []string{"default/missing", `"no-such-plugin" is not in`}},
	{"itself", "itself", []string{"default/itself", "meta-plugin"}},
}

// TestTheWordsOfRefusals holds what a tired engineer mistypes against what is answered: by the CNI
// error, which is the text of the pod's Event, by the REST API and by patchctl.
func TestTheWordsOfRefusals(t *testing.T) {
	n := testnode.Standard(t)
	for _, b := range badNetworks {
		config, err := json.Marshal(b.config)
		if err != nil {
			t.Fatal(err)
		}
		n.Write(t, b.name+".yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: "+b.name+"}\nspec:\n  config: "+string(config)+"\n")
	}
	n.Run(t, "holder", `[{"name": "data", "ips": ["10.12.0.50"]}]`)
	refused := func(t *testing.T, networks string) string {
		t.Helper()
		_, err := n.TryRun("bad", networks)
		if err == nil {
			_ = n.Remove("bad")
			t.Fatal("it was accepted")
		}
		var e *types.Error
		if !errors.As(err, &e) || e.Code == types.ErrInternal {
			t.Errorf("not a CNI error with a code of its own: %v", err)
		}
		return err.Error()
	}
	t.Run("CNI", func(t *testing.T) {
		for _, b := range badNetworks {
			t.Run(b.name, func(t *testing.T) { plain(t, refused(t, b.name), b.want...) })
		}
		for _, b := range badAnnotations {
			t.Run(b.name, func(t *testing.T) { plain(t, refused(t, b.text), b.want...) })
		}
		n.AssertClean(t)
	})
	t.Run("default-network", func(t *testing.T) {
		_, err := n.Runtime.Run(context.Background(), meta.Pod{Namespace: "default", Name: "bad", Annotations: map[string]string{meta.DefaultNetworkAnnotation: "data,control"}})
		plain(t, fmt.Sprint(err), meta.DefaultNetworkAnnotation, "exactly one network, not 2")
	})
	t.Run("direct", func(t *testing.T) { directWords(t, n) })
	t.Run("shim", shimWords)
	t.Run("REST", func(t *testing.T) { restWords(t, n) })
	t.Run("patchctl", func(t *testing.T) { patchctlWords(t, n) })
	n.AssertClean(t)
	if ports := n.OVS.Ports(t); len(ports) != 1 {
		t.Errorf("ports: %v, want the holder's alone", ports)
	}
}

// directWords calls our plugins as other programs do: with a configuration of their own.
func directWords(t *testing.T, n *testnode.Node) {
	netns := testnode.Netns(t, "words")
	for _, c := range []struct {
		name, plugin, args, config string
		want                       []string
	}{
		{"capability mac", "patchbay-ovs", "", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay-ovs", "network": "data", "runtimeConfig": {"mac": 7}}`, []string{"capability mac", "must be a text"}},
		{"capability ips", "patchbay-ovs", "", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay-ovs", "network": "data", "runtimeConfig": {"ips": "10.12.0.9"}, "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`,
			[]string{"ips: it must be a list in square brackets, not a text"}},
		{"IP twice in CNI_ARGS", "patchbay-ipam", "IP=10.12.0.9,10.12.0.9", `{"cniVersion": "1.1.0", "name": "x", "type": "bridge", "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`, []string{"10.12.0.9 is listed twice"}},
		{"IP outside in CNI_ARGS", "patchbay-ipam", "IP=192.0.2.1", `{"cniVersion": "1.1.0", "name": "x", "type": "bridge", "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`, []string{"outside pool"}},
		{"CNI_ARGS", "patchbay-ovs", "MAC", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay-ovs", "network": "data"}`, []string{"CNI_ARGS", `"MAC" is not key=value`}},
		{"no ipam", "patchbay-ipam", "", `{"cniVersion": "1.1.0", "name": "x", "type": "bridge"}`, []string{`no "ipam"`}},
		{"runtimeConfig a list", "patchbay-ovs", "", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay-ovs", "network": "data", "runtimeConfig": []}`, []string{`"runtimeConfig" must be an object`}},
		{"no name", "patchbay-ovs", "", `{"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data"}`, []string{"name"}},
		{"version", "patchbay-ovs", "", `{"cniVersion": "9", "name": "x", "type": "patchbay-ovs", "network": "data"}`, []string{"9", "not supported"}},
		{"annotations", "patchbay", "", `{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "runtimeConfig": {"io.kubernetes.cri.pod-annotations": [1]}}`, []string{"io.kubernetes.cri.pod-annotations", "must be an object"}},
		{"delegates", "patchbay", "", `{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "delegates": [{"type": 7}]}`, []string{"delegates[0]"}},
		{"prevResult", "patchbay-ovs", "", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay-ovs", "network": "data", "prevResult": {"ips": "x"}}`, []string{"prevResult", "must be a list"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("unix", n.CNI)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			req := &cniwire.Request{Command: "ADD", ContainerID: "words", Netns: netns, IfName: "net1", Args: c.args, Path: testnode.Bin(), Config: json.RawMessage(c.config)}
			ok, answer, err := cniwire.Call(conn, c.plugin, req, time.Now().Add(time.Minute))
			if err != nil || ok {
				t.Fatalf("%v %s %v", ok, answer, err)
			}
			var e types.Error
			if err := json.Unmarshal(answer, &e); err != nil {
				t.Fatal(err)
			}
			plain(t, e.Error(), c.want...)
		})
	}
}

// shimWords are what the plugin says by itself.
func shimWords(t *testing.T) {
	for _, c := range []struct {
		name, config string
		want         []string
	}{
		{"cut", `{"cniVersion": "1.1.0"`, []string{"network configuration on standard input: it ends before it is complete"}},
		{"a list", `[]`, []string{"it must be an object in braces, not a list"}},
		{"nothing", ``, []string{"standard input is missing"}},
		{"wait a text", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay", "waitSeconds": "x"}`, []string{`"waitSeconds" must be a whole number, not a text`}},
		{"no daemon", `{"cniVersion": "1.1.0", "name": "x", "type": "patchbay", "waitSeconds": 1, "socket": "/nowhere/cni.sock"}`,
			[]string{"patchbayd does not answer on /nowhere/cni.sock", "there is no socket", "is patchbayd running"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay"))
			cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=words", "CNI_NETNS=/run/netns/words", "CNI_IFNAME=eth0", "CNI_PATH="+testnode.Bin())
			cmd.Stdin = strings.NewReader(c.config)
			out, err := cmd.Output()
			var e types.Error
			if jsonErr := json.Unmarshal(out, &e); err == nil || jsonErr != nil {
				t.Fatalf("%v, %v: %s", err, jsonErr, out)
			}
			plain(t, e.Error(), c.want...)
		})
	}
}

// restWords sends what curl would.
func restWords(t *testing.T, n *testnode.Node) {
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.API)
	}}}
	defer hc.CloseIdleConnections()
	const holder = "/v1/namespaces/default/pods/holder/attachments"
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		want                     []string
	}{
		{"mac names the network", "POST", holder, `{"network": "data", "mac": "x"}`, 422, []string{"network default/data: mac: \"x\""}},
		{"no such pod", "POST", "/v1/namespaces/default/pods/nobody/attachments", `{"network": "data"}`, 404, []string{"default/nobody"}},
		{"no such path", "GET", "/v1/nothing", "", 404, []string{"/v1/nothing", "/openapi.json"}},
		{"wrong method", "PATCH", holder, "{}", 405, []string{"PATCH", holder}},
		{"no body", "POST", holder, "", 400, []string{"body"}},
		{"cut body", "POST", holder, `{"network": "data"`, 400, []string{"a bracket or a quote is not closed"}},
		{"no JSON", "POST", holder, `network=data`, 400, []string{"double quotes"}},
		{"list for object", "POST", holder, `[]`, 422, []string{"object"}},
		{"misspelt key", "POST", holder, `{"netwrok": "data"}`, 422, []string{`unknown key "netwrok": did you mean "network"?`}},
		{"ips a text", "POST", holder, `{"network": "data", "ips": "10.12.0.9"}`, 422, []string{"ips", "list"}},
		{"network a number", "POST", holder, `{"network": 7}`, 422, []string{"network", "text"}},
		{"neither", "POST", holder, `{}`, 422, []string{"either network or config"}},
		{"both", "POST", holder, `{"network": "data", "config": {}}`, 422, []string{"either network or config"}},
		{"unknown network", "POST", holder, `{"network": "nowhere"}`, 422, []string{"default/nowhere", "not found"}},
		{"network in capitals", "POST", holder, `{"network": "Data"}`, 422, []string{`"Data" is not a network's name`}},
		{"forbidden", "POST", holder, `{"network": "lab/other"}`, 403, []string{"lab/other", "meta.namespaceIsolation"}},
		{"ip twice", "POST", holder, `{"network": "data", "ips": ["10.12.0.9", "10.12.0.9"]}`, 422, []string{"ips: address 10.12.0.9 is listed twice"}},
		{"ip outside", "POST", holder, `{"network": "data", "ips": ["192.0.2.9"]}`, 422, []string{"default/holder", "192.0.2.9 is outside pool 10.12.0.0-16 (10.12.0.0/16)"}},
		{"ip no address", "POST", holder, `{"network": "data", "ips": ["ten"]}`, 422, []string{`ips: "ten" is neither an address`}},
		{"mac of zeros", "POST", holder, `{"network": "data", "mac": "00:00:00:00:00:00"}`, 422, []string{"mac: an interface can't have"}},
		{"mac multicast", "POST", holder, `{"network": "data", "mac": "01:00:00:00:00:00"}`, 422, []string{"multicast"}},
		{"mac by cniArgs", "POST", holder, `{"network": "data", "cniArgs": {"mac": "00:00:00:00:00:00"}}`, 422, []string{"mac: an interface can't have"}},
		{"gateway no address", "POST", holder, `{"network": "data", "defaultRoute": ["gw"]}`, 422, []string{"defaultRoute", `"gw"`}},
		{"long interface", "POST", holder, `{"network": "data", "interface": "abcdefghijklmnop"}`, 422, []string{"interface", "15 bytes"}},
		{"eth0", "POST", holder, `{"network": "data", "interface": "eth0"}`, 422, []string{"eth0"}},
		{"taken interface", "POST", holder, `{"network": "control", "interface": "net1"}`, 409, []string{"net1", "default/holder", "default/data"}},
		{"path and body differ", "PUT", holder + "/x0", `{"network": "data", "interface": "x1"}`, 422, []string{"x0", "x1"}},
		{"another UID", "POST", holder, `{"network": "data", "uid": "other"}`, 409, []string{"UID"}},
		{"bandwidth of nothing", "POST", holder, `{"network": "data", "bandwidth": {}}`, 422, []string{"bandwidth"}},
		{"bandwidth a text", "POST", holder, `{"network": "data", "bandwidth": {"ingressRate": "10M"}}`, 422, []string{"bandwidth.ingressRate", "number"}},
		{"port mapping", "POST", holder, `{"network": "data", "portMappings": [{"hostPort": 99999, "containerPort": 1}]}`, 422, []string{"hostPort 99999"}},
		{"port mapping half", "POST", holder, `{"network": "data", "portMappings": [{"hostPort": 80}]}`, 422, []string{"containerPort"}},
		{"inline a list", "POST", holder, `{"config": []}`, 422, []string{"it must be an object in braces, not a list"}},
		{"inline without a type", "POST", holder, `{"config": {"cniVersion": "1.1.0", "network": "data"}}`, 422, []string{`"type" is missing`}},
		{"inline misspelt", "POST", holder, `{"config": {"cniVersion": "1.1.0", "type": "patchbay-ovs", "netwrok": "data"}}`, 422, []string{`unknown key "netwrok"`}},
		{"inline ipam misspelt", "POST", holder, `{"config": {"cniVersion": "1.1.0", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "netwrok": "10.0.0.0/8"}}}`, 422, []string{`ipam: unknown key "netwrok"`}},
		{"broken network", "POST", holder, `{"network": "syntax"}`, 422, []string{"default/syntax", "syntax.yaml"}},
		{"detach what is not there", "DELETE", holder + "/x9", "", 404, []string{"x9", "default/holder"}},
		{"force what is no boolean", "DELETE", holder + "/net1?force=maybe", "", 422, []string{"query.force", "true or false"}},
		{"watch what is no boolean", "GET", "/v1/attachments?watch=maybe", "", 422, []string{"watch", "true or false"}},
		{"release no address", "DELETE", "/v1/pools/10.12.0.0-16/claims/ten", "", 422, []string{`"ten" is not an address`}},
		{"release what is in use", "DELETE", "/v1/pools/10.12.0.0-16/claims/10.12.0.50", "", 409, []string{"10.12.0.50", "default/holder"}},
		{"remove a pool in use", "DELETE", "/v1/pools/10.12.0.0-16", "", 409, []string{"10.12.0.50", "default/holder", "can't be removed"}},
		{"remove no pool", "DELETE", "/v1/pools/nix", "", 404, []string{"pool nix"}},
		{"release of no pool", "DELETE", "/v1/pools/nix/claims/10.12.0.50", "", 404, []string{"10.12.0.50", "pool nix"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://patchbay"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
			resp, err := hc.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			p := client.Problem{}
			if err := json.Unmarshal(b, &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("no problem document (%v): %s", err, b)
			}
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			plain(t, p.Error(), c.want...)
		})
	}
}

// patchctlWords runs the command as somebody at a terminal does.
func patchctlWords(t *testing.T, n *testnode.Node) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad, none := file("bad.json", `{"type": `), filepath.Join(dir, "none.json")
	notype, manifest := file("notype.json", `{"cniVersion": "1.1.0"}`), file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {nmae: a}\n")
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"", 0, []string{"Usage"}},
		{"atach", 2, []string{`"atach"`, "attach"}},
		{"attach", 2, []string{"give one pod: pod/NAME"}},
		{"attach pod/holder", 2, []string{"give either --network or --config"}},
		{"attach svc/holder --network data", 2, []string{`"svc/holder" is not pod/NAME`}},
		{"attach pod/ --network data", 2, []string{`"pod/" is not pod/NAME`}},
		{"attach pod/holder --netwrok data", 2, []string{"--netwrok", "--network"}},
		{"attach pod/holder --network", 2, []string{"--network", "needs a value"}},
		{"attach pod/holder --network data --dry-run=maybe", 2, []string{"--dry-run", "true or false", "maybe"}},
		{"attach pod/holder --network nowhere", 1, []string{"default/nowhere", "not found"}},
		{"attach pod/nobody --network data", 1, []string{"default/nobody"}},
		{"attach pod/holder -n lab --network data", 1, []string{"lab/holder"}},
		{"attach pod/holder --network data --ip 10.12.0.9 --ip 10.12.0.9", 1, []string{"10.12.0.9 is listed twice"}},
		{"attach pod/holder --network data --ip ten", 1, []string{`"ten" is neither`}},
		{"attach pod/holder --network data --mac 00:00:00:00:00:00", 1, []string{"mac: an interface can't have"}},
		{"attach pod/holder --network data --interface a/b", 1, []string{"slash"}},
		{"attach pod/holder --config " + none, 2, []string{"--config " + none + " does not exist"}},
		{"attach pod/holder --config " + dir, 2, []string{"--config " + dir, "is a directory"}},
		{"attach pod/holder --config " + bad, 2, []string{"--config " + bad, "a bracket or a quote is not closed"}},
		{"attach pod/holder --config " + notype, 1, []string{`"type" is missing`}},
		{"detach pod/holder", 2, []string{"--interface"}},
		{"detach pod/holder --interface x9", 1, []string{"x9", "default/holder"}},
		{"get", 2, []string{"give one of attachments"}},
		{"get pods", 2, []string{"give one of attachments"}},
		{"get attachments -o jsno", 2, []string{`output "jsno" is none of table`}},
		{"get nodes -w", 2, []string{"only attachments can be watched"}},
		{"describe pod/nobody", 1, []string{"default/nobody"}},
		{"ipam", 0, []string{"Usage"}},
		{"ipam shwo", 2, []string{`"shwo"`, "show"}},
		{"ipam show nix", 1, []string{`"nix"`, "neither a pool"}},
		{"ipam show a b", 2, []string{"a pool or an address"}},
		{"ipam release 10.12.0.0-16", 2, []string{"a pool and an address"}},
		{"ipam rm", 2, []string{"one pool", "get pools"}},
		{"ipam rm nix", 1, []string{"pool nix", "no pool of that name"}},
		{"ipam release 10.12.0.0-16 ten", 1, []string{`"ten" is not an address`}},
		{"ipam check now", 2, []string{"now"}},
		{"leftovers rmm", 2, []string{"patchctl leftovers takes no arguments", "rmm"}},
		{"leftovers rm", 2, []string{"KIND/ID", "--all"}},
		{"leftovers rm nix", 2, []string{`"nix" is not KIND/ID`}},
		{"leftovers rm port/nix", 1, []string{"nix"}},
		{"sandbox run", 2, []string{"give a pod's name"}},
		{"sandbox run -f " + none, 1, []string{none, "does not exist"}},
		{"sandbox run -f " + manifest, 1, []string{`unknown key "nmae" in metadata`, `"name"`}},
		{"sandbox run ../x --state-dir " + dir, 2, []string{`"../x"`}},
		{"sandbox rm nobody --state-dir " + dir, 1, []string{"default/nobody", "does not run here"}},
		{"migrate check --kubeconfig " + none, 2, []string{"--kubeconfig " + none + " does not exist"}},
		{"migrate check", 1, []string{"--kubeconfig", "$KUBECONFIG", "~/.kube/config"}},
		{"get nodes --server /run/x.sock", 2, []string{`"/run/x.sock" must be unix:///path/to/api.sock or https://host:port`}},
		{"get nodes --server unix://" + dir + "/x.sock", 1, []string{"patchbayd does not answer at " + dir + "/x.sock: there is no socket"}},
		{"get nodes --server https://127.0.0.1:1", 1, []string{"patchbayd does not answer at https://127.0.0.1:1"}},
		{"get nodes --server https://a:b:c", 2, []string{`server "https://a:b:c" must be`}},
		{"get nodes --token " + none, 2, []string{"--token " + none + " does not exist"}},
	} {
		t.Run(strings.ReplaceAll(c.args, dir, "DIR"), func(t *testing.T) {
			cmd := exec.Command(filepath.Join(testnode.Bin(), "patchctl"), strings.Fields(c.args)...)
			cmd.Env = append(os.Environ(), "PATCHBAY_SERVER=unix://"+n.API, "HOME="+dir, "KUBECONFIG=")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // its exit code is looked at
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			text := strings.TrimSpace(stderr.String())
			if c.code == 0 {
				text = stdout.String()
			}
			plain(t, strings.ReplaceAll(text, "\n", " | "), c.want...)
		})
	}
}
