package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

func TestTheWebhookRefusesWhatCantWork(t *testing.T) {
	ctx := context.Background()
	if err := c.Install(ctx, "webhook"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, what := range []string{"validatingwebhookconfiguration/patchbay.io", "deployment/patchbay-webhook", "service/patchbay-webhook", "serviceaccount/patchbay-webhook",
			"clusterrole/patchbay-webhook", "clusterrolebinding/patchbay-webhook"} {
			if out, err := c.Kubectl("delete", "-n", cluster.Namespace, what); err != nil {
				t.Error(out, err)
			}
		}
	})
	ns := namespace(t)
	eventually(t, "the webhook refuses", func() error {
		out, err := tryApply(t, ns, nad("broken", `{"cniVersion": "1.0.0", "type": }`))
		if err == nil {
			_, _ = c.Kubectl("delete", "net-attach-def", "-n", ns, "broken")
			return fmt.Errorf("it let a broken network in")
		}
		if !strings.Contains(out, "networks.patchbay.io") || !strings.Contains(out, "character") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for want, config := range map[string]string{
		"meta-plugin":     `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay"}`,
		"plain file name": `{"cniVersion": "1.0.0", "name": "x", "type": "../sh"}`,
		"5000":            `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay-ovs", "network": "data", "vlan": 5000}`,
		"unknown key":     `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay-ovs", "network": "data", "vlam": 5}`,
		"subnetLen":       `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/16", "subnetLen": 8}}`,
	} {
		if out, err := tryApply(t, ns, nad("x", config)); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %s, want %q", config, out, want)
		}
	}
	pods := c.Client.CoreV1().Pods(ns)
	for annotation, want := range map[string]string{
		`[{"name": "data"`:   "not a JSON list",
		"data@x0,control@x0": `"x0"`,
		"kube-system/secret": "forbidden",
		`[{"name": "bridge", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]`: "capability",
		`[{"name": "data", "mac": "no"}]`:                                               "mac",
	} {
		if _, err := pods.Create(ctx, pod("p", "n1", annotation), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", annotation, err, want)
		}
	}
	// What may yet come is let in; what uses a network keeps it from being deleted.
	run(t, ns, "a", "n1", "data")
	if _, err := pods.Create(ctx, pod("early", "n1", "later"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	apply(t, ns, strings.Replace(nad("device", `{"cniVersion": "1.0.0", "name": "device", "type": "sriov"}`), "{name: device}", "{name: device, annotations: {k8s.v1.cni.cncf.io/resourceName: example.org/nic}}", 1))
	if _, err := pods.Create(ctx, pod("device", "", "device"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a device is the node's matter: %v", err)
	}
	patch := `{"metadata":{"annotations":{"` + meta.NetworksAnnotation + `":"[{"}}}`
	if _, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "not a JSON list") {
		t.Errorf("an edit to garbage: %v", err)
	}
	if out, err := c.Kubectl("delete", "net-attach-def", "-n", ns, "data"); err == nil || !strings.Contains(out, ns+"/a") || !strings.Contains(out, "patchbay.io/force-delete") {
		t.Errorf("a network in use was deleted: %s", out)
	}
	if out, err := c.Kubectl("annotate", "net-attach-def", "-n", ns, "data", "patchbay.io/force-delete=true"); err != nil {
		t.Error(out)
	}
	for _, name := range []string{"data", "vlan"} { // one by force, one that nobody uses
		if out, err := c.Kubectl("delete", "net-attach-def", "-n", ns, name); err != nil {
			t.Error(out)
		}
	}
	// Away, it lets everything in.
	if out, err := c.Kubectl("scale", "-n", cluster.Namespace, "deployment/patchbay-webhook", "--replicas=0"); err != nil {
		t.Fatal(out)
	}
	eventually(t, "the webhook is away", func() error {
		l, err := c.Client.CoreV1().Pods(cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=patchbay-webhook"})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("it is there")
		}
		return err
	})
	apply(t, ns, nad("broken", `{"cniVersion": "1.0.0", "type": }`))
}
