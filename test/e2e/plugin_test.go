package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// TestKubectlPatchbay installs kubectl's plugin in both ways, and asks kubectl.
func TestKubectlPatchbay(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	n := c.Nodes[0]
	l, err := c.Client.CoreV1().Pods(cluster.Namespace).List(context.Background(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=patchbay", FieldSelector: "spec.nodeName=" + n.Name})
	if err != nil || len(l.Items) != 1 {
		t.Fatal(l, err)
	}
	// By the container, onto its node, where root has the daemon's socket.
	const dir = "/opt/patchbay/bin"
	shell(t, "kubectl exec -n patchbay-system "+l.Items[0].Name+" -- patchctl install-plugin /host"+dir)
	kubectl := func(words ...string) string {
		out, err := n.Run("env", slices.Concat([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), filepath.Join(c.Bin, "kubectl")}, words)...)
		if err != nil {
			t.Error(out, err)
		}
		return out
	}
	if out := kubectl("patchbay", "get", "attachments", "-A"); !regexp.MustCompile(`(?m)^` + ns + ` +a +net1 +` + ns + `/data `).MatchString(out) {
		t.Errorf("get attachments:\n%s", out)
	}
	if out := kubectl("__complete", "patchbay", ""); !strings.Contains(out, "describe\t") {
		t.Errorf("completes commands with:\n%s", out)
	}
	if out := kubectl("__complete", "patchbay", "describe", "-n", ns, ""); !strings.Contains(out, "pod/a\n") {
		t.Errorf("completes pods with:\n%s", out)
	}

	// By make install, with a path that a package builder chooses.
	root := t.TempDir()
	shell(t, "make -s -C "+c.Root+" install DESTDIR="+root+" PREFIX=/usr")
	for _, name := range []string{"patchbay", "patchbay-ovs", "patchbay-ipam", "patchbayd", "patchctl", "kubectl-patchbay", "kubectl_complete-patchbay"} {
		if fi, err := os.Stat(filepath.Join(root, "usr/bin", name)); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	out := shell(t, "PATH="+root+"/usr/bin:$PATH; kubectl __complete patchbay get ''; kubectl patchbay get nodes --server unix://"+n.Path("/run/patchbay/api.sock"))
	if !strings.Contains(out, "attachments\nsandboxes\n") || !strings.Contains(out, ":4\n") || !strings.Contains(out, "n2 ") {
		t.Errorf("make install's plugin answers:\n%s", out)
	}
}

// TestTheClustersOwnExample runs the command that make cluster prints.
func TestTheClustersOwnExample(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(c.Root, "test/e2e/cluster.sh"))
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^ +(kubectl run (\S+) .*)$`).FindStringSubmatch(string(b))
	if example == nil {
		t.Fatal("it prints none")
	}
	ns := namespace(t)
	shell(t, strings.Replace(example[1], "kubectl run", "kubectl run -n "+ns, 1))
	ready(t, ns, example[2])
	if address(t, ns, example[2], "net1") == "" {
		t.Error("it has no address")
	}
}
