package e2e

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

const (
	plugin  = "/opt/cni/bin/patchbay"
	netconf = "/etc/cni/net.d/00-patchbay.conflist"
)

// TestTheOverlays takes Patchbay off both nodes, applies each overlay of deploy/ as a reader of
// docs/kubernetes.md does, and takes it off again. It leaves the cluster as it was.
func TestTheOverlays(t *testing.T) {
	ns := namespace(t) // its networks are there throughout
	takeOff(t, "test/e2e/overlays/trial", ns)
	etcd := externalEtcd(t)
	defer etcd.Stop()
	t.Run("native", func(t *testing.T) { native(t, ns) })

	// On nodes that have had no bridges; from here on they have no uplinks.
	for _, n := range c.Nodes {
		if out, err := n.Run("ovs-vsctl", "del-br", "br-data", "--", "del-br", "br-control"); err != nil {
			t.Fatal(out, err)
		}
	}
	t.Run("trial", func(t *testing.T) {
		out := deploy(t, "deploy/overlays/trial")
		if service, daemons := strings.Index(out, "service/patchbay-etcd"), strings.Index(out, "daemonset.apps/patchbay"); service < 0 || service > daemons {
			t.Errorf("the Service must be there before the daemons, which are given its address:\n%s", out)
		}
		shell(t, "kubectl rollout status -n patchbay-system daemonset/patchbay --timeout=90s")
		run(t, ns, "a", "n1", "data")
		takeOff(t, "deploy/overlays/trial", ns, "a")
		forget(t)
	})
	t.Run("exec", func(t *testing.T) {
		etcdSecret(t)
		deploy(t, "deploy/overlays/exec")
		run(t, ns, "a", "n1", "data,bridge")
		remove(t, ns, "a")
		takeOff(t, "deploy/overlays/exec", ns)
	})
	t.Run("webhook", func(t *testing.T) {
		deploy(t, "deploy/overlays/webhook")
		shell(t, "kubectl rollout status -n patchbay-system deployment/patchbay-webhook --timeout=90s")
		eventually(t, "the webhook refuses", func() error {
			out, err := c.Kubectl("create", "-n", ns, "--dry-run=server", "-f", file(t, nad("broken", `{"cniVersion": "1.0.0", "type": }`)))
			if err == nil || !strings.Contains(out, "networks.patchbay.io") {
				return fmt.Errorf("it did not: %s", out)
			}
			return nil
		})
		run(t, ns, "a", "n1", "data")
		remove(t, ns, "a")
		takeOff(t, "deploy/overlays/webhook", ns)
		forget(t)
	})
	t.Run("from-multus", fromMultus)
	forget(t)
	// The networks go only on purpose.
	shell(t, "cd "+c.Root+"; kubectl delete -k deploy/crds; kubectl label node n1 patchbay.io/trial-etcd-")
	deploy(t, "test/e2e/overlays/trial")
}

// forget removes what stays on purpose, as documented: the trial's etcd, and what the nodes know of it.
func forget(t *testing.T) {
	t.Helper()
	for _, n := range c.Nodes {
		if out, err := n.Run("rm", "-rf", "/var/lib/patchbay", "/var/lib/patchbay-etcd"); err != nil {
			t.Error(out, err)
		}
	}
}

// TestEveryOverlayIsInItsNamespace renders each overlay below one of the reader's own, as
// docs/kubernetes.md has it: the image has the reader's name, all is in the namespace, and no custom
// resource is among what kubectl delete -k would delete.
func TestEveryOverlayIsInItsNamespace(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(c.Root, "deploy/overlays/*"))
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		own := t.TempDir()
		from, err := filepath.Rel(own, dir)
		if err != nil {
			t.Fatal(err)
		}
		kustomization := "resources: [" + from + "]\nimages:\n- {name: ghcr.io/patchbay-cni/patchbay, newName: registry.example.org/patchbay, newTag: v1}\n"
		if err := os.WriteFile(filepath.Join(own, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := c.Kubectl("kustomize", own)
		if err != nil || !strings.Contains(out, "image: registry.example.org/patchbay:v1") || strings.Contains(out, "ghcr.io") {
			t.Errorf("%s: %v\n%s", dir, err, out)
		}
		for object := range strings.SplitSeq(out, "\n---\n") {
			kind, _, _ := strings.Cut(object[strings.Index("\n"+object, "\nkind: "):], "\n")
			clusterWide := slices.Contains([]string{"kind: Namespace", "kind: ClusterRole", "kind: ClusterRoleBinding", "kind: ValidatingWebhookConfiguration"}, kind)
			if !clusterWide && !strings.Contains(object+"\n", "\n  namespace: patchbay-system\n") {
				t.Errorf("%s: %s is of the whole cluster or in another namespace:\n%s", dir, kind, object)
			}
		}
	}
}

