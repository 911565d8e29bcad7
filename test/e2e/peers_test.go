package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// The peers' own end-to-end suites, each in a file of its own: what passes there passes here, by the
// same asserts. This is what they share.

// privileged makes a pod whose container is.
func privileged(t *testing.T, ns, name string, n *cluster.Node, networks string) {
	t.Helper()
	p, yes := pod(name, n.Name, networks), true
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	if _, err := c.Client.CoreV1().Pods(ns).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// inet returns the IPv4 addresses of an interface, with prefix lengths, by the pod's own word.
func inet(t *testing.T, ns, pod, ifName string) []string {
	t.Helper()
	return following(in(t, ns, pod, "ip", "addr", "show", "dev", ifName), "inet")
}

// gateways returns those of a pod's default routes.
func gateways(t *testing.T, ns, pod string) []string {
	t.Helper()
	return following(in(t, ns, pod, "ip", "route"), "default", "via")
}

// following returns what follows the words at the beginning of lines.
func following(text string, words ...string) (found []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > len(words) && slices.Equal(f[:len(words)], words) {
			found = append(found, f[len(words)])
		}
	}
	return found
}

// addressed waits until a pod is Ready and has done so.
func addressed(t *testing.T, ns, pod, cidr string) {
	t.Helper()
	ready(t, ns, pod)
	eventually(t, pod+" has its address", func() error {
		out, err := tryIn(ns, pod, "ip", "addr", "show", "dev", "net1")
		if err == nil && !slices.Equal(following(out, "inet"), []string{cidr}) {
			err = fmt.Errorf("net1 is %s", out)
		}
		return err
	})
}

func loseNothing(t *testing.T, ns, pod, to string) {
	t.Helper()
	if out := in(t, ns, pod, "ping", "-c5", "-i0.2", "-W3", to); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("ping %s: %s", to, out)
	}
}

// vsctl runs ovs-vsctl on a node.
func vsctl(t *testing.T, n *cluster.Node, args ...string) string {
	t.Helper()
	out, err := n.Run("ovs-vsctl", args...)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(out)
}

// portOf returns the port of a pod's interface.
func portOf(t *testing.T, n *cluster.Node, ns, pod, ifName string) string {
	t.Helper()
	port := vsctl(t, n, "--bare", "--columns=name", "find", "port", `external_ids:patchbay-pod="`+ns+"/"+pod+`"`, "external_ids:patchbay-if="+ifName)
	if len(strings.Fields(port)) != 1 {
		t.Fatalf("ports of %s of pod %s: %q", ifName, pod, port)
	}
	return port
}

// netnsOf returns the path of a pod's network namespace.
func netnsOf(t *testing.T, n *cluster.Node, ns, pod string) string {
	t.Helper()
	sandboxes, err := daemon(t, n).Sandboxes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sandboxes {
		if s.Namespace == ns && s.Pod == pod {
			return s.Netns
		}
	}
	t.Fatalf("pod %s has no sandbox: %+v", pod, sandboxes)
	return ""
}

// inNetns runs a command on the node, in a network namespace.
func inNetns(t *testing.T, n *cluster.Node, netns string, args ...string) string {
	t.Helper()
	out, err := n.Run("nsenter", append([]string{"--net=" + strings.TrimPrefix(netns, "/var")}, args...)...)
	if err != nil {
		t.Error(err)
	}
	return out
}

// restarts counts those of the daemons' containers.
func restarts(t *testing.T) map[string]int32 {
	t.Helper()
	l, err := c.Client.CoreV1().Pods(cluster.Namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=patchbay"})
	if err != nil || len(l.Items) != len(c.Nodes) {
		t.Fatalf("%d daemons, %v", len(l.Items), err)
	}
	count := map[string]int32{}
	for _, p := range l.Items {
		for _, s := range p.Status.ContainerStatuses {
			count[p.Name+"/"+s.Name] = s.RestartCount
		}
	}
	return count
}
