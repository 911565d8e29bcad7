package manifest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nadHead = "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\n"

func manifestOf(name string) string {
	return nadHead + "metadata: {name: " + name + "}\nspec:\n  config: '{\"cniVersion\": \"1.1.0\", \"type\": \"patchbay-ovs\", \"network\": \"data\"}'\n"
}

// YAML 1.1 makes false of n and a number of 1.10; a name is what was written.
func TestScalarsStayAsTheyAreWritten(t *testing.T) {
	for _, name := range []string{"n", "y", "no", "on", "off", "yes", "true", "null", "1.10", "010", "0x10", "1e3", "2026-11-24", "12.5.6", `"n"`, "'1.10'"} {
		plain := strings.Trim(name, `"'`)
		o, err := parse([]byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p" + "\n  namespace: " + name + "\n  annotations: {a/b: " + name + "}\n---\n" +
			strings.Replace(manifestOf(name), "null", "'null'", 1)))
		if name == "null" {
			plain = "default" // a namespace that is not given
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := o.pods[key{plain, "p"}]
		if p == nil || name != "null" && p.Annotations["a/b"] != plain {
			t.Errorf("%s: %+v", name, o.pods)
		}
		if o.networks[key{"default", strings.Trim(name, `"'`)}] == nil {
			t.Errorf("%s: %+v", name, o.networks)
		}
	}
	o, err := parse([]byte("base: &m {namespace: lab}\n---\n" + nadHead + "metadata: &n {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  <<: &x {namespace: lab}\n  name: b\n"))
	if err != nil || o.pods[key{"lab", "b"}] == nil || o.pods[key{"lab", "b"}].Annotations != nil || o.networks[key{"default", "a"}] == nil {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestBadManifestsAreToldInWords(t *testing.T) {
	const head = nadHead + "metadata: {name: a}\n"
	for _, c := range []struct{ name, text, want string }{
		{"a name that is a list", nadHead + "metadata:\n  name: [a]\n", "line 1: NetworkAttachmentDefinition: line 4: metadata.name must be a text, not a list"},
		{"a name that is missing", nadHead + "metadata: {}\n", "metadata.name is missing"},
		{"no metadata", nadHead, "metadata.name is missing"},
		{"metadata is a list", nadHead + "metadata: [a]\n", "line 3: metadata must be an object, not a list"},
		{"a name in capitals", nadHead + "metadata: {name: Blue}\n", `metadata.name: "Blue" is not a name: lower-case letters`},
		{"a namespace with a slash", nadHead + "metadata: {name: a, namespace: a/b}\n", `metadata.namespace: "a/b"`},
		{"config as an object", head + "spec:\n  config:\n    type: patchbay-ovs\n", "line 6: spec.config must be a text, not an object: put it into quotes, or behind a |"},
		{"config misspelt", head + "spec: {confg: ''}\n", `line 4: unknown key "confg" in spec: did you mean "config"?`},
		{"spec is a text", head + "spec: '{}'\n", "line 4: spec must be an object, not the text"},
		{"annotations misspelt", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotation: {}}\n", `unknown key "annotation" in metadata: did you mean "annotations"?`},
		{"annotation as JSON", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    k8s.v1.cni.cncf.io/networks: [{\"name\": \"a\"}]\n",
			"line 6: annotation k8s.v1.cni.cncf.io/networks must be a text, not a list: put it into quotes"},
		{"annotations as a list", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: [a]}\n", "metadata.annotations must be an object, not a list"},
		{"another apiVersion", strings.Replace(manifestOf("a"), "io/v1", "io/v1beta1", 1), "apiVersion must be k8s.cni.cncf.io/v1, not \"k8s.cni.cncf.io/v1beta1\""},
		{"a key twice", nadHead + "metadata: {name: a, name: b}\n", `line 3: metadata has the key "name" twice`},
		{"a list at the top", "- a\n", "it must be a Kubernetes object, not a list"},
		{"a text at the top", "hello\n", `not the text "hello"`},
		{"bad indentation", "apiVersion: v1\nkind: Pod\n  metadata: [\n", "is the indentation right"},
		{"a tab", "apiVersion: v1\nkind:\tPod\nmetadata:\n\tname: a\n", "spaces only"},
		{"broken JSON", head + "spec:\n  config: '{\"type\": }'\n", "spec.config (line 5): network configuration is not a JSON object; } at character 10 comes too early"},
		{"no type", head + "spec:\n  config: '{\"cniVersion\": \"1.0.0\"}'\n", `"type" is missing`},
	} {
		if _, err := parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if o, err := parse([]byte("---\n---\n# nothing\n---\nkind: Service\nmetadata: {name: A}\nspec: []\n---\n" + manifestOf("a"))); err != nil || len(o.networks) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// follow runs a source and returns a function that waits until it has exactly those networks; it
// looks at what is known, and has nothing read.
func follow(t *testing.T, dir string) func(names ...string) {
	t.Helper()
	s := New(dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(names ...string) {
		t.Helper()
		var have []string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			have = nil
			for _, n := range s.Networks() {
				have = append(have, n.Name)
			}
			if slices.Equal(have, names) {
				return
			}
		}
		t.Fatalf("networks %v, want %v", have, names)
	}
}

func TestADirectoryThatAppearsAfterTheStartIsWatched(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "manifests")
	has := follow(t, dir)
	has()
	write(t, filepath.Join(dir, "x.yaml"), manifestOf("x"))
	has("x")
	write(t, filepath.Join(dir, "y.yaml"), manifestOf("y"))
	has("x", "y")
}

func TestADirectoryThatIsRemovedAndComesAgainIsWatched(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	dir := filepath.Join(above, "manifests")
	write(t, filepath.Join(dir, "x.yaml"), manifestOf("x"))
	has := follow(t, dir)
	has("x")
	for range 3 {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		has()
		write(t, filepath.Join(dir, "y.yaml"), manifestOf("y"))
		has("y")
	}
	if err := os.Rename(above, above+".old"); err != nil {
		t.Fatal(err)
	}
	has()
	write(t, filepath.Join(dir, "z.yaml"), manifestOf("z"))
	has("z")
}

// A ConfigMap's files are links through ..data, which kubelet puts in place by rename.
func TestALinkThatIsLedElsewhereIsFollowed(t *testing.T) {
	top := t.TempDir()
	when := time.Now().Add(-time.Hour)
	swap := func(link, target string) {
		t.Helper()
		if err := os.Symlink(target, link+"_tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+"_tmp", link); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(top, "manifests")
	for _, v := range []string{"x", "y"} { // of one size and time
		file := filepath.Join(dir, "..version-"+v, "net.yaml")
		write(t, file, manifestOf(v))
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	swap(filepath.Join(dir, "..data"), "..version-x")
	swap(filepath.Join(dir, "net.yaml"), "..data/net.yaml")
	has := follow(t, dir)
	has("x")
	swap(filepath.Join(dir, "..data"), "..version-y")
	has("y")

	link := filepath.Join(top, "link")
	write(t, filepath.Join(top, "one", "a.yaml"), manifestOf("a"))
	write(t, filepath.Join(top, "two", "b.yaml"), manifestOf("b"))
	swap(link, "one")
	has = follow(t, link)
	has("a")
	swap(link, "two")
	has("b")
	write(t, filepath.Join(top, "two", "c.yaml"), manifestOf("c"))
	has("b", "c")
}

// An error about one object is not told of another.
func TestABrokenManifestIsToldOfItsOwnObjectAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), nadHead+"metadata: {name: broken}\nspec:\n  config: '{\"type\": }'\n")
	write(t, filepath.Join(dir, "z.yaml"), "apiVersion: v1\nkind: Pod\n  metadata: [\n")
	s := New(dir, slog.New(slog.DiscardHandler))
	for name, want := range map[string][2]string{
		"broken": {"its manifest is broken: " + dir + "/a.yaml: line 1: NetworkAttachmentDefinition default/broken: spec.config (line 5)", "z.yaml"},
		"other":  {"NetworkAttachmentDefinition default/other: not found in " + dir + "; also unreadable: " + dir + "/a.yaml", "manifest is broken"},
	} {
		_, err := s.Network(context.Background(), "default", name)
		if err == nil || !strings.Contains(err.Error(), want[0]) || strings.Contains(err.Error(), want[1]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
