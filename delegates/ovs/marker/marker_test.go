package marker

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/delegates/ovs/bridge"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

// log is what the marker says, for tests to read.
type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.String(), text)
}

type node struct {
	*testing.T
	api   *fake.Clientset
	ovs   *testnode.OVS
	log   log
	fails atomic.Int32 // patches that are to fail
}

// start runs a marker on a real Open vSwitch, with a node object that has other capacity.
func start(t *testing.T, capacity map[string]string) *node {
	t.Helper()
	n := &node{T: t, ovs: testnode.StartOVS(t)}
	k := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Capacity: list(capacity)}}
	n.api = fake.NewClientset(k, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	n.api.PrependReactor("patch", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
		if n.fails.Add(-1) >= 0 {
			return true, nil, errors.New("the API server says no")
		}
		return false, nil, nil
	})
	logger := slog.New(slog.NewTextHandler(&n.log, nil))
	testnode.Sh(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	t.Cleanup(func() {
		if !link.IsGone("up0") {
			testnode.Sh(t, "ip", "link", "del", "up0")
		}
	})
	d := ovs.New(vswitch.New(n.ovs.DB, logger), ovs.Options{Node: "n1", Bridges: map[string]bridge.Declared{
		"data": {Name: "br-data", Uplinks: []string{"up0"}}, "control": {Name: "br-control"}}}, logger)
	m := New(Options{Node: "n1", Clients: n.api, Bridges: d.Bridges, HasPort: d.HasPort, Uplinks: map[string][]string{"br-data": {"up0"}}, Log: logger})
	ctx, stop := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { d.Run(ctx) })
	tasks.Go(func() { m.Run(ctx) })
	t.Cleanup(func() {
		stop()
		tasks.Wait()
	})
	return n
}

func list(l map[string]string) corev1.ResourceList {
	res := corev1.ResourceList{}
	for name, q := range l {
		res[corev1.ResourceName(name)] = resource.MustParse(q)
	}
	return res
}

func (n *node) capacity() corev1.ResourceList {
	k, err := n.api.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return k.Status.Capacity
}

func (n *node) becomes(what string, want map[string]string) {
	n.Helper()
	testnode.Eventually(n, what, func() bool { return maps.EqualFunc(n.capacity(), list(want), resource.Quantity.Equal) })
}

func (n *node) set(name, quantity string) {
	n.Helper()
	k, err := n.api.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	k = k.DeepCopy()
	k.Status.Capacity[corev1.ResourceName(name)] = resource.MustParse(quantity)
	if _, err := n.api.CoreV1().Nodes().UpdateStatus(context.Background(), k, metav1.UpdateOptions{}); err != nil {
		n.Fatal(err)
	}
}

func TestBridgesArePublishedAndWithdrawn(t *testing.T) {
	n := start(t, map[string]string{"cpu": "2", "example.org/nic": "1000", Prefix + "br-gone": "1k", Prefix + "br-others": "5"})
	published := map[string]string{"cpu": "2", "example.org/nic": "1000", Prefix + "br-data": "1000", Prefix + "br-control": "1000",
		Prefix + "br-others": "5"}
	n.becomes("the bridges are published, one that is gone is not, and what others publish stays", published)

	n.ovs.Vsctl(t, "add-br", "br-new", "--", "set", "bridge", "br-new", "datapath_type=netdev")
	published[Prefix+"br-new"] = "1000"
	n.becomes("a new bridge is published", published)
	n.ovs.Vsctl(t, "del-br", "br-new")
	delete(published, Prefix+"br-new")
	n.becomes("a bridge that is gone is withdrawn", published)

	testnode.Sh(t, "ip", "link", "del", "up0")
	delete(published, Prefix+"br-data")
	n.becomes("a bridge without its uplink is withdrawn", published)
	testnode.Sh(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	published[Prefix+"br-data"] = "1000"
	n.becomes("and comes back with it", published)

	testnode.Sh(t, "ip", "link", "del", "up0")
	n.ovs.Vsctl(t, "del-port", "br-data", "up0")
	delete(published, Prefix+"br-data")
	n.becomes("a bridge that its uplink is no port of is withdrawn", published)
	testnode.Sh(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	published[Prefix+"br-data"] = "1000"
	n.becomes("and comes back with it, which is made its port again", published)

	n.set(Prefix+"br-control", "0") // as kubelet does when a node is set up again
	n.becomes("what kubelet has reset is published again", published)

	n.ovs.Vsctl(t, "add-br", "br-", "--", "set", "bridge", "br-", "datapath_type=netdev")
	testnode.Eventually(t, "a name that is no resource's is told", func() bool { return n.log.has("its name can't be a resource's") })
	n.becomes("and left out", published)
}

func TestAPatchThatFailedIsTriedAgain(t *testing.T) {
	n := start(t, map[string]string{"cpu": "2"})
	published := map[string]string{"cpu": "2", Prefix + "br-data": "1000", Prefix + "br-control": "1000"}
	n.becomes("the bridges are published", published)
	n.fails.Store(1)
	n.ovs.Vsctl(t, "add-br", "br-new", "--", "set", "bridge", "br-new", "datapath_type=netdev")
	published[Prefix+"br-new"] = "1000"
	n.becomes("the second patch does it", published)
	if !n.log.has("the API server says no") {
		t.Error("the failure is not in the log")
	}
}

func TestWithoutOpenVSwitchOnlyLostUplinksCount(t *testing.T) {
	n := start(t, map[string]string{"cpu": "2"})
	published := map[string]string{"cpu": "2", Prefix + "br-data": "1000", Prefix + "br-control": "1000"}
	n.becomes("the bridges are published", published)
	n.ovs.StopServer()
	testnode.Eventually(t, "the connection is lost", func() bool { return n.log.has("connection to Open vSwitch lost") })
	testnode.Sh(t, "ip", "link", "del", "up0")
	delete(published, Prefix+"br-data")
	n.becomes("a bridge without its uplink is withdrawn, the other one stays", published)
}
