package cniconf

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("C01 the keys of a list", theKeysOfAList)
	t.Run("C02 C03 C07 bad configurations", badConfigurations)
	t.Run("C03 C39 C40 C41 what a plugin is given", whatAPluginIsGiven)
	t.Run("C06 plugins of the subdirectory are chained", pluginsOfTheSubdirectory)
	t.Run("C08 unknown keys pass through with their meaning", unknownKeysPassThrough)
}

func unknownKeysPassThrough(t *testing.T) {
	const plugin = `{"type": "t", "big": 12345678901234567890, "float": 1.50, "nested": {"z": null, "a": [1, {"x": "é\u0000"}]}, "capabilities": {"ips": true}, "ipam": {"type": "h", "odd": [[{"r": 1}]]}}`
	l, err := Parse([]byte(`{"cniVersion": "1.0.0", "name": "n", "future": 1, "plugins": [`+plugin+`]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := json.Marshal(l) // as the record keeps it
	if err != nil {
		t.Fatal(err)
	}
	var again List
	if err := json.Unmarshal(stored, &again); err != nil {
		t.Fatal(err)
	}
	got, err := again.Request(0, Inject{})
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []string{"12345678901234567890", "1.50", `[[{"r":1}]]`, `"z":null`} {
		if !strings.Contains(string(got), keep) {
			t.Errorf("%s lost %s", got, keep)
		}
	}
}

func whatAPluginIsGiven(t *testing.T) {
	l, err := Parse([]byte(`{"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "9.9.9"], "name": "n", "plugins": [
		{"type": "a", "capabilities": {"mac": true, "x.example/any": true, "off": false}, "runtimeConfig": {"stale": 1}, "cni.dev/x": 1}, {"type": "b"}]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	rc := map[string]any{"mac": json.RawMessage(`"m"`), "x.example/any": json.RawMessage(`[1]`), "off": json.RawMessage(`1`), "undeclared": json.RawMessage(`1`)}
	for i, want := range []string{
		`{"cniVersion":"1.1.0","name":"n","prevResult":{"p":1},"runtimeConfig":{"mac":"m","x.example/any":[1]},"type":"a"}`, // C03: the highest
		`{"cniVersion":"1.1.0","name":"n","prevResult":{"p":1},"type":"b"}`,
	} {
		got, err := l.Request(i, Inject{RuntimeConfig: rc, PrevResult: json.RawMessage(`{"p":1}`)})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Error(d)
		}
	}
}

func theKeysOfAList(t *testing.T) {
	l, err := Parse([]byte(`{"cniVersion": "0.4.0", "cniVersions": ["1.0.0"], "name": "n", "disableCheck": true, "disableGC": true,
		"loadOnlyInlinedPlugins": true, "plugins": [{"type": "t"}]}`), "other")
	if err != nil {
		t.Fatal(err)
	}
	if l.CNIVersion != "1.0.0" || l.Name != "n" || !l.DisableCheck || !l.DisableGC || len(l.Plugins) != 1 || l.Plugins[0].Type != "t" {
		t.Errorf("%+v", l)
	}
	if l, err := Parse([]byte(`{"cniVersion": "0.4.0", "type": "t"}`), "other"); err != nil || l.Name != "other" || l.DisableCheck || l.DisableGC {
		t.Errorf("%+v, %v", l, err)
	}
}

func badConfigurations(t *testing.T) {
	for _, c := range []struct {
		name, conf, want string
		code             uint
	}{
		{"C02 name", `{"cniVersion": "1.0.0", "name": "a b", "type": "t"}`, `"a b"`, types.ErrInvalidNetworkConfig},
		{"C07 type with a slash", `{"cniVersion": "1.0.0", "name": "a", "type": "../../bin/sh"}`, "plain file name", types.ErrInvalidNetworkConfig},
		{"type missing", `{"cniVersion": "1.0.0", "name": "a"}`, `"type" is missing`, types.ErrInvalidNetworkConfig},
		{"C03 no version we know", `{"cniVersion": "9.9.9", "name": "a", "type": "t"}`, "9.9.9", types.ErrIncompatibleCNIVersion},
		{"no JSON", "{\n\"type\": }", "line 2, character 9", types.ErrDecodingFailure},
		{"no object", `[]`, "not a JSON object", types.ErrDecodingFailure},
		{"empty list", `{"cniVersion": "1.0.0", "name": "a", "plugins": []}`, "empty list", types.ErrInvalidNetworkConfig},
		{"null plugin", `{"cniVersion": "1.0.0", "name": "a", "plugins": [null]}`, "null", types.ErrInvalidNetworkConfig},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.conf), "")
			var e *types.Error
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("%v, want code %d and %q", err, c.code, c.want)
			}
		})
	}
}

// F2: a network configuration, or a list of them.
func FuzzF2Netconf(f *testing.F) {
	for _, s := range []string{`{"cniVersion":"1.0.0","name":"a","type":"t"}`, `{"plugins":[{"type":"t","ipam":{}}]}`, `{"cniVersions":["1.1.0"],"name":"x","type":"t","args":{"cni":{}}}`, `{`, `null`, `{"type":"a","capabilities":{"x":true}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b, "default")
		if err != nil {
			return
		}
		_ = l.MergeArgs(map[string]json.RawMessage{"a": json.RawMessage("1")}) // may refuse
		for i := range l.Plugins {
			if _, err := l.Request(i, Inject{}); err != nil {
				t.Errorf("%q: %v", b, err)
			}
		}
		stored, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(stored, &List{}); err != nil {
			t.Errorf("%q was stored as %q: %v", b, stored, err)
		}
	})
}
