package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

func TestChurnLeavesNothing(t *testing.T) {
	ns := namespace(t)
	churn(t, ns, 50)
	clean(t)
}

// churn makes so many pods of three interfaces on both nodes at once, checks that each is complete,
// and deletes them.
func churn(t *testing.T, ns string, pods int) {
	t.Helper()
	for i := range pods {
		create(t, ns, fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i%2+1), "data,control,vlan")
	}
	for i := range pods {
		ready(t, ns, fmt.Sprintf("p%d", i))
	}
	for i := range pods {
		eventually(t, "network-status", func() error {
			if n := entries(ns, fmt.Sprintf("p%d", i)); n != 4 {
				return fmt.Errorf("p%d has %d entries", i, n)
			}
			return nil
		})
	}
	none := int64(0)
	if err := c.Client.CoreV1().Pods(ns).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &none}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	gone(t, ns, "")
}

func TestARollingRestartUnderChurnLosesNoPod(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "stays", "n1", "data,control,vlan")
	run(t, ns, "stays2", "n2", "data,control,vlan")
	var wg sync.WaitGroup
	wg.Go(func() {
		if out, err := c.Kubectl("rollout", "restart", "-n", cluster.Namespace, "daemonset/patchbay"); err != nil {
			t.Error(out, err)
		}
	})
	for range 3 {
		for i := range 8 {
			create(t, ns, fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i%2+1), "data,control,vlan")
		}
		for i := range 8 {
			ready(t, ns, fmt.Sprintf("p%d", i))
			if out := in(t, ns, fmt.Sprintf("p%d", i), "ip", "-o", "link"); !strings.Contains(out, "net3") {
				t.Errorf("p%d came up incomplete:\n%s", i, out)
			}
		}
		for i := range 8 {
			remove(t, ns, fmt.Sprintf("p%d", i))
		}
	}
	wg.Wait()
	if err := c.AwaitDaemons(context.Background()); err != nil {
		t.Fatal(err)
	}
	in(t, ns, "stays", "ping", "-c1", "-W3", address(t, ns, "stays2", "net1"))
	clean(t)
}

// daemonsGo gives the DaemonSet a node selector that no node has, until back is called.
func daemonsGo(t *testing.T) (back func()) {
	t.Helper()
	set := func(selector string) {
		patch := `{"spec":{"template":{"spec":{"nodeSelector":` + selector + `}}}}`
		if _, err := c.Client.AppsV1().DaemonSets(cluster.Namespace).Patch(context.Background(), "patchbay", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(`{"nowhere":"yes"}`)
	eventually(t, "the daemons are gone", func() error {
		l, err := c.Client.CoreV1().Pods(cluster.Namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=patchbay"})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d are left", len(l.Items))
		}
		return err
	})
	return func() {
		set(`null`)
		if err := c.AwaitDaemons(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPodsWaitForADaemonThatIsAway(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "old", "n1", "data")
	run(t, ns, "peer", "n2", "data")
	back := daemonsGo(t)
	in(t, ns, "old", "ping", "-c1", "-W3", address(t, ns, "peer", "net1")) // interfaces go on forwarding
	create(t, ns, "new", "n1", "data,control,vlan")
	remove(t, ns, "old") // is not held in Terminating
	eventually(t, "the ADD of the new pod waits", func() error {
		_, err := c.Nodes[0].Run("sh", "-c", `for p in $(pgrep -x patchbay); do tr '\0' '\n' </proc/$p/environ; done | grep -q K8S_POD_NAME=new`)
		return err
	})
	p, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), "new", metav1.GetOptions{})
	if err != nil || p.Status.PodIP != "" {
		t.Errorf("a pod started without Patchbay: %+v, %v", p.Status.PodIP, err)
	}
	back()
	ready(t, ns, "new")
	if out := in(t, ns, "new", "ip", "-o", "link"); !strings.Contains(out, "net3") {
		t.Errorf("it came up incomplete:\n%s", out)
	}
	clean(t)
}

func TestARebootedNodeRecoversByItself(t *testing.T) {
	ns := namespace(t)
	replicas := int32(4)
	p := pod("x", "n2", "data,control,vlan")
	labels := map[string]string{"app": "rebooted"}
	p.ObjectMeta = metav1.ObjectMeta{Labels: labels, Annotations: p.Annotations}
	_, err := c.Client.AppsV1().Deployments(ns).Create(context.Background(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "rebooted"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podTemplate(p)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Client.AppsV1().Deployments(ns).Delete(context.Background(), "rebooted", metav1.DeleteOptions{})
	})
	run(t, ns, "peer", "n1", "data")
	complete := func() error {
		l, err := c.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "app=rebooted"})
		if err != nil {
			return err
		}
		n := 0
		for _, p := range l.Items {
			if out, err := tryIn(ns, p.Name, "ip", "-o", "link"); err == nil && strings.Contains(out, "net3") {
				n++
			}
		}
		if n < int(replicas) {
			return fmt.Errorf("%d of %d pods are complete", n, replicas)
		}
		return nil
	}
	eventually(t, "the pods are complete", complete)
	n2 := c.Nodes[1]
	n2.Crash()
	if err := n2.Boot(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pods are complete again", complete)
	if err := c.AwaitDaemons(context.Background()); err != nil {
		t.Fatal(err)
	}
	l, err := c.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "app=rebooted"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a ping across the nodes", func() error {
		_, err := tryIn(ns, "peer", "ping", "-c1", "-W1", address(t, ns, l.Items[0].Name, "net1"))
		return err
	})
	clean(t)
}

