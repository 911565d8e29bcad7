package cniconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func pluginsOfTheSubdirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("n/20-b.conf", `{"type": "b"}`)
	write("n/10-a.conf", `{"type": "a"}`)
	write("n/30-c.txt", `no plugin`)
	for name, c := range map[string]struct{ conf, want string }{
		"appended":                 {`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "x"}]}`, "x a b"},
		"only those":               {`{"cniVersion": "1.1.0", "name": "n"}`, "a b"},
		"only inlined":             {`{"cniVersion": "1.1.0", "name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "x"}]}`, "x"},
		"only inlined and none":    {`{"cniVersion": "1.1.0", "name": "n", "loadOnlyInlinedPlugins": true}`, "error: but no plugins"},
		"no directory":             {`{"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "x"}]}`, "x"},
		"no directory, no plugins": {`{"cniVersion": "1.1.0", "name": "other"}`, "error: empty list"},
	} {
		t.Run(name, func(t *testing.T) {
			write("10-n.conflist", c.conf)
			l, err := Find(dir, filepath.Join(dir, "10-n.conflist"))
			if want, fails := strings.CutPrefix(c.want, "error: "); fails {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(l.Types(), " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	write("n/40-bad.conf", `{"type": "../sh"}`)
	write("10-n.conflist", `{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "x"}]}`)
	if _, err := Find(dir, filepath.Join(dir, "10-n.conflist")); err == nil || !strings.Contains(err.Error(), "40-bad.conf") {
		t.Errorf("%v", err)
	}
	// A network of the API server is whole in itself.
	if l, err := Parse([]byte(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "x"}]}`), ""); err != nil || len(l.Plugins) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}
