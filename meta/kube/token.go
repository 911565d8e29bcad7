package kube

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// readToken has the token's file read for each request. client-go keeps a token for most of a minute, also one that the
// API server no longer takes.
func readToken(cfg *rest.Config) {
	if cfg.BearerTokenFile == "" {
		return
	}
	file := cfg.BearerTokenFile
	cfg.BearerToken, cfg.BearerTokenFile = "", ""
	cfg.Wrap(transport.WrapperFunc(func(next http.RoundTripper) http.RoundTripper { return bearer{file, next} }))
}

type bearer struct {
	file string
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := os.ReadFile(b.file)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, fmt.Errorf("token for the API server: %w", err)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return b.next.RoundTrip(r)
}
