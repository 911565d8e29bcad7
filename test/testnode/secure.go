package testnode

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/pki"
)

// A SecureEtcd is a real etcd with TLS both ways and users: each has the role that deploy/etcd/node.sh gives a
// node, and is known by its certificate's name, or by a password.
type SecureEtcd struct {
	Endpoint string
	Dir      string // ca.crt and the certificates, by the names they were issued for
	ca       *pki.Authority
	process  *Process
}

// StartSecureEtcd starts one, on loopback.
func StartSecureEtcd(t testing.TB) *SecureEtcd {
	t.Helper()
	e := &SecureEtcd{Endpoint: "https://127.0.0.1:2379", Dir: ShortDir(t)}
	e.NewAuthority(t)
	e.Start(t)
	t.Cleanup(func() { e.Stop() })
	e.Ctl(t, "user", "add", "root", "--no-password")
	e.Ctl(t, "user", "grant-role", "root", "root")
	e.Ctl(t, "auth", "enable")
	return e
}

// NewAuthority replaces the authority, and the certificates of etcd and of root. etcd takes it at its next start.
func (e *SecureEtcd) NewAuthority(t testing.TB) {
	t.Helper()
	var err error
	if e.ca, err = pki.NewAuthority("etcd"); err == nil {
		err = os.WriteFile(e.Dir+"/ca.crt", e.ca.PEM, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.Issue(t, "etcd", "127.0.0.1")
	e.Issue(t, "root")
}

// Issue writes the certificate of a name, anew if it has one.
func (e *SecureEtcd) Issue(t testing.TB, name string, hosts ...string) {
	t.Helper()
	pair, err := e.ca.Issue(name, hosts...)
	if err == nil {
		err = pair.Write(e.Dir, name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Start starts it again after Stop.
func (e *SecureEtcd) Start(t testing.TB) {
	t.Helper()
	e.process = Start(t, e.Dir+"/etcd.log", nil, "etcd", "--data-dir="+e.Dir+"/data", "--listen-client-urls="+e.Endpoint, "--advertise-client-urls="+e.Endpoint,
		"--listen-peer-urls=http://127.0.0.1:2380", "--cert-file="+e.Dir+"/etcd.crt", "--key-file="+e.Dir+"/etcd.key",
		"--trusted-ca-file="+e.Dir+"/ca.crt", "--client-cert-auth", "--log-level=error")
	Eventually(t, "etcd answers", func() bool { _, err := e.TryCtl("root", "endpoint", "health"); return err == nil })
}

// Stop ends it.
func (e *SecureEtcd) Stop() { e.process.Stop() }

// environment tells etcdctl where etcd is, and who calls.
func (e *SecureEtcd) environment(user string) []string {
	return append(os.Environ(), "ETCDCTL_API=3", "ETCDCTL_ENDPOINTS="+e.Endpoint, "ETCDCTL_CACERT="+e.Dir+"/ca.crt", "ETCDCTL_CERT="+e.Dir+"/"+user+".crt", "ETCDCTL_KEY="+e.Dir+"/"+user+".key")
}

// TryCtl runs etcdctl with a user's certificate.
func (e *SecureEtcd) TryCtl(user string, args ...string) (string, error) {
	cmd := exec.Command("etcdctl", args...)
	cmd.Env = e.environment(user)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Ctl runs etcdctl as root.
func (e *SecureEtcd) Ctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := e.TryCtl("root", args...)
	if err != nil {
		t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// AddNode lets a node in, as the documentation says, and issues its certificate.
func (e *SecureEtcd) AddNode(t testing.TB, node string) {
	t.Helper()
	e.Issue(t, "patchbay-"+node)
	_, self, _, _ := runtime.Caller(0)
	cmd := exec.Command(filepath.Join(filepath.Dir(self), "../../deploy/etcd/node.sh"), node)
	cmd.Env = e.environment("root")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Settings are a daemon's with the certificate of that name.
func (e *SecureEtcd) Settings(name string) []string {
	return []string{"etcd.endpoints=[" + e.Endpoint + "]", "etcd.tls.ca=" + e.Dir + "/ca.crt", "etcd.tls.cert=" + e.Dir + "/" + name + ".crt", "etcd.tls.key=" + e.Dir + "/" + name + ".key"}
}
