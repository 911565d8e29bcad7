package etcd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Options say how to reach an etcd cluster.
type Options struct {
	Endpoints     []string
	Cert, Key, CA string // files; all empty: no TLS
	Username      string
	PasswordFile  string
}

// dialTimeout bounds one attempt to connect; requests have their own limits.
const dialTimeout = 5 * time.Second

// Dial returns a client of the cluster. It does not wait for a connection: each request has a
// limit of its own. The password and the certificates are read again when they are needed.
func Dial(o Options) (c *clientv3.Client, err error) {
	// gRPC's own pause between attempts grows to two minutes: pods would wait for an etcd that has long been back.
	options := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 3 * time.Second})}
	if o.Username != "" {
		l := newLogin(o.Username, o.PasswordFile)
		if _, err := l.password(); err != nil {
			return nil, err
		}
		options = append(options, l.options()...)
	}
	if o.Cert+o.Key+o.CA != "" && !plain(o.Endpoints) {
		tls, err := newFresh(transport.TLSInfo{CertFile: o.Cert, KeyFile: o.Key, TrustedCAFile: o.CA})
		if err != nil {
			return nil, fmt.Errorf("etcd TLS: %w", err)
		}
		options = append(options, grpc.WithTransportCredentials(tls))
	}
	cfg := clientv3.Config{Endpoints: o.Endpoints, DialTimeout: dialTimeout, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second, DialOptions: options}
	if c, err = clientv3.New(cfg); err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(o.Endpoints, ","), err)
	}
	return c, nil
}

// plain reports whether the endpoints are reached without TLS, whatever certificates there are.
func plain(endpoints []string) bool {
	return len(endpoints) > 0 && (strings.HasPrefix(endpoints[0], "http:") || strings.HasPrefix(endpoints[0], "unix:"))
}

// Ready asks etcd for a linearizable read of a key, which need not be there but must be allowed, within the
// context's limit.
func Ready(ctx context.Context, c *clientv3.Client, key string) error {
	if _, err := c.Get(ctx, key, clientv3.WithKeysOnly()); err != nil {
		return fmt.Errorf("etcd does not answer%s: %w", at(c.Endpoints()), err)
	}
	return nil
}

// at names the endpoints; an embedded etcd has none.
func at(endpoints []string) string {
	if len(endpoints) == 0 {
		return ""
	}
	return " at " + strings.Join(endpoints, ", ")
}
