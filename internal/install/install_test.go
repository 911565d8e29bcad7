package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A plugin that runs while it is replaced: writing into it fails with "text file busy".
func TestARunningPluginIsReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := Plugin("/bin/sleep", dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "patchbay"), "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := os.WriteFile(filepath.Join(dir, "patchbay"), nil, 0o755); err == nil {
		t.Error("the file is not busy: this test shows nothing")
	}
	if err := Plugin("/bin/true", dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"patchbay", "patchbay-ovs", "patchbay-ipam"} {
		if err := exec.Command(filepath.Join(dir, name)).Run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l, _ := os.ReadDir(dir); len(l) != 3 {
		t.Errorf("left in the directory: %v", l)
	}
}

func TestTheConfigurationIsWrittenOnceAndRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "net.d", "00-patchbay.conflist")
	for _, want := range []bool{true, false} {
		if changed, err := Conf(path, NetConf("/run/x.sock", "/var/lib/x")); err != nil || changed != want {
			t.Errorf("changed %v, want %v; %v", changed, want, err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	for name, before := range map[string]bool{"00-a.conf": true, "10-b.conflist": false, "00-a.txt": false} {
		other := filepath.Join(dir, "net.d", name)
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewTaken(filepath.Dir(path), filepath.Base(path)).Check(); (err != nil) != before {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Remove(other)
	}
	for range 2 {
		if err := Remove(filepath.Join(dir, "bin"), path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
}

func TestKubectlFindsThePluginAndItsCompletion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	for range 2 { // again over itself
		if err := Kubectl("/bin/true", dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"patchctl", "kubectl-patchbay", "kubectl_complete-patchbay"} {
		if err := exec.Command(filepath.Join(dir, name)).Run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l, _ := os.ReadDir(dir); len(l) != 3 {
		t.Errorf("left in the directory: %v", l)
	}
}
