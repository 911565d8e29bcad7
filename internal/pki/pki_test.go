package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTheTrialsCertificatesAreKeptAsLongAsTheyFit(t *testing.T) {
	ctx := t.Context()
	in := fake.NewClientset().CoreV1().Secrets("patchbay-system")
	make := func(hosts ...string) Pair {
		t.Helper()
		server, ca, err := Trial(ctx, in, hosts)
		if err != nil {
			t.Fatal(err)
		}
		client, err := in.Get(ctx, ClientSecret, metav1.GetOptions{})
		if err != nil || !bytes.Equal(client.Data["ca.crt"], ca) {
			t.Fatalf("the clients' authority is another: %v", err)
		}
		known := x509.NewCertPool()
		known.AppendCertsFromPEM(ca)
		for _, p := range []Pair{server, {client.Data["tls.crt"], client.Data["tls.key"]}} {
			pair, err := tls.X509KeyPair(p.Cert, p.Key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: known, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Error(err)
			}
		}
		return server
	}
	first := make("10.96.0.7", "192.0.2.1")
	if again := make("10.96.0.7", "192.0.2.1"); !bytes.Equal(first.Cert, again.Cert) {
		t.Error("they are made anew although they fit")
	}
	moved := make("10.96.0.8", "192.0.2.1")
	if bytes.Equal(first.Cert, moved.Cert) {
		t.Error("they are kept although etcd has another address")
	}
	if err := in.Delete(ctx, ClientSecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := make("10.96.0.8", "192.0.2.1"); bytes.Equal(moved.Cert, again.Cert) {
		t.Error("the server's is kept although the clients' is gone, of whose authority no key is left")
	}
}
