package attack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/install"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Another CNI renames our configuration, as Cilium does, or puts its own before it: pods would start without Patchbay, and
// doctor and a metric say so.
func TestLine17AConfigurationThatIsRenamedIsTold(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.Dir, "net.d")
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bypassed := func(want bool) {
		t.Helper()
		value := map[bool]string{true: "1", false: "0"}[want]
		testnode.Eventually(t, "patchbay_cni_configuration_bypassed is "+value, func() bool {
			ok, _ := n.healthy("cni-configuration")
			return ok != want && strings.Contains(n.Metrics(t), "\npatchbay_cni_configuration_bypassed "+value+"\n")
		})
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("10-patchbay.conflist", install.NetConf(n.CNI, n.Dir+"/state/del-queue"))
	if ok, why := n.healthy("cni-configuration"); !ok { // it looks
		t.Error(why)
	}
	write("05-other.conflist", []byte(`{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "good"}]}`))
	bypassed(true)
	remove(t, filepath.Join(dir, "05-other.conflist"))
	bypassed(false)
	if err := os.Rename(filepath.Join(dir, "10-patchbay.conflist"), filepath.Join(dir, "10-patchbay.conflist.bak")); err != nil {
		t.Fatal(err)
	}
	bypassed(true)
	if !strings.Contains(n.LogTail(), "was renamed or removed") {
		t.Error("the log does not say so")
	}
	if err := os.Rename(filepath.Join(dir, "10-patchbay.conflist.bak"), filepath.Join(dir, "20-patchbay.conflist")); err != nil {
		t.Fatal(err)
	}
	bypassed(false)
}

// The daemon has /run/netns as a mount of its own, into which nothing comes from the host: it says so when it starts, and
// by doctor. Where mounts of the host come through, as in its DaemonSet, all is well.
func TestLine36ANetnsDirectoryThatIsNotSharedIsTold(t *testing.T) {
	n := newNode(t)
	for propagation, well := range map[string]bool{"private": false, "slave": true} {
		n.Daemon.Stop()
		args := []string{"--mount", "--propagation", propagation, filepath.Join(testnode.Bin(), "patchbayd")}
		for _, s := range n.Set {
			args = append(args, "--set", s)
		}
		log := filepath.Join(n.Dir, propagation+".log")
		n.Daemon = testnode.Start(t, log, nil, "unshare", args...)
		if !n.Alive(t) {
			t.Fatal("it does not start")
		}
		b, err := os.ReadFile(log)
		if ok, why := n.healthy("network-namespaces"); ok != well || err != nil || strings.Contains(string(b), "without propagation") == well {
			t.Errorf("%s: %s; %v", propagation, why, err)
		}
	}
	n.Run(t, "a", "data")
}

// Root of a user namespace, as a container's may be, is somebody else on the node: also where the sockets can be seen, and
// their mode was changed.
func TestT20RootOfAUserNamespaceIsRefused(t *testing.T) {
	n := newNode(t)
	ask := func(as ...string) string {
		out, _ := exec.Command(as[0], append(as[1:], "sh", "-c", "id -u; curl -sS --max-time 10 -o /dev/null -w '%{http_code}' --unix-socket "+n.API+" http://patchbay/v1/version; "+
			"curl -sS --max-time 10 -o /dev/null -w ' %{http_code}' --unix-socket "+n.CNI+" http://patchbay/")...).CombinedOutput()
		return string(out)
	}
	for dir := n.Dir; dir != "/run"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out := ask("env"); out != "0\n200 404" {
		t.Fatalf("root of the node: %s", out)
	}
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user"}
	for _, mode := range []os.FileMode{0o600, 0o666} {
		for _, socket := range []string{n.API, n.CNI} {
			if err := os.Chmod(socket, mode); err != nil {
				t.Fatal(err)
			}
		}
		if out := ask(nobody...); !strings.HasPrefix(out, "0\n") || strings.Count(out, "000") != 2 {
			t.Errorf("mode %o: %s", mode, out)
		}
	}
}
