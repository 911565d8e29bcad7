package etcd

import (
	"context"
	"fmt"
	"os"
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
// limit of its own.
func Dial(o Options) (c *clientv3.Client, err error) {
	cfg := clientv3.Config{
		Endpoints: o.Endpoints, DialTimeout: dialTimeout, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		Username: o.Username,
		// gRPC's own pause between attempts grows to two minutes: pods would wait for an etcd that
		// has long been back.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 3 * time.Second})},
	}
	if o.PasswordFile != "" {
		b, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("etcd password: %w", err)
		}
		cfg.Password = strings.TrimSpace(string(b))
	}
	if o.Cert != "" || o.Key != "" || o.CA != "" {
		// The client's certificate is read at each handshake: a renewed one is used without a restart.
		cfg.TLS, err = transport.TLSInfo{CertFile: o.Cert, KeyFile: o.Key, TrustedCAFile: o.CA}.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("etcd TLS: %w", err)
		}
	}
	if c, err = clientv3.New(cfg); err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(o.Endpoints, ","), err)
	}
	return c, nil
}

// Ready asks etcd for a linearizable read within the context's limit.
func Ready(ctx context.Context, c *clientv3.Client) error {
	if _, err := c.Get(ctx, "\x00", clientv3.WithKeysOnly(), clientv3.WithLimit(1)); err != nil {
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
