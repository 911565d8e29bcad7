package config

import (
	"strings"
	"testing"

	"time"

	"github.com/patchbay-cni/patchbay/test/bound"
)

func TestAnEmptyFileIsAValidStandaloneNode(t *testing.T) {
	t.Setenv("NODE_NAME", "n1")
	c, err := Parse(nil, nil)
	if err != nil || c.Node != "n1" || c.StateDir != "/var/lib/patchbay" || c.Listen.CNI != "/run/patchbay/cni.sock" || !c.Meta.NamespaceIsolation {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestSettingsGoOverTheFile(t *testing.T) {
	c, err := Parse([]byte("node: n1\novs:\n  bridges:\n    data: {name: br-data, uplinks: [eth1]}\n"),
		[]string{"ovs.bridges.data.failMode=secure", "ovs.bridges.control.name=br-c", "gc.interval=5s", "meta.defaultNetworks=[a, b]"})
	if err != nil {
		t.Fatal(err)
	}
	if d := c.OVS.Bridges["data"]; d.Name != "br-data" || d.FailMode != "secure" || len(d.Uplinks) != 1 || c.OVS.Bridges["control"].Name != "br-c" {
		t.Errorf("%+v", c.OVS)
	}
	if time.Duration(c.GC.Interval) != 5*time.Second || len(c.Meta.DefaultNetworks) != 2 {
		t.Errorf("%+v", c)
	}
}

func TestMistakesNameKeyAndLine(t *testing.T) {
	for file, want := range map[string]string{
		"node: n1\nstatDir: /x\n":                                           `line 2: unknown key "statDir"`,
		"node: n1\novs:\n  bridges:\n    data: {nam: br}\n":                 `line 4: unknown key "ovs.bridges.data.nam"`,
		"node: n1\nmeta: [\n":                                               "line 2",
		"node: n1\ngc: {interval: soon}\n":                                  `line 2: gc.interval must be a duration`,
		"node: n1\ngc: {interval: 1ms}\n":                                   "1s or more",
		"node: N1\n":                                                        `node "N1"`,
		"node: n1\nlog: {level: loud}\n":                                    `log.level "loud"`,
		"node: n1\netcd: {username: u}\n":                                   "etcd.passwordFile belong together",
		"node: n1\netcd: {prefix: x}\n":                                     `etcd.prefix "x"`,
		"node: n1\novs: {bridges: {data: {}}}\n":                            "ovs.bridges.data: name",
		"node: n1\novs: {bridges: {a: {name: b}, c: {name: b}}}":            "a and c are both bridge b",
		"node: n1\nipam: {pools: {p: {network: x, subnetLen: 24}}}":         "ipam.pools.p",
		"node: n1\nkubernetes: {enabled: maybe}\n":                          "kubernetes.enabled",
		"node: n1\nkubernetes: {events: some}\n":                            "kubernetes.events",
		"node: n1\nkubernetes: {enabled: \"false\"}\novs: {marker: true}\n": "ovs.marker",
	} {
		if _, err := Parse([]byte(file), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", file, err, want)
		}
	}
	for set, want := range map[string]string{"nonsense": "key=value", "nod=x": `unknown key "nod"`,
		"etcd.endpoints=[http://$(PATCHBAY_ETCD_SERVICE_HOST):12379]": `etcd.endpoints "http://$(PATCHBAY_ETCD_SERVICE_HOST):12379" holds a variable`} {
		if _, err := Parse([]byte("node: n1"), []string{set}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want %q", set, err, want)
		}
	}
}

// F8: the daemon's configuration, with a setting over it. What is read can be read again as it is shown.
func FuzzF8Config(f *testing.F) {
	for _, s := range []string{"", "node: n1", "ovs: {bridges: {data: {name: b}}}", "ipam: {pools: {p: {network: 10.0.0.0/8, subnetLen: 24}}}", "node: &a [*a]", "gc: {interval: 1}"} {
		f.Add([]byte(s), "gc.interval=5s")
	}
	f.Fuzz(func(t *testing.T, file []byte, set string) {
		bound.Check(t, func() {
			if _, err := Parse(file, []string{set}); err != nil && err.Error() == "" {
				t.Errorf("%q, %q: an error that says nothing", file, set)
			}
		})
	})
}
