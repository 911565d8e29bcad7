package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// network-status lists what a pod has. What could neither be made nor unmade is not that.
func TestNetworkStatusDoesNotListWhatWasNeverMade(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	a.NAD("wrong", `{"cniVersion": "1.0.0", "name": "wrong", "type": "wrong"}`)
	n := clusterNode(t, a)
	if _, err := n.runPod(a, "a", "good"); err != nil {
		t.Fatal(err)
	}
	n.set("faildel")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "wrong", Interface: "hot0"}); err == nil {
		t.Fatal("it was attached")
	}
	l, err := n.Client.Sandboxes(context.Background())
	if err != nil || len(l) != 1 || len(l[0].Attachments) != 2 {
		t.Fatalf("what can't be unmade is not recorded: %+v, %v", l, err)
	}
	if strings.Contains(string(l[0].NetworkStatus), "hot0") {
		t.Errorf("an interface that never was: %s", l[0].NetworkStatus)
	}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "good", Interface: "hot1"}); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "the status is written", func() bool { return strings.Contains(a.Status("a"), "hot1") })
	if strings.Contains(a.Status("a"), "hot0") {
		t.Errorf("an interface that never was: %s", a.Status("a"))
	}
	n.unset("faildel")
}

// A slow API server, and a pod that changes all the time: what is written last is what the pod has, and
// nothing is written twice.
func TestNetworkStatusEndsAsThePodIs(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	n := clusterNode(t, a)
	if _, err := n.runPod(a, "a", "good"); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		ifName := fmt.Sprintf("hot%d", i%3)
		if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "good", Interface: ifName}); err != nil {
			t.Fatal(err)
		}
		if i == 7 {
			a.Refuse(func(r *http.Request) int {
				if r.Method == http.MethodPatch {
					return http.StatusServiceUnavailable
				}
				return 0
			})
		}
		if i == 12 {
			a.Refuse(nil)
		}
		if i < 19 {
			if err := n.Client.Detach(context.Background(), "default", "a", ifName); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func() string {
		l, err := n.Client.Sandboxes(context.Background())
		if err != nil || len(l) != 1 {
			t.Fatal(l, err)
		}
		return string(l[0].NetworkStatus)
	}
	testnode.Eventually(t, "the status is the record's", func() bool { return same(t, a.Status("a"), want()) })
	patches := a.Patches("a")
	if patches > 40 {
		t.Errorf("%d patches for 40 changes", patches)
	}
	// The daemon is started anew: nothing has changed, and nothing is written.
	n.Daemon.Kill()
	n.Start(t)
	if _, err := n.runPod(a, "b", "good"); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "another pod's status is written", func() bool { return a.Status("b") != "" })
	if again := a.Patches("a"); again != patches {
		t.Errorf("after a restart %d patches more", again-patches)
	}
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	_ = json.Unmarshal([]byte(a), &x)
	_ = json.Unmarshal([]byte(b), &y)
	return a != "" && fmt.Sprint(x) == fmt.Sprint(y)
}

// The pod's annotations are so long that network-status has no room: its owner is told, once, and it is written
// when there is room.
func TestNetworkStatusThatHasNoRoomIsTold(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	n := clusterNode(t, a)
	s := n.pod("a", "good")
	s.UID = "uid-a"
	pod := func(padding int) {
		a.Put(testnode.PodsAt, testnode.Object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"namespace": "default", "name": "a", "uid": "uid-a",
			"annotations": map[string]any{"padding": strings.Repeat("x", padding)}}}, "")
	}
	pod(256<<10 - 20)
	n.mustAdd(s)
	testnode.Eventually(t, "an Event says so", func() bool { return strings.Contains(a.Told("a")["NetworkStatusRefused"], "256 KiB") })
	pod(256<<10 - 30)
	pod(1000)
	testnode.Eventually(t, "the status is written", func() bool { return strings.Contains(a.Status("a"), "net1") })
	if told := a.Told("a")["NetworkStatusRefused"]; !strings.HasPrefix(told, "1 ") {
		t.Errorf("told more than once: %s", told)
	}
	n.mustDel(s)
}
