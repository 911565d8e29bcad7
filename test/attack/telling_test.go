package attack

import (
	"context"
	"fmt"
	"testing"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

const good = `{"cniVersion": "1.0.0", "name": "good", "type": "good"}`

// run starts a pod that the API server has.
func (n *node) runPod(a *apiServer, pod, networks string) (*sandbox.Sandbox, error) {
	n.t.Helper()
	a.pod(pod, "uid-"+pod)
	return n.Runtime.Run(context.Background(), meta.Pod{Namespace: "default", Name: pod, UID: "uid-" + pod, Annotations: map[string]string{meta.NetworksAnnotation: networks}})
}

// Events of one pod are limited, lest a pod that fails for ever floods the cluster: the last word on it is
// the one that must not be lost for the many before it.
func TestThatADetachIsGivenUpIsToldHoweverOftenItFailed(t *testing.T) {
	const attempts = 30
	a := newAPIServer(t)
	a.nad("good", good)
	n := clusterNode(t, a, fmt.Sprintf("gc.giveUp={attempts: %d, after: 0s}", attempts), "gc.interval=1h")
	s, err := n.runPod(a, "a", "good")
	if err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	for i := 1; i < attempts; i++ {
		if err := n.Runtime.Del(context.Background(), s); err == nil {
			t.Fatalf("DEL %d is a success", i)
		}
	}
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "the failures are told", func() bool { return a.told("a")["DetachDelayed"] != "" })
	testnode.Eventually(t, "it is told that the detach is given up", func() bool { return a.told("a")["DetachAbandoned"] != "" })
}