// TestEachNodeMayHaveItsOwnCertificate renders an overlay of the reader's own with the component for that: the
// certificate is a file of the node, and there is no Secret.
func TestEachNodeMayHaveItsOwnCertificate(t *testing.T) {
	own := t.TempDir()
	from, err := filepath.Rel(own, filepath.Join(c.Root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	kustomization := "resources: [" + from + "/overlays/native]\ncomponents: [" + from + "/components/etcd-per-node]\n"
	if err := os.WriteFile(filepath.Join(own, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := c.Kubectl("kustomize", own)
	if err != nil || !strings.Contains(out, "path: /etc/patchbay-etcd") || strings.Contains(out, "secretName") {
		t.Errorf("%v\n%s", err, out)
	}
}

// deploy applies an overlay and waits until the daemons are ready and have given the runtime its
// configuration. The custom resources, which are there, are left alone.
func deploy(t *testing.T, dir string) string {
	t.Helper()
	out, err := c.Deploy(context.Background(), dir)
	if err != nil {
		t.Fatal(out, err)
	}
	for _, n := range c.Nodes {
		eventually(t, netconf+" is on "+n.Name, func() error {
			fi, err := os.Stat(n.Path(netconf))
			if err == nil && fi.Mode().Perm() != 0o600 {
				err = fmt.Errorf("it has mode %o", fi.Mode().Perm())
			}
			return err
		})
	}
	return out
}

// externalEtcd starts an etcd over TLS, with certificates for it and for the daemons.
func externalEtcd(t *testing.T) *cluster.Process {
	t.Helper()
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
	return etcd
}

// etcdSecret makes what the overlays for an etcd of one's own want.
func etcdSecret(t *testing.T) {
	t.Helper()
	shell(t, `cd `+filepath.Join(c.Dir, "pki")+`
kubectl create namespace patchbay-system
kubectl create secret generic -n patchbay-system patchbay-etcd --from-file=tls.crt=patchbay.crt --from-file=tls.key=patchbay.key --from-file=ca.crt
kubectl create configmap -n patchbay-system patchbay-etcd --from-literal=endpoints=`+cluster.EtcdTLS)
}

// native is without privileged, on an etcd over TLS. The cluster network is Open vSwitch's, too. The
// bridges have the uplinks that they had before.
func native(t *testing.T, ns string) {
	etcdSecret(t)
	apply(t, "kube-system", nad("cluster", `{"cniVersion": "1.1.0", "name": "cluster", "type": "patchbay-ovs", "network": "control",
 "ipam": {"type": "patchbay-ipam", "network": "10.20.0.0/16", "subnetLen": 24, "cooldown": "0s", "routes": [{"dst": "10.20.0.0/16", "scope": 253}]}}`))
	deploy(t, "deploy/overlays/native")
	run(t, ns, "a", "n1", "data,control")
	run(t, ns, "b", "n2", "data,control")
	for _, ifName := range []string{"eth0", "net1", "net2"} {
		in(t, ns, "a", "ping", "-c1", "-W3", address(t, ns, "b", ifName))
	}
	remove(t, ns, "a")

	// An overlay of the reader's own on it, with kubernetes.events=all.
	deploy(t, "test/e2e/overlays/native")
	run(t, ns, "a", "n1", "data,control")
	event(t, ns, "a", "Attached", "eth0 on network kube-system/cluster", "net1 on network "+ns+"/data", address(t, ns, "a", "net2"))
	remove(t, ns, "a")
	event(t, ns, "a", "Detached", "eth0", "net1", "net2")
	remove(t, ns, "b")
	clean(t)
	takeOff(t, "test/e2e/overlays/native", ns)
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
	shell(t, `kubectl create namespace patchbay-system
kubectl get configmap -n kube-system multus-daemon-config -o jsonpath='{.data.daemon-config\.json}' |
  kubectl create configmap -n patchbay-system multus-daemon-config --from-file=daemon-config.json=/dev/stdin`)
	// Multus' own version of the custom resource stays.
	mark := []string{"annotate", "crd", "network-attachment-definitions.k8s.cni.cncf.io"}
	if out, err := c.Kubectl(append(mark, "example.org/from=multus")...); err != nil {
		t.Fatal(out)
	}
	if out, err := c.CreateCRDs(); err != nil || strings.Count(out, "(AlreadyExists)") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := c.Kubectl("get", "crd", "network-attachment-definitions.k8s.cni.cncf.io", "-o", "yaml"); err != nil || !strings.Contains(out, "example.org/from: multus") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := c.Kubectl(append(mark, "example.org/from-")...); err != nil {
		t.Fatal(out)
	}
	apply(t, "kube-system", nad("everyone", `{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br-control"}`))
	ns := namespace(t)
	apply(t, ns, nad("ovs", `{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br-data", "vlan": 100, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]]}}`))
	apply(t, "default", nad("elsewhere", `{"cniVersion": "0.3.1", "type": "bridge", "bridge": "lbr1", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.61.0.0/24"}]]}}`))
	apply(t, ns, nad("broken", `{"cniVersion": "0.3.1", "type": }`))
	out, _ := command(filepath.Join(c.Root, "bin/patchctl"), "migrate", "check", "--all", "--kubeconfig", c.Dir+"/admin.kubeconfig")
	for _, want := range []string{"ovs is made by the daemon itself", "executes bridge, host-local", "ovs.trustedNamespaces", ns + "/broken", "fails", "multusConfigFile: has no effect here"} {
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
	deploy(t, "test/e2e/overlays/from-multus")
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
	takeOff(t, "deploy/overlays/from-multus", ns)
}

// shell runs commands with the test cluster's kubectl, as a reader copies them from the documents.
func shell(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Env = append(os.Environ(), "PATH="+c.Bin+":"+os.Getenv("PATH"), "KUBECONFIG="+c.Dir+"/admin.kubeconfig")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

func theResourceIsTheSpecifications(t *testing.T) {
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

// theConfigurationIsWrittenLate starts a daemon that can't reach etcd: the
// plugin is in place, the configuration is not, and the runtime goes on with the one before.
func theConfigurationIsWrittenLate(t *testing.T) {
	n := c.Nodes[0]
	back := daemonsGo(t)
	if out, err := c.Kubectl("scale", "-n", cluster.Namespace, "statefulset/patchbay-etcd", "--replicas=0"); err != nil {
		t.Fatal(out)
	}
	if err := errors.Join(os.Remove(n.Path(netconf)), os.Remove(n.Path(plugin)), os.RemoveAll(n.Path("/run/patchbay/api.sock"))); err != nil {
		t.Fatal(err)
	}
	patch := `{"spec":{"template":{"spec":{"nodeSelector":null}}}}`
	if _, err := c.Client.AppsV1().DaemonSets(cluster.Namespace).Patch(context.Background(), "patchbay", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{plugin, "/run/patchbay/api.sock"} { // what it makes before it waits for etcd
		eventually(t, made+" is in place", func() error { _, err := os.Stat(n.Path(made)); return err })
	}
	if _, err := os.Stat(n.Path(netconf)); err == nil {
		t.Error("the configuration is there, and nobody could serve an ADD")
	}
	if out, err := c.Kubectl("scale", "-n", cluster.Namespace, "statefulset/patchbay-etcd", "--replicas=1"); err != nil {
		t.Fatal(out)
	}
	back()
	eventually(t, "the configuration is there", func() error { _, err := os.Stat(n.Path(netconf)); return err })
	eventually(t, "both nodes are Ready", func() error { return c.Ready(context.Background()) })
}

// TestTheTrialEtcdStaysOnItsNode drains the other node, which it must not notice, and then its own: it
// comes back there, with its data.
func TestTheTrialEtcdStaysOnItsNode(t *testing.T) {
	ctx := context.Background()
	uid := func() (types.UID, error) {
		p, err := c.Client.CoreV1().Pods(cluster.Namespace).Get(ctx, "patchbay-etcd-0", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if p.Spec.NodeName != "n1" || len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready {
			return "", fmt.Errorf("it is on %q, %+v", p.Spec.NodeName, p.Status.ContainerStatuses)
		}
		return p.UID, nil
	}
	before, err := uid()
	if err != nil {
		t.Fatal(err)
	}
	drain := func(node string) {
		shell(t, "kubectl drain "+node+" --ignore-daemonsets --timeout=60s; kubectl uncordon "+node)
	}
	drain("n2")
	if now, err := uid(); err != nil || now != before {
		t.Errorf("after a drain of n2: %s, %v, want %s", now, err, before)
	}
	ns := namespace(t)
	run(t, ns, "a", "n2", "data")
	drain("n1")
	eventually(t, "etcd is back", func() error {
		now, err := uid()
		if err == nil && now == before {
			err = fmt.Errorf("it was not evicted")
		}
		return err
	})
	out, err := trialEtcdctl(t, trialClient(t), "get", "--prefix", "--print-value-only", "/patchbay/v1/sandboxes/n2/")
	if err != nil || !strings.Contains(out, ns) {
		t.Errorf("%v, the records are %q", err, out)
	}
	remove(t, ns, "a")
	clean(t)
}

// TestTheTrialEtcdServesItsClientsOnly: it speaks TLS, with those that have a certificate of its authority, at the
// address of its node.
func TestTheTrialEtcdServesItsClientsOnly(t *testing.T) {
	client := trialClient(t)
	if out, err := trialEtcdctl(t, client, "get", "x"); err != nil {
		t.Errorf("a client: %v: %s", err, out)
	}
	for what, with := range map[string][]string{
		"without a certificate":  client[:1],
		"without TLS":            {},
		"another's certificate":  {client[0], "--cert=" + c.Dir + "/pki/apiserver.crt", "--key=" + c.Dir + "/pki/apiserver.key"},
		"an address of the loop": append(slices.Clone(client), "--endpoints=https://127.0.0.1:12379"),
		"the peers' port, plain": {"--endpoints=http://127.0.0.1:12380"},
	} {
		if out, err := trialEtcdctl(t, with, "get", "x"); err == nil {
			t.Errorf("%s: %s", what, out)
		}
	}
	// The Secrets are made again by the etcd's Pod when they are gone, and the daemons take the new ones.
	shell(t, "kubectl delete secret -n patchbay-system patchbay-trial-etcd patchbay-trial-etcd-server; kubectl delete pod -n patchbay-system patchbay-etcd-0")
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	run(t, ns, "b", "n2", "data")
	clean(t)
}

// trialClient are etcdctl's flags for a client of the trial's etcd, with the certificates of its Secret: the authority
// first.
func trialClient(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{"ca.crt", "tls.crt", "tls.key"} {
		shell(t, `kubectl get secret -n patchbay-system patchbay-trial-etcd -o jsonpath='{.data.`+strings.Replace(f, ".", `\.`, 1)+`}' | base64 -d >`+dir+"/"+f)
	}
	return []string{"--cacert=" + dir + "/ca.crt", "--cert=" + dir + "/tls.crt", "--key=" + dir + "/tls.key"}
}

// trialEtcdctl asks the trial's etcd, on its node, at the node's address unless the flags name another.
func trialEtcdctl(t *testing.T, flags []string, args ...string) (string, error) {
	t.Helper()
	n, err := c.Client.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
	scheme := "https"
	if len(flags) == 0 {
		scheme = "http"
	}
	if !strings.Contains(strings.Join(flags, " "), "--endpoints") {
		flags = append(slices.Clone(flags), "--endpoints="+scheme+"://"+n.Status.Addresses[i].Address+":12379")
	}
	return c.Nodes[0].Run("etcdctl", slices.Concat([]string{"--command-timeout=5s"}, flags, args)...)
}
