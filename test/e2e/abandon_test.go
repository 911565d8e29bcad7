package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A plugin that refuses every DEL as long as /run/stubborn is there. The pod's namespace is deleted, and
// takes no Events any more: the node's Events tell what holds it, and that it was given up.
func TestADELThatNeverSucceedsHoldsNoNamespace(t *testing.T) {
	n := c.Nodes[0]
	const plugin = "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = DEL ] && [ -e /run/stubborn ] && { echo '{\"code\":11,\"msg\":\"stubborn\"}'; exit 1; }\n" +
		"[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.0.0\"}'\nexit 0\n"
	for path, mode := range map[string]os.FileMode{"/opt/cni/bin/stubborn": 0o755, "/run/stubborn": 0o644} {
		if err := os.WriteFile(n.Path(path), []byte(plugin), mode); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(n.Path(path))
	}
	ns := namespace(t)
	apply(t, ns, nad("stubborn", `{"cniVersion": "1.0.0", "name": "stubborn", "type": "stubborn"}`))
	run(t, ns, "a", "n1", "data,stubborn")
	ctx := context.Background()
	if err := c.Client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"DetachDelayed", "DetachAbandoned"} {
		eventually(t, "the node's Event "+reason, func() error {
			l, err := c.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=n1,reason=" + reason})
			if err != nil {
				return err
			}
			for _, e := range l.Items {
				if strings.Contains(e.Message, "pod "+ns+"/a: ") && strings.Contains(e.Message, "stubborn") {
					return nil
				}
			}
			return fmt.Errorf("%d Events, and none of it", len(l.Items))
		})
	}
	eventually(t, "the namespace is gone", func() error {
		if _, err := c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	d := daemon(t, n)
	l, err := d.Leftovers(ctx)
	if err != nil || len(l) != 1 || l[0].Pod != ns+"/a" || !strings.HasSuffix(l[0].ID, "/net2") {
		t.Fatalf("%+v, %v", l, err)
	}
	if err := d.RemoveLeftover(ctx, l[0].Kind, l[0].ID); err != nil {
		t.Fatal(err)
	}
	clean(t)
}
