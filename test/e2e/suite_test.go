// Package e2e tests Patchbay in a Kubernetes cluster of two real nodes, installed from deploy/ as an
// operator installs it.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// c is the cluster that all tests share.
var c *cluster.Cluster

func TestMain(m *testing.M) {
	os.Exit(cluster.Enter(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		root, err := filepath.Abs("../..")
		if err != nil {
			panic(err)
		}
		c = cluster.New(root, 2, os.Stdout)
		defer c.Down()
		err = c.Up(ctx)
		if err == nil {
			err = c.Install(ctx, "trial")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		code := m.Run()
		if code != 0 {
			c.DumpLogs(os.Stderr)
		}
		return code
	}))
}

// networks are NADs of a test's namespace. A node has a subnet of each; the route to the whole
// network is to the link, as the nodes' bridges are joined.
const networks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: data}
spec:
  config: '{"cniVersion": "1.1.0", "name": "data", "type": "patchbay-ovs", "network": "data",
    "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "routes": [{"dst": "10.12.0.0/16", "scope": 253}], "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: control}
spec:
  config: '{"cniVersion": "1.1.0", "name": "control", "type": "patchbay-ovs", "network": "control",
    "ipam": {"type": "patchbay-ipam", "networks": ["10.13.0.0/16", "fd00:13::/48"], "subnetLen": 24,
    "routes": [{"dst": "10.13.0.0/16", "scope": 253}, {"dst": "fd00:13::/48", "scope": 253}], "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: vlan}
spec:
  config: '{"cniVersion": "1.1.0", "name": "vlan", "type": "patchbay-ovs", "network": "data", "vlan": 100, "mtu": 1400,
    "ipam": {"type": "patchbay-ipam", "network": "10.14.0.0/16", "subnetLen": 24, "routes": [{"dst": "10.14.0.0/16", "scope": 253}], "cooldown": "0s"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: bridge}
spec:
  config: '{"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "bridge", "bridge": "lbr0",
    "ipam": {"type": "patchbay-ipam", "network": "10.17.0.0/16", "subnetLen": 24, "cooldown": "0s"}}]}'
