package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKubeconfigs(t *testing.T) {
	if _, err := Config("", "test"); !errors.Is(err, ErrNone) {
		t.Errorf("neither kubeconfig nor service account: %v", err)
	}
	if _, err := Config("/nonexistent/kubeconfig", "test"); err == nil || !strings.Contains(err.Error(), "/nonexistent/kubeconfig") {
		t.Errorf("missing: %v", err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	for text, want := range map[string]string{
		"nonsense: [": file,
		`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1"}}]}`: "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Config(file, "test")
		switch {
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", text, err, want)
		case want == "" && (err != nil || cfg.Host != "https://192.0.2.1" || cfg.UserAgent != "test"):
			t.Errorf("%q: %+v, %v", text, cfg, err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Config(file, "test"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("world-readable: %v", err)
	}
}
