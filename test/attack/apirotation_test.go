package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/transport"

	"github.com/patchbay-cni/patchbay/internal/pki"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// credentialed has an API server want a client certificate, and in kubeconfig another user than before.
func credentialed(t *testing.T, a *testnode.APIServer, ca *pki.Authority, dir, user string) *httptest.Server {
	t.Helper()
	pair, err := ca.Issue("apiserver", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(ca.PEM)
	s := httptest.NewUnstartedServer(a)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: known, ClientAuth: tls.RequireAndVerifyClientCert}
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: " + s.URL + ", certificate-authority: " + dir + "/ca.crt}}]\n" +
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: " + user + "}]\n"
	for file, b := range map[string][]byte{dir + "/ca.crt": ca.PEM, a.Kubeconfig: []byte(text)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Line 18: the token's file is written anew, and the API server no longer takes the one before. No ADD fails for it.
func TestLine18ATokenThatIsReplacedIsUsedAtOnce(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	a.Pod("a", "uid-a")
	ca, err := pki.NewAuthority("cluster")
	if err != nil {
		t.Fatal(err)
	}
	dir := testnode.ShortDir(t)
	pair, err := ca.Issue("node")
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Write(dir, "node"); err != nil {
		t.Fatal(err)
	}
	server := credentialed(t, a, ca, dir, "{tokenFile: "+dir+"/token, client-certificate: "+dir+"/node.crt, client-key: "+dir+"/node.key}")
	var valid atomic.Value
	rotate := func(to string) {
		t.Helper()
		if err := os.WriteFile(dir+"/token", []byte(to), 0o600); err != nil {
			t.Fatal(err)
		}
		valid.Store("Bearer " + to)
	}
	rotate("first")
	a.Refuse(func(r *http.Request) int {
		if r.Header.Get("Authorization") != valid.Load() {
			return http.StatusUnauthorized
		}
		return 0
	})
	cfg, err := kube.Config(a.Kubeconfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := kube.New(cfg, "n1", slog.New(slog.DiscardHandler)) // its caches are empty: each answer is the API server's
	if err != nil {
		t.Fatal(err)
	}
	n := clusterNode(t, a)
	for i := range 3 {
		rotate(fmt.Sprint("token-", i))
		if _, err := c.Network(context.Background(), "default", "good"); err != nil {
			t.Error(err)
		}
		rotate(fmt.Sprint("token-", i, "-b"))
		if _, err := c.Pod(context.Background(), "default", "a", "uid-a"); err != nil {
			t.Error(err)
		}
	}
	server.CloseClientConnections()
	a.NAD("late", good)
	if _, err := n.runPod(a, "b", "late"); err != nil {
		t.Error(err)
	}
	testnode.Eventually(t, "the status is written", func() bool { return strings.Contains(a.Status("b"), "net1") })
}

// Line 19: key and certificate are replaced one after the other. A pair that does not match is not used: calls go on
// with the one before until both are there, which client-go looks for every five minutes.
func TestLine19ACertificateThatIsReplacedIsUsedWithoutARestart(t *testing.T) {
	every := transport.CertCallbackRefreshDuration
	transport.CertCallbackRefreshDuration = 50 * time.Millisecond
	defer func() { transport.CertCallbackRefreshDuration = every }()
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	ca, err := pki.NewAuthority("cluster")
	if err != nil {
		t.Fatal(err)
	}
	dir := testnode.ShortDir(t)
	pairs := map[string]pki.Pair{}
	for _, name := range []string{"first", "second"} {
		if pairs[name], err = ca.Issue(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := pairs["first"].Write(dir, "node"); err != nil {
		t.Fatal(err)
	}
	credentialed(t, a, ca, dir, "{client-certificate: "+dir+"/node.crt, client-key: "+dir+"/node.key}")
	var caller atomic.Value
	a.Refuse(func(r *http.Request) int {
		caller.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		return 0
	})
	cfg, err := kube.Config(a.Kubeconfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := kube.New(cfg, "n1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	calledAs := func() any {
		t.Helper()
		if _, err := c.Network(context.Background(), "default", "good"); err != nil {
			t.Fatal(err)
		}
		return caller.Load()
	}
	calledAs()
	if err := os.WriteFile(dir+"/node.key", pairs["second"].Key, 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); { // it looks at the files meanwhile
		if is := calledAs(); is != "first" {
			t.Fatalf("with half of a pair it calls as %s", is)
		}
	}
	if err := os.WriteFile(dir+"/node.crt", pairs["second"].Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "the new certificate is used", func() bool { return calledAs() == "second" })
}
