package pki

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	secrets "k8s.io/client-go/kubernetes/typed/core/v1"
)

// The Secrets of the trial overlay's etcd: what its clients have, and what it has.
const (
	ClientSecret = "patchbay-trial-etcd"
	ServerSecret = "patchbay-trial-etcd-server"
)

const (
	certKey, keyKey, caKey = corev1.TLSCertKey, corev1.TLSPrivateKeyKey, "ca.crt"

	// renewal is how long before its end a certificate is made anew.
	renewal = 90 * 24 * time.Hour
)

// Trial returns the certificate of the trial overlay's etcd, which has these addresses, and the authority that
// clients know it by. Both are in Secrets, with the clients' own certificate; they are made if one of them is not
// there or does not fit. Clients read them again when they have changed.
func Trial(ctx context.Context, in secrets.SecretInterface, hosts []string) (server Pair, ca []byte, err error) {
	have, err := in.Get(ctx, ServerSecret, metav1.GetOptions{})
	if err == nil {
		_, err = in.Get(ctx, ClientSecret, metav1.GetOptions{})
	}
	switch {
	case err == nil && fits(have.Data[certKey], hosts) == nil:
		return Pair{have.Data[certKey], have.Data[keyKey]}, have.Data[caKey], nil
	case err != nil && !apierrors.IsNotFound(err):
		return server, nil, err
	}
	authority, err := NewAuthority("patchbay-trial-etcd")
	if err != nil {
		return server, nil, err
	}
	server, err = authority.Issue("etcd", hosts...)
	if err != nil {
		return server, nil, err
	}
	client, err := authority.Issue("patchbay")
	if err != nil {
		return server, nil, err
	}
	// The server's comes last: where it is, the clients' is of the same authority.
	return server, authority.PEM, errors.Join(put(ctx, in, ClientSecret, client, authority.PEM), put(ctx, in, ServerSecret, server, authority.PEM))
}

// fits says why a certificate is not one for these addresses for some time to come.
func fits(text []byte, hosts []string) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("it is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if time.Until(cert.NotAfter) < renewal {
		return fmt.Errorf("it ends at %s", cert.NotAfter)
	}
	for _, h := range hosts {
		if err := cert.VerifyHostname(h); err != nil {
			return err
		}
	}
	return nil
}

func put(ctx context.Context, in secrets.SecretInterface, name string, p Pair, ca []byte) error {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{certKey: p.Cert, keyKey: p.Key, caKey: ca}}
	_, err := in.Create(ctx, s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = in.Update(ctx, s, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Secret %s: %w", name, err)
	}
	return nil
}
