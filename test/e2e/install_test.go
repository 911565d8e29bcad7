package e2e

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

const (
	plugin  = "/opt/cni/bin/patchbay"
	netconf = "/etc/cni/net.d/00-patchbay.conflist"
)

// TestTheOverlays takes Patchbay off both nodes and installs it again from each overlay. It leaves the
// cluster as it was.
func TestTheOverlays(t *testing.T) {
	uninstall(t, "trial")
	ctx := context.Background()

	// Native, without privileged, on an external etcd over TLS. The cluster network is Open vSwitch's.
	ns := cluster.Namespace
	if _, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CA.Issue("etcd", pkix.Name{CommonName: "etcd"}, "10.77.0.1"); err != nil {
		t.Fatal(err)
	}
	if err := c.CA.Issue("patchbay", pkix.Name{CommonName: "patchbay"}); err != nil {
		t.Fatal(err)
	}
	etcd, err := c.StartEtcd()
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Stop()
	data := map[string][]byte{}
	for key, file := range map[string]string{"tls.crt": "patchbay.crt", "tls.key": "patchbay.key", "ca.crt": "ca.crt"} {
		if data[key], err = os.ReadFile(filepath.Join(c.Dir, "pki", file)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "patchbay-etcd"}, Data: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "patchbay-etcd"}, Data: map[string]string{"endpoints": cluster.EtcdTLS}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl("apply", "-f", filepath.Join(c.Root, "deploy/base/crd.yaml")); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, "the cluster network", func() error {
		_, err := tryApply(t, "kube-system", nad("cluster", `{"cniVersion": "1.1.0", "name": "cluster", "type": "patchbay-ovs", "network": "control",
 "ipam": {"type": "patchbay-ipam", "network": "10.20.0.0/16", "subnetLen": 24, "cooldown": "0s", "routes": [{"dst": "10.20.0.0/16", "scope": 253}]}}`))
		return err
	})
	if err := c.Install(ctx, "native"); err != nil {
		t.Fatal(err)
	}
	t.Run("native", func(t *testing.T) {
		ns := namespace(t)
		run(t, ns, "a", "n1", "data,control")
		run(t, ns, "b", "n2", "data,control")
		for _, ifName := range []string{"eth0", "net1", "net2"} {
			in(t, ns, "a", "ping", "-c1", "-W3", address(t, ns, "b", ifName))
		}
		// With kubernetes.events=all.
		event(t, ns, "a", "Attached", "eth0 on network kube-system/cluster", "net1 on network "+ns+"/data", address(t, ns, "a", "net2"))
		remove(t, ns, "a")
		event(t, ns, "a", "Detached", "eth0", "net1", "net2")
		remove(t, ns, "b")
		clean(t)
	})
	uninstall(t, "native")
	t.Run("from-multus", fromMultus)
	if err := c.Install(ctx, "trial"); err != nil {
		t.Fatal(err)
	}
}

// uninstall does what the documentation says: delete, apply the overlay uninstall, delete that.
func uninstall(t *testing.T, overlay string) {
	t.Helper()
	for _, n := range c.Nodes {
		for _, f := range []string{plugin, netconf} {
			if _, err := os.Stat(n.Path(f)); err != nil {
				t.Errorf("before: %v", err)
			}
		}
		if fi, err := os.Stat(n.Path(netconf)); err == nil && fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", netconf, fi.Mode().Perm())
		}
	}
	overlays := filepath.Join(c.Root, "test/e2e/overlays")
	if out, err := c.Kubectl("delete", "-k", filepath.Join(overlays, overlay), "--wait"); err != nil {
		t.Fatal(out, err)
	}
	if out, err := c.Kubectl("apply", "-k", filepath.Join(c.Root, "deploy/overlays/uninstall")); err != nil {
		t.Fatal(out, err)
	}
	for _, n := range c.Nodes {
		for _, f := range []string{plugin, "/opt/cni/bin/patchbay-ovs", "/opt/cni/bin/patchbay-ipam", netconf} {
			eventually(t, f+" is gone from "+n.Name, func() error {
				if _, err := os.Lstat(n.Path(f)); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%w", errors.Join(err, fmt.Errorf("it is there")))
				}
				return nil
			})
		}
		left, err := n.Run("sh", "-c", "ls -A /opt/cni/bin /etc/cni/net.d")
		if err != nil || strings.Contains(left, "patchbay") {
			t.Errorf("left on %s: %s, %v", n.Name, left, err)
		}
	}
	if out, err := c.Kubectl("delete", "-k", filepath.Join(c.Root, "deploy/overlays/uninstall"), "--wait"); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, "the nodes are Ready with the CNI that was there before", func() error { return c.Ready(context.Background()) })
}

