package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// Multus' own end-to-end suite (k8snetworkplumbingwg/multus-cni, e2e/), a test for each of its scripts.
// Its pods are privileged, as here; its macvlan is on the node's eth1, here on eth0.

// defaultRoute is e2e/templates/default-route1.yml.j2: no plugin declares a capability.
const defaultRoute = `{"cniVersion": "%s", "plugins": [{"type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": {"type": "static"}}]}`

// TestMultusDefaultRoute is test-default-route1.sh, with each version that CNI's reference plugins speak.
func TestMultusDefaultRoute(t *testing.T) {
	ns := namespace(t)
	n := c.Nodes[0]
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		t.Run(version, func(t *testing.T) {
			network := "default-route-config-" + version
			apply(t, ns, nad(network, fmt.Sprintf(defaultRoute, version)))
			privileged(t, ns, "default-route-worker1", n, `[{"name": "`+network+`", "ips": ["10.1.1.21/24"], "default-route": ["10.1.1.254"]}]`)
			privileged(t, ns, "default-route-worker2", n, `[{"name": "`+network+`", "ips": ["10.1.1.22/24"]}]`)
			ready(t, ns, "default-route-worker1")
			ready(t, ns, "default-route-worker2")
			for _, p := range []struct{ pod, ip, gateway string }{
				{"default-route-worker1", "10.1.1.21/24", "10.1.1.254"},
				{"default-route-worker2", "10.1.1.22/24", strings.TrimSuffix(n.PodNetwork, "0/24") + "1"},
			} {
				if have := inet(t, ns, p.pod, "net1"); !slices.Equal(have, []string{p.ip}) {
					t.Errorf("%s: net1 has %v, want %s", p.pod, have, p.ip)
				}
				if have := gateways(t, ns, p.pod); !slices.Equal(have, []string{p.gateway}) {
					t.Errorf("%s: default routes via %v, want %s", p.pod, have, p.gateway)
				}
			}
			remove(t, ns, "default-route-worker1")
			remove(t, ns, "default-route-worker2")
			clean(t)
		})
	}
}

// TestMultusSimpleMacvlan is test-simple-macvlan1.sh, and the one case of multus_test.go, which looks
// for the address in network-status.
func TestMultusSimpleMacvlan(t *testing.T) {
	ns := namespace(t)
	apply(t, ns, nad("macvlan1-config", `{"cniVersion": "0.3.1", "plugins": [{"type": "macvlan", "capabilities": {"ips": true}, "master": "eth0", "mode": "bridge",
 "ipam": {"type": "static"}}, {"type": "tuning"}]}`))
	pods := []struct{ name, ip string }{{"macvlan1-worker1", "10.1.1.11"}, {"macvlan1-worker2", "10.1.1.12"}}
	for i, p := range pods {
		privileged(t, ns, p.name, c.Nodes[i], `[{"name": "macvlan1-config", "ips": ["`+p.ip+`/24"]}]`)
	}
	for _, p := range pods {
		ready(t, ns, p.name)
		if have := inet(t, ns, p.name, "net1"); !slices.Equal(have, []string{p.ip + "/24"}) {
			t.Errorf("%s: net1 has %v, want %s", p.name, have, p.ip)
		}
		if s := status(t, ns, p.name); len(s) != 2 || s[1].Default || !slices.Equal(s[1].IPs, []string{p.ip}) {
			t.Errorf("%s: network-status: %+v", p.name, s)
		}
	}
	in(t, ns, pods[0].name, "ping", "-c1", "-W3", pods[1].ip)
	for _, p := range pods {
		remove(t, ns, p.name)
	}
	clean(t)
}

// TestMultusStaticPod is test-static-pod.sh: a network whose configuration has another name, for a pod
// that kubelet has from a file.
func TestMultusStaticPod(t *testing.T) {
	ns := namespace(t)
	n := c.Nodes[0]
	apply(t, ns, nad("bridge-nad", `{"cniVersion": "0.3.1", "name": "testnet", "type": "bridge", "bridge": "testnet0", "ipam": {"type": "host-local", "subnet": "10.10.0.0/16"}}`))
	t.Cleanup(func() { _, _ = n.Run("ip", "link", "del", "testnet0") })
	remove := static(t, n, ns, "bridge-nad")
	ready(t, ns, "static-n1")
	if have := inet(t, ns, "static-n1", "net1"); len(have) != 1 || !strings.HasPrefix(have[0], "10.10.0.") {
		t.Errorf("net1 has %v", have)
	}
	remove()
	gone(t, ns, "static-n1")
	clean(t)
}