// The API server is away: what is cached and recorded is enough.
func TestWithoutTheAPIServer(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	n1 := c.Nodes[0]
	d := daemon(t, n1)
	ctx := context.Background()
	attach := func(network string) time.Duration {
		begin := time.Now()
		if _, err := d.Attach(ctx, ns, "a", client.Request{Network: network, Interface: "hot0"}); err != nil {
			t.Errorf("hot attach: %v", err)
		}
		return time.Since(begin)
	}
	with := attach("vlan")
	if err := d.Detach(ctx, ns, "a", "hot0"); err != nil {
		t.Fatal(err)
	}
	c.APIServer.Kill()
	defer func() {
		if err := c.StartAPIServer(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both nodes are Ready again", func() error { return c.Ready(context.Background()) })
	}()
	if without := attach("control"); without > 50*with { // it asks nobody; who asks is held for seconds
		t.Errorf("a hot attach took %s with the API server, and %s without", with, without)
	}
	if _, err := d.Attach(ctx, ns, "a", client.Request{Network: "never-seen"}); err == nil || !strings.Contains(err.Error(), "never-seen") {
		t.Errorf("a network that is not in the cache: %v", err)
	}
	// A static pod needs no API server to start, nor to end.
	remove := static(t, n1, ns, "data")
	has := func(want bool) func() error {
		return func() error {
			l, err := d.List(ctx, client.Filter{Namespace: ns, Pod: "static-n1", Network: ns + "/data"})
			if err == nil && (len(l) > 0) != want {
				err = fmt.Errorf("attachments: %+v", l)
			}
			return err
		}
	}
	eventually(t, "the static pod has its interface", has(true))
	remove()
	eventually(t, "it is gone", has(false))
	if err := d.Detach(ctx, ns, "a", "hot0"); err != nil {
		t.Error(err)
	}
}

// static gives kubelet a pod "static", with the networks, by file; the returned function takes it away.
func static(t *testing.T, n *cluster.Node, ns, networks string) (remove func()) {
	t.Helper()
	file := n.Path("/etc/kubernetes/manifests/static.json")
	manifest := `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static", "namespace": "` + ns + `", "annotations": {"k8s.v1.cni.cncf.io/networks": "` + networks + `"}},
 "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "` + cluster.ToolsImage + `", "imagePullPolicy": "Never", "command": ["sleep", "100000"]}]}}`
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// A static pod's sandbox has another UID than its mirror in the API server, which shows its status.
func TestAStaticPodsMirrorShowsItsStatus(t *testing.T) {
	ns := namespace(t)
	remove := static(t, c.Nodes[0], ns, "data")
	ready(t, ns, "static-n1")
	eventually(t, "network-status", func() error {
		if have := entries(ns, "static-n1"); have != 2 {
			return fmt.Errorf("%d entries", have)
		}
		return nil
	})
	remove()
	gone(t, ns, "static-n1")
	clean(t)
}

// The API server has a hiccup just when a pod's interfaces are made: the pod is not held, and its
// network-status is there soon after.
func TestASlowAPIServerHoldsNoPod(t *testing.T) {
	ns := namespace(t)
	n1 := c.Nodes[0]
	// The API server may just have been restarted; who follows it tries again ever more seldom.
	eventually(t, "the daemon knows the networks", func() error {
		l, err := daemon(t, n1).Networks(context.Background())
		if err == nil && !slices.ContainsFunc(l, func(n client.Network) bool { return n.Namespace == ns && n.Name == "data" }) {
			err = fmt.Errorf("%d others", len(l))
		}
		return err
	})
	try := func(do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Error(err)
		}
	}
	defer try(c.APIServer.Thaw)
	defer try(n1.Containerd.Thaw)
	// Kubelet has the pod, and waits for the runtime, when the API server stops answering.
	start := func(name string, stop func() error) time.Duration {
		try(n1.Containerd.Freeze)
		create(t, ns, name, "n1", "data")
		eventually(t, "kubelet has the pod", func() error {
			p, err := c.Client.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{})
			if err == nil && p.Status.StartTime == nil {
				err = errors.New("it has not")
			}
			return err
		})
		try(stop)
		try(n1.Containerd.Thaw)
		begin := time.Now()
		eventually(t, "the container runs", func() error {
			out, err := n1.Run("sh", "-c", filepath.Join(c.Bin, "ctr")+` -n k8s.io containers ls -q 'labels."io.kubernetes.pod.namespace"==`+ns+
				`,labels."io.kubernetes.pod.name"==`+name+`,labels."io.cri-containerd.kind"==container' 2>/dev/null`)
			if err == nil && out == "" {
				err = errors.New("no container yet")
			}
			return err
		})
		return time.Since(begin)
	}
	with := start("with", func() error { return nil })
	without := start("a", c.APIServer.Freeze)
	if held := without - with; held > 8*time.Second { // a request is given up after 10
		t.Errorf("the pod was held for %s", held)
	}
	try(c.APIServer.Thaw)
	ready(t, ns, "a")
	eventually(t, "network-status", func() error {
		if have := entries(ns, "a"); have != 2 {
			return fmt.Errorf("%d entries", have)
		}
		return nil
	})
	clean(t)
}

