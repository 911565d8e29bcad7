package attack

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta/manifest"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// source reads files of a manifests directory, by name.
func source(t *testing.T, files map[string]string) *manifest.Catalog {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return manifest.New(dir, slog.New(slog.DiscardHandler))
}

// known fails unless there is the network default/NAME and no error.
func known(t *testing.T, s *manifest.Catalog, name string) {
	t.Helper()
	if _, err := s.Network(context.Background(), "default", name); err != nil {
		t.Errorf("network %s: %v (errors of files: %v)", name, err, s.Errors())
	}
}

// kubectl get net-attach-def -o yaml writes a List.
func TestAListOfManifestsIsReadOrRefused(t *testing.T) {
	s := source(t, map[string]string{"all.yaml": "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(nadText("br-data")), "\n", "\n  ") + "\n"})
	if len(s.Networks()) == 0 && len(s.Errors()) == 0 {
		t.Error("a List is dropped in silence")
	}
}

func TestANetworkThereTwiceIsTold(t *testing.T) {
	for what, files := range map[string]map[string]string{
		"in one file":  {"a.yaml": nadText("br-data") + "---\n" + nadText("br-control")},
		"in two files": {"a.yaml": nadText("br-data"), "b.yaml": nadText("br-control")},
	} {
		if s := source(t, files); len(s.Errors()) == 0 {
			t.Errorf("%s: one of the two networks of the same name is dropped in silence", what)
		}
	}
}

// YAML merges a list of mappings, too.
func TestAnnotationsOfAMergedListAreReadOrRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod.yaml")
	text := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  <<: [{annotations: {k8s.v1.cni.cncf.io/networks: blue}}, {labels: {a: b}}]\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	pods, err := manifest.Pods(path)
	if err == nil && (len(pods) != 1 || len(pods[0].Annotations) != 1) {
		t.Errorf("the annotation is dropped in silence: %+v", pods)
	}
}

func TestOddManifestsAreRead(t *testing.T) {
	json := "{\n\t\"apiVersion\": \"k8s.cni.cncf.io/v1\",\n\t\"kind\": \"NetworkAttachmentDefinition\",\n\t\"metadata\": {\n\t\t\"name\": \"moving\"\n\t},\n\t\"spec\": {\"config\": \"{\\\"type\\\": \\\"ovs\\\", \\\"bridge\\\": \\\"br-data\\\"}\"}\n}\n"
	for what, text := range map[string]string{
		"JSON with tabs":              json,
		"JSON with BOM":               "\ufeff" + json,
		"BOM and CRLF":                "\ufeff" + strings.ReplaceAll(nadText("br-data"), "\n", "\r\n"),
		"spaces before the first key": " apiVersion: k8s.cni.cncf.io/v1\n kind: NetworkAttachmentDefinition\n metadata: {name: moving}\n spec: {config: '{\"type\": \"ovs\", \"bridge\": \"b\"}'}\n",
		"surrogates":                  strings.Replace(json, "\"name\": \"moving\"", "\"name\": \"moving\", \"annotations\": {\"k\": \"\\ud83d\\ude00\"}", 1),
	} {
		t.Run(what, func(t *testing.T) { known(t, source(t, map[string]string{"a.json": text}), "moving") })
	}
}

// A file of a standalone node must not end its daemon, for ever and with every pod's ADD.
func TestAManifestThatMergesItselfIsRefused(t *testing.T) {
	n := newNode(t)
	n.Write(t, "loop.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: &m\n  <<: *m\n  labels: {a: b}\nspec: {config: '{}'}\n")
	testnode.Eventually(t, "the manifest is judged, or the daemon has ended", func() bool {
		select {
		case <-n.Daemon.Done():
			return true
		default:
		}
		findings, _ := n.Client.Doctor(context.Background())
		return slices.ContainsFunc(findings, func(f client.Finding) bool {
			return f.Check == "manifests" && strings.Contains(f.Message, "loop.yaml")
		})
	})
	select {
	case <-n.Daemon.Done():
		t.Fatal("the daemon has ended")
	default:
	}
}

func nadText(bridge string) string {
	return "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: moving}\n" +
		`spec: {config: '{"cniVersion": "1.0.0", "name": "moving", "type": "patchbay-ovs", "bridge": "` + bridge + `"}'}` + "\n"
}

func (n *node) put(path, bridge string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(nadText(bridge)), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// runsOn starts a pod and reports which bridge it is on.
func (n *node) runsOn(pod string) string {
	n.t.Helper()
	n.Run(n.t, pod, "moving")
	out, err := n.patchctl("get", "attachments", "-o", "json")
	if err != nil {
		n.t.Fatal(out)
	}
	_ = n.Remove(pod)
	switch {
	case strings.Contains(out, "br-control"):
		return "br-control"
	case strings.Contains(out, "br-data"):
		return "br-data"
	}
	return out
}

// becomes fails unless pods get on the bridge, in the end.
func (n *node) becomes(bridge string) {
	n.t.Helper()
	testnode.Eventually(n.t, "pods are on "+bridge+", as the manifest says now", func() bool { return n.runsOn("p") == bridge })
}

// Tools that keep the time of what they copy (cp -p, rsync, tar; all times are one in reproducible
// images) leave neither another time nor, here, another size.
func TestAManifestOfTheSameTimeAndSizeIsReadAgain(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.Manifests, "moving.yaml")
	n.put(path, "br-data")
	at := time.Unix(1, 0)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	if got := n.runsOn("a"); got != "br-data" {
		t.Fatal(got)
	}
	text := strings.Replace(nadText("br-control"), `"cniVersion": "1.0.0", `, `"cniVersion":"1.0.0",`, 1)
	text = strings.Replace(text, `"name": `, `"name":`, 1) // as long as the other one
	if len(text) != len(nadText("br-data")) {
		t.Fatalf("%d and %d", len(text), len(nadText("br-data")))
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	n.becomes("br-control")
}

func TestAManifestThatIsALinkIsFollowed(t *testing.T) {
	n := newNode(t)
	elsewhere := filepath.Join(t.TempDir(), "moving.yaml")
	n.put(elsewhere, "br-data")
	if err := os.Symlink(elsewhere, filepath.Join(n.Manifests, "moving.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := n.runsOn("a"); got != "br-data" {
		t.Fatal(got)
	}
	n.put(elsewhere, "br-control")
	n.becomes("br-control")
}

func TestALinkAboveTheManifestsMayBeLedElsewhere(t *testing.T) {
	dir := testnode.ShortDir(t)
	n := newNode(t)
	n.put(dir+"/one/manifests/moving.yaml", "br-data")
	n.put(dir+"/two/manifests/moving.yaml", "br-control")
	if err := os.Symlink("one", dir+"/now"); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	n.Set = append(n.Set, "standalone.manifests="+dir+"/now/manifests")
	n.Start(t)
	if got := n.runsOn("a"); got != "br-data" {
		t.Fatal(got)
	}
	if err := os.Symlink("two", dir+"/next"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/next", dir+"/now"); err != nil {
		t.Fatal(err)
	}
	n.becomes("br-control")
}