// fromMultus does what docs/from-multus.md says, on a cluster with Multus' configuration and networks
// as Multus' users write them. Multus' own plugin is not there: a plain one stands in its file.
func fromMultus(t *testing.T) {
	ctx := context.Background()
	const thick = `{"cniVersion": "0.3.1", "logLevel": "verbose", "cniConfigDir": "/host/etc/cni/net.d", "multusAutoconfigDir": "/host/etc/cni/net.d",
 "multusConfigFile": "auto", "socketDir": "/host/run/multus/", "defaultNetworks": ["everyone"]}`
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "multus-daemon-config"}, Data: map[string]string{"daemon-config.json": thick}}
	if _, err := c.Client.CoreV1().ConfigMaps("kube-system").Create(ctx, config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `set -e
kubectl create namespace patchbay-system
kubectl get configmap -n kube-system multus-daemon-config -o jsonpath='{.data.daemon-config\.json}' |
  kubectl create configmap -n patchbay-system multus-daemon-config --from-file=daemon-config.json=/dev/stdin`)
	cmd.Env = append(os.Environ(), "PATH="+c.Bin+":"+os.Getenv("PATH"), "KUBECONFIG="+c.Dir+"/admin.kubeconfig")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := c.Kubectl("apply", "-f", filepath.Join(c.Root, "deploy/base/crd.yaml")); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, "the networks of Multus' users", func() error {
		_, err := tryApply(t, "kube-system", nad("everyone", `{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br-control"}`))
		return err
	})
	ns := namespace(t)
	apply(t, ns, nad("ovs", `{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br-data", "vlan": 100, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]]}}`))
	apply(t, "default", nad("elsewhere", `{"cniVersion": "0.3.1", "type": "bridge", "bridge": "lbr1", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.61.0.0/24"}]]}}`))
	apply(t, ns, nad("broken", `{"cniVersion": "0.3.1", "type": }`))
	check := func() string {
		out, _ := command(filepath.Join(c.Root, "bin/patchctl"), "migrate", "check", "--all", "--kubeconfig", c.Dir+"/admin.kubeconfig")
		return out
	}
	out := check()
	for _, want := range []string{"ovs is made by the daemon itself", "executes bridge, host-local", ns + "/broken", "fails", "multusConfigFile: has no effect here"} {
		if !strings.Contains(out, want) {
			t.Errorf("migrate check lacks %q:\n%s", want, out)
		}
	}
	multus := "/etc/cni/net.d/00-multus.conf"
	for _, n := range c.Nodes {
		if err := os.WriteFile(n.Path(multus), []byte(`{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus", "delegates": []}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Install(ctx, "from-multus"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		findings, err := daemon(t, n).Doctor(ctx)
		if err != nil || !strings.Contains(fmt.Sprint(findings), "takes 00-multus.conf before") {
			t.Errorf("doctor: %v, %v", findings, err)
		}
		if err := os.Remove(n.Path(multus)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, ns, "a", "n1", `[{"name": "ovs"}, {"name": "elsewhere", "namespace": "default"}]`)
	s := status(t, ns, "a")
	if len(s) != 4 || s[1].Name != "kube-system/everyone" || s[2].Name != ns+"/ovs" || s[3].Name != "default/elsewhere" || len(s[3].IPs) != 1 {
		t.Errorf("%+v", s)
	}
	remove(t, ns, "a")
	clean(t)
	uninstall(t, "from-multus")
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

func TestN02TheResourceIsTheSpecifications(t *testing.T) {
	l, err := c.Client.Discovery().ServerResourcesForGroupVersion("k8s.cni.cncf.io/v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.APIResources {
		if r.Kind == "NetworkAttachmentDefinition" && r.Name == "network-attachment-definitions" && r.Namespaced && slices.Contains(r.ShortNames, "net-attach-def") {
			return
		}
	}
	t.Errorf("%+v", l.APIResources)
}

// TestN44TheConfigurationIsWrittenWhenADDsCanBeServed starts a daemon that can't reach etcd: the
// plugin is in place, the configuration is not, and the runtime goes on with the one before.
func TestN44TheConfigurationIsWrittenWhenADDsCanBeServed(t *testing.T) {
	n := c.Nodes[0]
	back := daemonsGo(t)
	if out, err := c.Kubectl("scale", "-n", cluster.Namespace, "deployment/patchbay-etcd", "--replicas=0"); err != nil {
		t.Fatal(out)
	}
	if err := os.Remove(n.Path(netconf)); err != nil {
		t.Fatal(err)
	}
	patch := `{"spec":{"template":{"spec":{"nodeSelector":null}}}}`
	if _, err := c.Client.AppsV1().DaemonSets(cluster.Namespace).Patch(context.Background(), "patchbay", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second)
	if _, err := os.Stat(n.Path(netconf)); err == nil {
		t.Error("the configuration is there, and nobody could serve an ADD")
	}
	if out, err := c.Kubectl("scale", "-n", cluster.Namespace, "deployment/patchbay-etcd", "--replicas=1"); err != nil {
		t.Fatal(out)
	}
	back()
	eventually(t, "the configuration is there", func() error { _, err := os.Stat(n.Path(netconf)); return err })
	eventually(t, "both nodes are Ready", func() error { return c.Ready(context.Background()) })
}