// A token that is renewed on disk is taken without a restart.
func TestATokenIsReadAgain(t *testing.T) {
	file := t.TempDir() + "/token"
	if err := os.WriteFile(file, []byte("expired"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := rest.CopyConfig(c.Config)
	cfg.BearerToken, cfg.BearerTokenFile = "", file
	s, err := kube.New(cfg, "n1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	if _, err := s.Network(context.Background(), ns, "data"); !errors.Is(err, meta.ErrUnavailable) {
		t.Errorf("with an expired token: %v", err)
	}
	if err := os.WriteFile(file, []byte(c.Config.BearerToken), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new token is used", func() error { _, err := s.Network(context.Background(), ns, "data"); return err })
}

// STATUS tells the runtime, and so kubelet, that the node can't take pods.
func TestANodeWithoutOpenVSwitchIsNotReady(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	run(t, ns, "b", "n2", "data")
	run(t, ns, "ends", "n1", "data")
	n1 := c.Nodes[0]
	ctx := context.Background()
	n1.StopNow(n1.OVSDB)
	eventually(t, "n1 is not Ready", func() error {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue && strings.Contains(cond.Message, "Open vSwitch does not answer") {
				return nil
			}
		}
		return fmt.Errorf("%+v", n.Status.Conditions)
	})
	// What can't be unmade now is told, kept, and unmade later.
	remove(t, ns, "ends")
	event(t, ns, "ends", "DetachDelayed", "net1", "Open vSwitch does not answer")
	if err := n1.StartOVSDB(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both nodes are Ready again", func() error { return c.Ready(ctx) })
	eventually(t, "a ping across the nodes", func() error {
		_, err := tryIn(ns, "a", "ping", "-c1", "-W1", address(t, ns, "b", "net1"))
		return err
	})
	clean(t)
}

// In the steady state a pod's ADD costs the API server one request: the patch of network-status.
func TestAPodCostsOneRequest(t *testing.T) {
	ns := namespace(t)
	const patch = "patch pods/status"
	mine := requests(t)[patch]
	begin := func(name string) { run(t, ns, name, "n1", "data,control,vlan") }
	// patched waits until so many pods' status has been patched, once each.
	patched := func(pods int) map[string]int {
		t.Helper()
		var count map[string]int
		eventually(t, fmt.Sprintf("the status of %d pods is patched", pods), func() error {
			if count = requests(t); count[patch]-mine != pods {
				return fmt.Errorf("%d patches", count[patch]-mine)
			}
			return nil
		})
		return count
	}
	begin("warm")
	before := patched(1)
	const pods = 5
	for i := range pods {
		begin(fmt.Sprintf("p%d", i))
	}
	begin("last") // what the others cost has been asked for by now
	for what, n := range patched(1 + pods + 1) {
		if n -= before[what]; n > 0 && what != patch {
			t.Errorf("%d x %s", n, what)
		}
	}
}

// requests counts what the daemons have asked of the API server, by verb and resource.
func requests(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open(c.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb, UserAgent string
			ObjectRef              struct{ Resource, Subresource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Stage == "ResponseComplete" && e.Verb != "watch" && strings.HasPrefix(e.UserAgent, "patchbayd/") {
			count[strings.TrimSuffix(e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")]++
		}
	}
	return count
}

// Credentials that have expired: what is cached is served, the rest says why it can't be asked.
func TestExpiredCredentialsAreNamed(t *testing.T) {
	cfg := rest.CopyConfig(c.Config)
	cfg.BearerToken = "expired"
	s, err := kube.New(cfg, "n1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for what, err := range map[string]error{
		"network": func() error { _, err := s.Network(ctx, "default", "data"); return err }(),
		"pod":     func() error { _, err := s.Pod(ctx, "default", "a", ""); return err }(),
	} {
		if !errors.Is(err, meta.ErrUnavailable) || !strings.Contains(err.Error(), "have the credentials expired") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
