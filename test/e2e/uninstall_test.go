package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// takeOff does what docs/kubernetes.md says under Uninstall, with what was applied from dir, and looks
// for what is left. The networks of the namespace must survive. A pod on n1, if one is named, runs until
// the uninstaller waits for it.
func takeOff(t *testing.T, dir, ns string, pods ...string) {
	t.Helper()
	before := networkNames(t, ns)
	if out, err := c.Kubectl("delete", "-k", filepath.Join(c.Root, dir)); err != nil {
		t.Fatal(out, err)
	}
	leftInCluster(t, ns, before)
	overlay := filepath.Join(c.Root, "deploy/overlays/uninstall")
	if out, err := c.Kubectl("apply", "-k", overlay); err != nil {
		t.Fatal(out, err)
	}
	for _, n := range c.Nodes {
		for _, f := range []string{plugin, "/opt/cni/bin/patchbay-ovs", "/opt/cni/bin/patchbay-ipam", netconf} {
			eventually(t, f+" is gone from "+n.Name, func() error {
				_, err := os.Lstat(n.Path(f))
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return fmt.Errorf("it is there (%v)", err)
			})
		}
	}
	for _, pod := range pods {
		uninstallerWaits(t, ns, pod)
		// Taken away and applied again, it goes on.
		shell(t, "kubectl delete -k "+overlay+" --timeout=30s; kubectl apply -k "+overlay)
		uninstallerWaits(t, ns, pod)
		remove(t, ns, pod)
	}
	shell(t, "kubectl rollout status -n patchbay-system daemonset/patchbay-uninstall --timeout=90s")
	leftOnNodes(t)
	if out, err := c.Kubectl("delete", "-k", overlay); err != nil {
		t.Fatal(out, err)
	}
	leftInCluster(t, ns, before)
	eventually(t, "the nodes are Ready with the CNI that was there before", func() error { return c.Ready(context.Background()) })
}

// uninstallerWaits for the pod's interface on n1, and is not Ready.
func uninstallerWaits(t *testing.T, ns, pod string) {
	t.Helper()
	eventually(t, "the uninstaller on n1 waits", func() error {
		l, err := c.Client.CoreV1().Pods(cluster.Namespace).List(context.Background(),
			metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=patchbay-uninstall", FieldSelector: "spec.nodeName=n1"})
		if err != nil || len(l.Items) != 1 {
			return fmt.Errorf("%d pods, %v", len(l.Items), err)
		}
		out, err := c.Kubectl("logs", "-n", "patchbay-system", "-l", "app.kubernetes.io/name=patchbay-uninstall", "-c", "uninstall", "--prefix", "--tail=-1")
		if err != nil || !strings.Contains(out, ns+"/"+pod+" net1") || !strings.Contains(out, "waiting for the pods to end: 1 interface of 1 pod") {
			return fmt.Errorf("the logs are %v, %s", err, out)
		}
		if s := l.Items[0].Status.ContainerStatuses; len(s) > 0 && s[0].Ready {
			t.Error("it is Ready, and the pod has its interface")
		}
		return nil
	})
}

func networkNames(t *testing.T, ns string) string {
	t.Helper()
	out, err := c.Kubectl("get", "network-attachment-definitions", "-n", ns, "-o", "name")
	if err != nil || !strings.Contains(out, "/data") {
		t.Fatal(out, err)
	}
	return out
}

// leftInCluster fails unless the networks are there, and nothing of Patchbay's but its custom resources.
func leftInCluster(t *testing.T, ns, networks string) {
	t.Helper()
	if now := networkNames(t, ns); now != networks {
		t.Errorf("the networks are %s, and were %s", now, networks)
	}
	if _, err := c.Client.CoreV1().Namespaces().Get(context.Background(), cluster.Namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("namespace %s is there: %v", cluster.Namespace, err)
	}
	out, err := c.Kubectl("get", "clusterroles,clusterrolebindings,validatingwebhookconfigurations", "-o", "name")
	if err != nil || strings.Contains(out, "patchbay") {
		t.Errorf("left: %v\n%s", err, out)
	}
	out, err = c.Kubectl("get", "all,configmaps,secrets,serviceaccounts", "-A", "-o", "name")
	if err != nil || strings.Contains(out, "patchbay") {
		t.Errorf("left: %v\n%s", err, out)
	}
}

// leftOnNodes fails if a file, port, link or namespace of ours is left.
func leftOnNodes(t *testing.T) {
	t.Helper()
	for _, n := range c.Nodes {
		for what, command := range map[string]string{
			"files": "ls -A /opt/cni/bin /etc/cni/net.d | grep patchbay || true",
			"ports": `ovs-vsctl --bare --columns=name find port 'external_ids:patchbay-sandbox!=""'`,
			"links": "ip -br link | grep '^pb' || true",
		} {
			if out, err := n.Run("sh", "-c", command); err != nil || strings.TrimSpace(out) != "" {
				t.Errorf("%s left on %s: %v\n%s", what, n.Name, err, out)
			}
		}
	}
}
