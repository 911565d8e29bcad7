package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// BenchmarkNode measures on one node, its kubelet stopped: RunPodSandbox of a pod with three Open
// vSwitch interfaces through Patchbay, in turn with one of a single interface from the reference
// plugins; and the daemon's memory with a cluster's worth of objects. Whatever -benchtime says, it
// runs once.
func BenchmarkNode(b *testing.B) {
	ctx := context.Background()
	n := c.Nodes[1]
	kubectl(b, "cluster network", "kube-system", nad("cluster", `{"cniVersion": "1.1.0", "name": "cluster", "type": "patchbay-ovs", "network": "control",
 "ipam": {"type": "patchbay-ipam", "network": "10.20.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`))
	kubectl(b, "networks", "default", networks)
	if err := c.Install(ctx, "bench"); err != nil {
		b.Fatal(err)
	}
	n.StopNow(n.Kubelet)
	pods := map[string]*corev1.Pod{}
	for name, annotation := range map[string]string{"reference": "", "three": "data,vlan"} {
		p := pod(name, "", annotation)
		p.Spec.NodeName = n.Name
		made, err := c.Client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		pods[name] = made
	}
	conn, err := grpc.NewClient("unix://"+n.Path("/run/containerd/containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	times := map[string][]time.Duration{}
	const rounds = 150
	for i := range rounds + 5 {
		for name, handler := range map[string]string{"reference": "reference", "three": ""} {
			took := sandbox(b, runtime, pods[name], handler, i)
			if i >= 5 { // the first ones warm up
				times[name] = append(times[name], took)
			}
		}
	}
	ratio := float64(quantile(times["three"], 0.5)) / float64(quantile(times["reference"], 0.5))
	for _, name := range []string{"reference", "three"} {
		fmt.Printf("RunPodSandbox %-10s n %d  p50 %5.1f ms  p90 %5.1f ms  p99 %5.1f ms\n", name, len(times[name]), ms(quantile(times[name], 0.5)), ms(quantile(times[name], 0.9)), ms(quantile(times[name], 0.99)))
	}
	fmt.Printf("goal: three Open vSwitch interfaces to one of the reference plugins: %.2f (at most 1.15)\n", ratio)
	b.ReportMetric(ratio, "ratio")

	for i := range 100 {
		kubectl(b, "many networks", "default", nad(fmt.Sprintf("many%d", i), `{"cniVersion": "1.1.0", "name": "m", "type": "patchbay-ovs", "network": "data"}`))
	}
	for i := range 500 {
		p := pod(fmt.Sprintf("many%d", i), "", "data,control,vlan")
		p.Spec.NodeName = n.Name
		if _, err := c.Client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second) // nothing tells when the informers have them all, and the garbage is collected
	rss := daemonRSS(b, n)
	fmt.Printf("goal: RSS of the daemon with 500 pods and 100 networks in the API server: %.1f MB (under 100)\n", rss)
	b.ReportMetric(rss, "MB")
	out, err := c.Kubectl("delete", "pods", "-n", "default", "--all", "--force", "--grace-period=0", "--wait=false")
	if err != nil {
		b.Error(out)
	}
}

func kubectl(b *testing.B, what, ns, yaml string) {
	b.Helper()
	file := b.TempDir() + "/manifest.yaml"
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := c.Kubectl("apply", "-n", ns, "-f", file); err != nil {
		b.Fatalf("%s: %v\n%s", what, err, out)
	}
}

// sandbox runs a pod's sandbox, as kubelet would, and removes it. It returns the time of the run.
func sandbox(b *testing.B, runtime cri.RuntimeServiceClient, p *corev1.Pod, handler string, attempt int) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config := &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: uint32(attempt)},
		Annotations: map[string]string{}, LogDirectory: "/var/log/pods/bench", Linux: &cri.LinuxPodSandboxConfig{},
	}
	if a := p.Annotations[meta.NetworksAnnotation]; a != "" {
		config.Annotations[meta.NetworksAnnotation] = a
	}
	begin := time.Now()
	made, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	took := time.Since(begin)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
		b.Fatal(err)
	}
	if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
		b.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // the machine comes to rest
	return took
}

var rssLine = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func daemonRSS(b *testing.B, n *cluster.Node) float64 {
	b.Helper()
	out, err := n.Run("pgrep", "-x", "patchbayd")
	if err != nil {
		b.Fatal(out, err)
	}
	status, err := n.Run("cat", "/proc/"+strings.Fields(out)[0]+"/status")
	if err != nil {
		b.Fatal(err)
	}
	kb, err := strconv.Atoi(rssLine.FindStringSubmatch(status)[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) / 1024
}

func quantile(s []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
