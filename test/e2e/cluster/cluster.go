// Package cluster brings up a Kubernetes cluster of real nodes on one machine: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler, and nodes of their own namespaces with Open vSwitch,
// containerd, kubelet and kube-proxy. Call it inside Enter.
package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/test/e2e/image"
)

// controlIP is where the control plane is.
const (
	controlIP = "10.77.0.1"
	server    = "https://" + controlIP + ":6443"
)

// Images of the cluster. None is in a registry.
const (
	PauseImage = "e2e.invalid/pause:1"
	ToolsImage = "e2e.invalid/tools:1" // busybox, iperf3, tcpdump
	// Those of deploy/, by the names that they have there.
	EtcdImage     = "gcr.io/etcd-development/etcd:v3.6.4"
	PatchbayImage = "ghcr.io/patchbay-cni/patchbay:latest"
)

// A Cluster is a control plane and its nodes.
type Cluster struct {
	Dir   string // everything it writes
	Bin   string // Kubernetes' and containerd's programs
	Root  string // of the repository
	Nodes []*Node
	CA    *Authority
	// Config is the administrator's; Client is made of it.
	Config    *rest.Config
	Client    *kubernetes.Clientset
	Etcd      *Process
	APIServer *Process

	images []string
	log    io.Writer
	begin  time.Time
}

// New returns a cluster of so many nodes; root is the repository, and progress goes to log.
func New(root string, nodes int, log io.Writer) *Cluster {
	c := &Cluster{Dir: filepath.Join(Dir, "cluster"), Bin: filepath.Join(root, ".cache/e2e/bin"), Root: root, log: log, begin: time.Now()}
	for i := range nodes {
		c.Nodes = append(c.Nodes, c.newNode(i+1))
	}
	c.Config = &rest.Config{Host: server, BearerToken: "admin-token", TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(c.Dir, "pki/ca.crt")}, QPS: 500, Burst: 1000}
	return c
}

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.log, "[%5.1f s] %s\n", time.Since(c.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (c *Cluster) bin(name string) string { return filepath.Join(c.Bin, name) }

func (c *Cluster) kubeconfig(user string) string {
	return filepath.Join(c.Dir, user+".kubeconfig")
}

// Up starts everything and returns when the nodes are Ready, but for a CNI: the nodes come with the
// reference plugins as their cluster network.
func (c *Cluster) Up(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "log"), 0o755); err != nil {
		return err
	}
	for _, bridge := range []string{"ctl0", "fabdata", "fabcontrol"} {
		if _, err := command("ip", "link", "add", bridge, "mtu", "1500", "up", "type", "bridge"); err != nil {
			return err
		}
	}
	if _, err := command("ip", "addr", "add", controlIP+"/24", "dev", "ctl0"); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return c.control(ctx) })
	g.Go(c.pack)
	if err := g.Wait(); err != nil {
		return err
	}
	c.say("control plane answers")
	for _, n := range c.Nodes {
		g.Go(n.Boot)
	}
	g.Go(c.services)
	if err := g.Wait(); err != nil {
		return err
	}
	if err := poll(ctx, "all nodes Ready", func() error { return c.Ready(ctx) }); err != nil {
		return err
	}
	c.say("%d nodes are Ready", len(c.Nodes))
	return nil
}

// Down ends what would not end by itself with the namespace: the containers' cgroups must be empty.
func (c *Cluster) Down() {
	for _, n := range c.Nodes {
		if n.init != nil {
			n.Crash()
		}
	}
}

