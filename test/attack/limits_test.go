package attack

import (
	"strings"
	"testing"
)

// An etcd that takes less in one transaction than a pod needs: the refusal names the pod, and the way out.
func TestWhatIsTooMuchForEtcdIsToldInWords(t *testing.T) {
	n := newNode(t)
	n.nad("long", `{"cniVersion": "1.0.0", "name": "long", "type": "good", "x": "`+strings.Repeat("x", 100<<10)+`"}`)
	many := strings.TrimSuffix(strings.Repeat("headed,", 20), ",")
	n.Run(t, "before", "data,headed")
	n.etcd.Stop()
	n.etcd.Args = []string{"--max-txn-ops=16", "--max-request-bytes=65536"}
	n.etcd.Start(t)
	for networks, way := range map[string]string{many: "--max-txn-ops", "data,long": "--max-request-bytes"} {
		_, err := n.TryRun("a", networks)
		if err == nil || !strings.Contains(err.Error(), "default/a") || !strings.Contains(err.Error(), way) || strings.Contains(err.Error(), "rpc error") {
			t.Errorf("%.20s: %.600v", networks, err)
		}
	}
	if err := n.Remove("before"); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
