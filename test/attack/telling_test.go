package attack

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

const good = `{"cniVersion": "1.0.0", "name": "good", "type": "good"}`

// run starts a pod that the API server has.
func (n *node) runPod(a *testnode.APIServer, pod, networks string) (*sandbox.Sandbox, error) {
	n.t.Helper()
	a.Pod(pod, "uid-"+pod)
	return n.Runtime.Run(context.Background(), meta.Pod{Namespace: "default", Name: pod, UID: "uid-" + pod, Annotations: map[string]string{meta.NetworksAnnotation: networks}})
}

// Events of one pod are limited, lest a pod that fails for ever floods the cluster: the last word on it is
// the one that must not be lost for the many before it.
func TestThatADetachIsGivenUpIsToldHoweverOftenItFailed(t *testing.T) {
	const attempts = 30
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
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
	testnode.Eventually(t, "the failures are told", func() bool { return a.Told("a")["DetachDelayed"] != "" })
	testnode.Eventually(t, "it is told that the detach is given up", func() bool { return a.Told("a")["DetachAbandoned"] != "" })
}

// The API server takes no Events just when a detach is given up, for longer than client-go tries.
func TestAnEventIsWrittenOnceTheAPIServerTakesIt(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	n := clusterNode(t, a, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1h")
	if _, err := n.runPod(a, "a", "good"); err != nil {
		t.Fatal(err)
	}
	refused := make(chan bool, 100)
	a.Refuse(func(r *http.Request) int {
		if !strings.HasSuffix(r.URL.Path, "/events") || r.Method != http.MethodPost {
			return 0
		}
		refused <- true
		return http.StatusServiceUnavailable
	})
	n.set("faildel")
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	<-refused
	a.Refuse(nil)
	testnode.Eventually(t, "it is told that the detach is given up", func() bool { return a.Told("a")["DetachAbandoned"] != "" })
}

// etcd is away just when a detach is given up: the pod's owner is told all the same, and etcd later.
func TestADetachThatIsGivenUpWhileEtcdIsAwayIsTold(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	n := clusterNode(t, a, "gc.giveUp={attempts: 1, after: 0s}", "gc.interval=1s")
	if _, err := n.runPod(a, "a", "good"); err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	n.etcd.Stop()
	if err := n.Remove("a"); err != nil { // it is queued
		t.Fatal(err)
	}
	testnode.Eventually(t, "it is told that the detach is given up", func() bool { return a.Told("a")["DetachAbandoned"] != "" })
	n.etcd.Start(t)
	n.AwaitQueue(t)
	testnode.Eventually(t, "etcd is told, too", func() bool {
		return strings.Contains(n.etcdctl("get", "--prefix", "/patchbay/v1/sandboxes/"), `"phase":"Abandoned"`)
	})
}