func (c *Cluster) control(ctx context.Context) (err error) {
	pki := filepath.Join(c.Dir, "pki")
	if c.CA, err = NewAuthority(pki); err != nil {
		return err
	}
	if err := c.CA.Issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, controlIP, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"); err != nil {
		return err
	}
	if err := c.CA.Issue("sa", pkix.Name{CommonName: "service-accounts"}); err != nil {
		return err
	}
	if err := c.credentials(); err != nil {
		return err
	}
	c.Etcd, err = start(filepath.Join(c.Dir, "log/etcd.log"), nil, "etcd", "--data-dir="+c.Dir+"/etcd", "--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=error", "--unsafe-no-fsync=true")
	if err != nil {
		return err
	}
	if err := c.StartAPIServer(); err != nil {
		return err
	}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	_, err = start(c.Dir+"/log/controller-manager.log", nil, c.bin("kube-controller-manager"), "--kubeconfig="+c.kubeconfig("controller-manager"),
		"--use-service-account-credentials", "--kube-api-qps=500", "--kube-api-burst=1000", "--service-account-private-key-file="+pki+"/sa.key",
		"--root-ca-file="+pki+"/ca.crt", "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+c.Dir+"/kcm", "--allocate-node-cidrs=false",
		"--cluster-signing-cert-file="+pki+"/ca.crt", "--cluster-signing-key-file="+pki+"/ca.key", "--node-monitor-grace-period=20s")
	if err != nil {
		return err
	}
	_, err = start(c.Dir+"/log/scheduler.log", nil, c.bin("kube-scheduler"), "--kubeconfig="+c.kubeconfig("scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--kube-api-qps=500", "--kube-api-burst=1000", "--authentication-kubeconfig="+c.kubeconfig("scheduler"), "--authorization-kubeconfig="+c.kubeconfig("scheduler"))
	if err != nil {
		return err
	}
	return poll(ctx, "the default service account", func() error {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// EtcdTLS is where StartEtcd's etcd is.
const EtcdTLS = "https://" + controlIP + ":22379"

// StartEtcd starts an etcd of its own, which wants certificates of the cluster's authority: issue
// "etcd" first.
func (c *Cluster) StartEtcd() (*Process, error) {
	pki := filepath.Join(c.Dir, "pki")
	return start(c.Dir+"/log/etcd-tls.log", nil, "etcd", "--data-dir="+c.Dir+"/etcd-tls", "--listen-client-urls="+EtcdTLS, "--advertise-client-urls="+EtcdTLS,
		"--listen-peer-urls=http://127.0.0.1:22380", "--log-level=error", "--client-cert-auth", "--trusted-ca-file="+pki+"/ca.crt",
		"--cert-file="+pki+"/etcd.crt", "--key-file="+pki+"/etcd.key")
}

// services lets the API server reach Services, as its webhooks are.
func (c *Cluster) services() error {
	for _, n := range c.Nodes {
		if _, err := command("ip", "route", "add", n.PodNetwork, "via", n.Address); err != nil {
			return err
		}
	}
	// Without a route of some kind a packet to a Service is refused before kube-proxy's rules see it.
	if _, err := command("ip", "route", "add", "10.96.0.0/16", "dev", "ctl0"); err != nil {
		return err
	}
	_, err := start(c.Dir+"/log/kube-proxy.log", nil, c.bin("kube-proxy"), proxyArgs(c.kubeconfig("admin"), c.Nodes[0].Name)...)
	return err
}

// StartAPIServer starts kube-apiserver, again after a stop, and waits until it answers.
func (c *Cluster) StartAPIServer() (err error) {
	pki := filepath.Join(c.Dir, "pki")
	c.APIServer, err = start(c.Dir+"/log/apiserver.log", nil, c.bin("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--bind-address="+controlIP,
		"--advertise-address="+controlIP, "--secure-port=6443", "--tls-cert-file="+pki+"/apiserver.crt", "--tls-private-key-file="+pki+"/apiserver.key",
		"--client-ca-file="+pki+"/ca.crt", "--token-auth-file="+pki+"/tokens.csv", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+pki+"/sa.key", "--service-account-signing-key-file="+pki+"/sa.key", "--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=Node,RBAC", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", "--enable-admission-plugins=NodeRestriction",
		"--audit-policy-file="+pki+"/audit.yaml", "--audit-log-path="+c.AuditLog(), "--audit-log-mode=blocking")
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return err
	}
	return await("kube-apiserver", c.APIServer, time.Minute, func() bool {
		resp, err := client.Get(server + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// AuditLog has a line per request to the API server.
func (c *Cluster) AuditLog() string { return filepath.Join(c.Dir, "log/audit.log") }

// credentials writes a token and a kubeconfig for everybody.
func (c *Cluster) credentials() error {
	users := map[string]string{"admin": `admin,admin,"system:masters"`, "controller-manager": "system:kube-controller-manager,kcm", "scheduler": "system:kube-scheduler,sched"}
	for _, n := range c.Nodes {
		users[n.Name] = "system:node:" + n.Name + "," + n.Name + `,"system:nodes"`
	}
	var tokens strings.Builder
	for name, user := range users {
		fmt.Fprintf(&tokens, "%s-token,%s\n", name, user)
		config := `{"apiVersion": "v1", "kind": "Config", "current-context": "e2e", "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "u"}}],
 "clusters": [{"name": "e2e", "cluster": {"server": "` + server + `", "certificate-authority": "` + c.Dir + `/pki/ca.crt"}}],
 "users": [{"name": "u", "user": {"token": "` + name + `-token"}}]}`
		if err := os.WriteFile(c.kubeconfig(name), []byte(config), 0o600); err != nil {
			return err
		}
	}
	audit := "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"
	if err := os.WriteFile(filepath.Join(c.Dir, "pki/audit.yaml"), []byte(audit), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, "pki/tokens.csv"), []byte(tokens.String()), 0o600)
}

// pack makes the images.
func (c *Cluster) pack() error {
	for tag, fill := range map[string]func(*image.Image) error{
		PauseImage: func(i *image.Image) error { i.Entrypoint = []string{"/pause"}; return i.File(c.bin("pause"), "/pause") },
		ToolsImage: func(i *image.Image) error {
			i.Entrypoint = []string{"/bin/sh"}
			if err := i.Busybox(); err != nil {
				return err
			}
			return errors.Join(i.Program("/usr/bin/iperf3"), i.Program("/usr/bin/tcpdump"))
		},
		EtcdImage: func(i *image.Image) error {
			i.Entrypoint = []string{"/usr/bin/etcd"}
			return i.Program("/usr/bin/etcd")
		},
	} {
		i, err := image.New(tag)
		if err != nil {
			return err
		}
		if err := fill(i); err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		if err := c.save(i); err != nil {
			return err
		}
	}
	i, err := image.FromDockerfile(filepath.Join(c.Root, "deploy/Dockerfile"), c.Root, PatchbayImage)
	if err != nil {
		return err
	}
	return c.save(i)
}

func (c *Cluster) save(i *image.Image) error {
	path := filepath.Join(c.Dir, strings.NewReplacer("/", "_", ":", "_").Replace(i.Tag)+".tar")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	c.images = append(c.images, path)
	return i.Write(f)
}

// Ready reports whether all nodes are.
func (c *Cluster) Ready(ctx context.Context) error {
	list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range list.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready < len(c.Nodes) {
		return fmt.Errorf("%d of %d", ready, len(c.Nodes))
	}
	return nil
}

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(args ...string) (string, error) {
	return command(c.bin("kubectl"), append([]string{"--kubeconfig", c.kubeconfig("admin")}, args...)...)
}

// poll tries until there is no error or the context ends, a minute at most if it has no deadline.
func poll(ctx context.Context, what string, try func() error) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