// TestMultusConnectionLimit is test-connection-limit.sh, where Multus' daemon serves one call at a time:
// a Deployment of six pods without further networks.
func TestMultusConnectionLimit(t *testing.T) {
	ns := namespace(t)
	template := pod("many", "n1", "")
	labels := map[string]string{"app": "many"}
	template.ObjectMeta = metav1.ObjectMeta{Labels: labels}
	many, replicas := "simple-centos1", int32(6)
	deployments := c.Client.AppsV1().Deployments(ns)
	_, err := deployments.Create(context.Background(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: many},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podTemplate(template)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "six pods are Ready", func() error {
		d, err := deployments.Get(context.Background(), many, metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != replicas {
			err = fmt.Errorf("%d are", d.Status.ReadyReplicas)
		}
		return err
	})
	if err := deployments.Delete(context.Background(), many, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone(t, ns, "")
	clean(t)
}

// chained is the plugin that both of Multus' scripts for chains put into a directory.
const chained = `{"cniVersion": "0.3.1", "name": "sysctltwiddle", "type": "tuning", "sysctl": {"net.ipv4.conf.%s.arp_filter": "1"}}`

// TestMultusSubdirectoryChaining is test-subdirectory-chaining.sh: a plugin in the directory named
// after the cluster network works on every pod.
func TestMultusSubdirectoryChaining(t *testing.T) {
	ns := namespace(t)
	chain(t, ns, "cluster", fmt.Sprintf(chained, "IFNAME"), 1)
}

// TestMultusSubdirectoryChainingPassthru is test-subdirectory-chaining-passthru.sh: Multus' configuration
// names a directory that has nothing to do with the cluster network, and the daemons are restarted.
func TestMultusSubdirectoryChainingPassthru(t *testing.T) {
	const auxiliary = `{"confDir": "/host/etc/cni/net.d", "logToStderr": true, "logLevel": "debug", "logFile": "/tmp/multus.log", "binDir": "/host/opt/cni/bin",
 "cniDir": "/var/lib/cni/multus", "socketDir": "/host/run/multus", "cniVersion": "0.3.1", "cniConfigDir": "/host/etc/cni/net.d", "multusConfigFile": "auto",
 "forceCNIVersion": true, "multusAutoconfigDir": "/host/etc/cni/net.d", "auxiliaryCNIChainName": "vendor-cni-chain"}`
	ns := namespace(t)
	ctx := context.Background()
	maps := c.Client.CoreV1().ConfigMaps(cluster.Namespace)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "multus-daemon-config"}, Data: map[string]string{"daemon-config.json": auxiliary}}
	if _, err := maps.Create(ctx, config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Install(ctx, "trial"); err != nil {
			t.Error(err)
		}
		if err := maps.Delete(ctx, config.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err := c.Install(ctx, "multus"); err != nil {
		t.Fatal(err)
	}
	chain(t, ns, "vendor-cni-chain", fmt.Sprintf(chained, "eth0"), 2)
}

// chain puts a plugin into a directory of a node's CNI configuration and takes it away, as the DaemonSet
// of Multus' scripts does, and looks at what pods have before, meanwhile and afterwards.
func chain(t *testing.T, ns, dir, plugin string, attachments int) {
	t.Helper()
	n := c.Nodes[0]
	path := n.Path("/etc/cni/net.d/" + dir)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	file := filepath.Join(path, "sysctltwiddle.conf")
	filter := func(pod, want string) {
		t.Helper()
		privileged(t, ns, pod, n, "")
		ready(t, ns, pod)
		if have := strings.TrimSpace(in(t, ns, pod, "sysctl", "-n", "net.ipv4.conf.eth0.arp_filter")); have != want {
			t.Errorf("%s: net.ipv4.conf.eth0.arp_filter is %s, want %s", pod, have, want)
		}
	}
	filter("before", "0")
	if err := os.WriteFile(file, []byte(plugin), 0o644); err != nil {
		t.Fatal(err)
	}
	filter("sysctl-modified", "1")
	eventually(t, "network-status", func() error {
		if have := entries(ns, "sysctl-modified"); have != attachments {
			return fmt.Errorf("%d entries, want %d", have, attachments)
		}
		return nil
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	filter("after", "0")
	for _, pod := range []string{"before", "sysctl-modified", "after"} { // the second's plugin has gone before it
		remove(t, ns, pod)
	}
	clean(t)
}