`

// namespace makes a namespace for the test, with the networks, and removes it with all its pods.
func namespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(t.Name()))
	name = strings.TrimPrefix(name, "test")
	name = strings.Trim(name[:min(len(name), 50)], "-")
	ctx := context.Background()
	if _, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		none := int64(0)
		if t.Failed() {
			out, _ := c.Kubectl("describe", "pods", "-n", name)
			t.Logf("pods of the test:\n%s", out[max(0, len(out)-6000):])
		}
		if err := c.Client.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &none}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		gone(t, name, "")
		_ = c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	})
	apply(t, name, networks)
	eventually(t, "the default service account", func() error {
		_, err := c.Client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return name
}

// apply gives YAML to the API server.
func apply(t *testing.T, ns, yaml string) {
	t.Helper()
	if out, err := tryApply(t, ns, yaml); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func tryApply(t *testing.T, ns, yaml string) (string, error) {
	t.Helper()
	return c.Kubectl("apply", "-n", ns, "-f", file(t, yaml))
}

// file writes a manifest.
func file(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func nad(name, config string) string {
	return "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: " + name + "}\nspec: {config: '" + config + "'}\n"
}

// create makes a pod on a node, "" for any, with the networks annotation.
func create(t *testing.T, ns, name, node, networks string) {
	t.Helper()
	if _, err := c.Client.CoreV1().Pods(ns).Create(context.Background(), pod(name, node, networks), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func pod(name, node, networks string) *corev1.Pod {
	none, no := int64(0), false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &none, NodeSelector: map[string]string{}, AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "c", Image: cluster.ToolsImage, ImagePullPolicy: corev1.PullNever, Command: []string{"sleep", "1000000"}}}},
	}
	if networks != "" {
		p.Annotations[meta.NetworksAnnotation] = networks
	}
	if node != "" {
		p.Spec.NodeSelector["kubernetes.io/hostname"] = node
	}
	return p
}

func podTemplate(p *corev1.Pod) corev1.PodTemplateSpec {
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
}

// run makes a pod and waits until it is Ready.
func run(t *testing.T, ns, name, node, networks string) {
	t.Helper()
	create(t, ns, name, node, networks)
	ready(t, ns, name)
}

func ready(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, "pod "+name+" is Ready", func() error {
		p, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !isReady(p) {
			return fmt.Errorf("it is %s", p.Status.Phase)
		}
		return nil
	})
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// gone waits until a pod, "" for every one of the namespace, is gone.
func gone(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, "the pods are gone", func() error {
		if name == "" {
			l, err := c.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{})
			if err == nil && len(l.Items) > 0 {
				err = fmt.Errorf("%d are left", len(l.Items))
			}
			return err
		}
		_, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is there (%w)", name, err)
	})
}

func remove(t *testing.T, ns, name string) {
	t.Helper()
	none := int64(0)
	if err := c.Client.CoreV1().Pods(ns).Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		t.Fatal(err)
	}
	gone(t, ns, name)
}

// in runs a command in a pod.
func in(t *testing.T, ns, pod string, args ...string) string {
	t.Helper()
	out, err := tryIn(ns, pod, args...)
	if err != nil {
		t.Error(err)
	}
	return out
}

func tryIn(ns, pod string, args ...string) (string, error) {
	return c.Kubectl(append([]string{"exec", "-n", ns, pod, "--"}, args...)...)
}

// status returns a pod's network-status, once it has one.
func status(t *testing.T, ns, name string) []meta.NetworkStatus {
	t.Helper()
	var s []meta.NetworkStatus
	eventually(t, "network-status of "+name, func() error {
		p, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(p.Annotations[meta.StatusAnnotation]), &s)
	})
	return s
}

// address returns the first address of an interface, by network-status.
func address(t *testing.T, ns, name, ifName string) string {
	t.Helper()
	for _, s := range status(t, ns, name) {
		if s.Interface == ifName && len(s.IPs) > 0 {
			return s.IPs[0]
		}
	}
	t.Fatalf("%s of %s has no address: %+v", ifName, name, status(t, ns, name))
	return ""
}

// event waits for an Event on a pod whose message has all the texts in it.
func event(t *testing.T, ns, pod, reason string, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("an Event %s on %s with %q", reason, pod, texts), func() error {
		l, err := c.Client.CoreV1().Events(ns).List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",source=patchbay"})
		if err != nil {
			return err
		}
		var have []string
	next:
		for _, e := range l.Items {
			have = append(have, e.Reason+": "+e.Message)
			for _, text := range texts {
				if !strings.Contains(e.Message, text) {
					continue next
				}
			}
			if e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("there are %q", have)
	})
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("not within 90 s: %s: %v", what, err)
}

// daemon is the REST client of a node.
func daemon(t *testing.T, n *cluster.Node) *client.Client {
	t.Helper()
	d, err := client.New("unix://"+n.Path("/run/patchbay/api.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// clean fails unless nothing is left of any pod but those that run: by the daemons' own word and by
// the nodes' links, ports and namespaces.
func clean(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is left", func() error {
		for _, n := range c.Nodes {
			d := daemon(t, n)
			findings, err := d.Doctor(context.Background())
			if err != nil {
				return err
			}
			for _, f := range findings {
				if !f.OK {
					return fmt.Errorf("%s: %s: %s", n.Name, f.Check, f.Message)
				}
			}
			l, err := d.List(context.Background(), client.Filter{})
			if err != nil {
				return err
			}
			ports, err := n.Run("ovs-vsctl", "--bare", "--columns=name", "find", "port", `external_ids:patchbay-sandbox!=""`)
			if err != nil {
				return err
			}
			native := 0
			for _, a := range l {
				if a.Bridge != "" {
					native++
				}
			}
			if have := len(strings.Fields(ports)); have != native {
				return fmt.Errorf("%s has %d ports for %d attachments", n.Name, have, native)
			}
		}
		return nil
	})
}

// entries is the number of entries of a pod's network-status.
func entries(ns, name string) int {
	p, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return -1
	}
	var s []meta.NetworkStatus
	if json.Unmarshal([]byte(p.Annotations[meta.StatusAnnotation]), &s) != nil {
		return -1
	}
	return len(s)
}
