package manifest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
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
		{"a merge of itself", nadHead + "metadata: &m\n  <<: *m\n  labels: {a: b}\n", "line 1: line 4: *m leads to itself"},
		{"a merge of itself through others", nadHead + "metadata: &m\n  labels: &l\n    x: &x [{<<: *l}, *m]\n  <<: *x\n", "leads to itself"},
		{"a list of itself", "apiVersion: v1\nkind: List\nitems: &i\n- *i\n", "line 4: *i leads to itself"},
		{"a document of itself", "&d\nkind: Pod\n<<: [*d]\n", "*d leads to itself"},
		{"a merge of a text", nadHead + "metadata: {name: a, <<: b}\n", "<< must be an object or a list of objects"},
		{"an unknown key merged in", nadHead + "metadata: {name: a, <<: [{annotation: {}}]}\n", `unknown key "annotation" in metadata`},
		{"a List with items misspelt", "apiVersion: v1\nkind: List\nitem: []\n", `unknown key "item" in the List: did you mean "items"?`},
		{"a List of an object", "apiVersion: v1\nkind: List\nitems: {}\n", "items of the List must be a list, not an object"},
		{"a List in a List", "apiVersion: v1\nkind: List\nitems:\n- {kind: List}\n", "items[0] (line 4): a List in a List is not read"},
		{"an item without a kind", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1}\n", "items[0] (line 4): kind is missing"},
		{"an object twice", manifestOf("a") + "---\n" + manifestOf("a"), "NetworkAttachmentDefinition default/a: it is in this file twice, in lines 1 and 7: remove one of them"},
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

// follow runs a catalog and returns a function that waits until it has exactly those networks; it
// looks at what is known, and has nothing read.
func follow(t *testing.T, dir string) func(names ...string) {
	t.Helper()
	return run(t, New(dir, slog.New(slog.DiscardHandler)))
}

func run(t *testing.T, s *Catalog) func(names ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func(names ...string) {
		t.Helper()
		until(t, fmt.Sprintf("the networks are %v", names), func() bool {
			var have []string
			for _, n := range s.Networks() {
				have = append(have, n.Name)
			}
			return slices.Equal(have, names)
		})
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not yet: %s", what)
		}
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

// What is merged in many times over is looked at once.
func TestMergesThatMultiplyAreReadInNoTime(t *testing.T) {
	text := "l0: &l0 {namespace: lab}\n"
	for i := range 60 {
		text += fmt.Sprintf("l%d: &l%d {<<: [*l%d, *l%d]}\n", i+1, i+1, i, i)
	}
	o, err := parse([]byte("apiVersion: v1\nkind: List\nitems:\n- kind: ConfigMap\n  " + strings.ReplaceAll(text, "\n", "\n  ") +
		"\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, annotations: {<<: [{x: y}, {x: z, u: v}]}, <<: *l60}\n"))
	if p := o.pods[key{"lab", "a"}]; err != nil || p == nil || p.Annotations["x"] != "y" || p.Annotations["u"] != "v" {
		t.Errorf("%+v, %v", o.pods, err)
	}
}

// An error tells the line of JSON, too; a file that is not JSON is YAML whatever its name.
func TestJSONIsReadAsJSON(t *testing.T) {
	long := strings.Repeat("k", 2000) // more than a key of YAML may have
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.json": `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"` + long + `": "\ud83d\ude00\\u0041", "n": null}}}`,
		"b.json": "{\"apiVersion\": \"v1\",\n\"kind\": \"Pod\",\n\n\"metadata\": {\"name\": [\"a\"]}}",
		"c.json": "apiVersion: v1\nkind: Pod\nmetadata: {name: c}\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	if pods, err := Pods(dir + "/a.json"); err != nil || len(pods) != 1 || pods[0].Annotations[long] != "\U0001F600\\u0041" {
		t.Errorf("%+v, %v", pods, err)
	}
	if _, err := Pods(dir + "/b.json"); err == nil || !strings.Contains(err.Error(), "line 4: metadata.name must be a text, not a list") {
		t.Error(err)
	}
	if pods, err := Pods(dir + "/c.json"); err != nil || len(pods) != 1 {
		t.Errorf("%+v, %v", pods, err)
	}
}

func TestTwinsAreToldWithBothPlaces(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("x"))
	write(t, filepath.Join(dir, "b.yaml"), manifestOf("y")+"---\n"+manifestOf("x"))
	s := New(dir, slog.New(slog.DiscardHandler))
	want := dir + "/b.yaml: line 7: NetworkAttachmentDefinition default/x is in " + dir + "/a.yaml (line 1), too, which counts: remove one of them"
	if err := s.Errors()[dir+"/b.yaml"]; err == nil || err.Error() != want || len(s.Errors()) != 1 || len(s.Networks()) != 2 {
		t.Errorf("%v, %v, want %s", s.Networks(), s.Errors(), want)
	}
	if err := os.Remove(dir + "/a.yaml"); err != nil {
		t.Fatal(err)
	}
	s.scan(nil)
	if len(s.Errors()) != 0 || len(s.Networks()) != 2 {
		t.Errorf("%v, %v", s.Networks(), s.Errors())
	}
}

func TestLinksOnTheWayAreFollowed(t *testing.T) {
	top := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		_ = os.Remove(filepath.Join(top, name))
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(top, "one/m/a.yaml"), manifestOf("a"))
	write(t, filepath.Join(top, "two/m/b.yaml"), manifestOf("b"))
	link("one", "first")
	link(filepath.Join(top, "first"), "second")
	has := follow(t, filepath.Join(top, "second/m"))
	has("a")
	link("two", "first") // behind the second link
	has("b")
	link("../../far/c.yaml", "two/m/c.yaml") // to what is not there yet
	write(t, filepath.Join(top, "far/c.yaml"), manifestOf("c"))
	has("b", "c")
	write(t, filepath.Join(top, "far/c.yaml"), manifestOf("d"))
	has("b", "d")
	if err := os.RemoveAll(filepath.Join(top, "far")); err != nil {
		t.Fatal(err)
	}
	has("b")
	link("one", "second")
	has("a")
}

// Watches are limited by the kernel; here, by the files that may be open.
func TestAWatchThatFailsIsToldAndTriedAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.yaml"), manifestOf("x"))
	s := New(dir, slog.New(slog.DiscardHandler))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	has := run(t, s)
	until(t, "the failure is told", func() bool {
		err := s.Errors()[dir]
		return errors.Is(err, unix.EMFILE) && strings.Contains(err.Error(), "watch manifests in "+dir)
	})
	has("x")
	restore()
	until(t, "there is a watch", func() bool { return len(s.Errors()) == 0 })
	write(t, filepath.Join(dir, "y.yaml"), manifestOf("y"))
	has("x", "y")
}
