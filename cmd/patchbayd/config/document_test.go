package config

import (
	"strings"
	"testing"
)

func TestBadConfigurationsAreToldInWords(t *testing.T) {
	for _, c := range []struct{ file, set, want string }{
		{"nodee: a\n", "", `line 1: unknown key "nodee": did you mean "node"?`},
		{"node: a\novs: {bridgs: {}}\n", "", `line 2: unknown key "ovs.bridgs": did you mean "bridges"?`},
		{"ipam: {pools: {p: {netwrok: x}}}\n", "", `unknown key "ipam.pools.p.netwrok": did you mean "network"?`},
		{"gc: {interval: 60}\n", "", `line 1: gc.interval must be a duration, such as 60s, not "60"`},
		{"node: [a]\n", "", "line 1: node must be a text, not a list"},
		{"listen: unix\n", "", `listen must be keys with values, not "unix"`},
		{"meta: {namespaceIsolation: maybe}\n", "", `meta.namespaceIsolation must be true or false, not "maybe"`},
		{"meta: {delegateLimit: many}\n", "", `meta.delegateLimit must be a whole number, not "many"`},
		{"meta: {defaultNetworks: blue}\n", "", `meta.defaultNetworks must be a list, such as [a, b], not "blue"`},
		{"meta: {defaultNetworks: [[blue]]}\n", "", "meta.defaultNetworks[0] must be a text, not a list"},
		{"ovs: {bridges: {data: br0}}\n", "", `ovs.bridges.data must be keys with values, not "br0"`},
		{"ovs: {bridges: {data: {name: ''}}}\n", "", "ovs.bridges.data: name is missing"},
		{"ipam: {pools: {p: {network: 10.0.0.0, subnetLen: 24}}}\n", "", `ipam.pools.p: ipam: network "10.0.0.0" is not a CIDR, such as`},
		{"node: ''\n", "", "node is missing"},
		{"- a\n", "", "the configuration must be keys with values, not a list"},
		{"hello", "", `not "hello"`},
		{"- a\n", "node=a", "not a list"},
		{"listen: {metrics: abc}\n", "", `listen.metrics "abc" must be host:port`},
		{"ovs: {db: tcp}\n", "", `ovs.db "tcp" must be unix:/path`},
		{"node: a\n b: c\n", "", "is the indentation right"},
		{"node: a\nnode: b\n", "", `line 2: mapping key "node" already defined at line 1`},
		{"node: a\n---\nnode: b\n", "", "more than one document"},
		{"", "node", "--set node: it must be key=value, with dotted keys, such as log.level=debug"},
		{"", "=x", "it must be key=value"},
		{"", "ovs..x=br0", "it must be key=value"},
		{"", "nodee=x", `unknown key "nodee": did you mean "node"?`},
		{"", "node=[a", "--set node=[a: line 1: "},
		{"", "gc.interval=soon", `gc.interval must be a duration, such as 60s, not "soon"`},
		{"", "listen.api.x=1", "listen.api must be a text, not keys with values"},
		{"", "ovs.bridges.data=br0", `ovs.bridges.data must be keys with values, not "br0"`},
		{"log: {level: 1.10}\n", "node=n", `log.level "1.10" is none of debug`}, // as it is written
	} {
		var set []string
		if c.set != "" {
			set = []string{c.set}
		}
		_, err := Parse([]byte(c.file), set)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %v, want %q", c.file, c.set, err, c.want)
			continue
		}
		for _, word := range []string{"!!", "unmarshal", "config.", "[]string", "yaml:", `""`} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%q has %q", err, word)
			}
		}
	}
	c, err := Parse([]byte("x-y: &b {name: br0}\n"), nil)
	if err == nil {
		t.Error(c)
	}
	c, err = Parse([]byte("ovs: {bridges: {data: &b {name: br0}, control: {<<: *b, name: 010}}}\n"), []string{"ovs.bridges.data.uplinks=[1.10]", "etcd.tls.cert=y"})
	if err != nil || c.OVS.Bridges["control"].Name != "010" || c.OVS.Bridges["data"].Uplinks[0] != "1.10" || c.Etcd.TLS.Cert != "y" {
		t.Errorf("%+v, %v", c, err)
	}
}
