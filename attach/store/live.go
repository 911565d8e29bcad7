package store

import (
	"context"
	"errors"
	"path"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"k8s.io/apimachinery/pkg/util/wait"
)

// liveTTL is how long after its end a daemon is still taken to be up, in seconds.
const liveTTL = 10

// Live keeps the key that says that the daemon is up, until the context ends. While etcd is away it tries:
// nothing tells when it is back.
func (s *Store) Live(ctx context.Context, c *clientv3.Client) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := s.session(ctx, c); err != nil && ctx.Err() == nil {
			s.Log.Warn("the daemon's sign of life is lost; it is renewed", "error", err)
		}
	}, liveTTL/2*time.Second)
}

// session keeps the key until its lease is lost or the context has ended; then it gives the lease back.
func (s *Store) session(ctx context.Context, c *clientv3.Client) error {
	lease, err := concurrency.NewSession(c, concurrency.WithTTL(liveTTL), concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() {
		lease.Orphan() // Close would revoke the lease with the context that has ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = c.Revoke(ctx, lease.Lease()) // it ends by itself
	}()
	if _, err := c.Put(ctx, path.Join(s.Prefix, "live", s.Node), "{}", clientv3.WithLease(lease.Lease())); err != nil {
		return err
	}
	<-lease.Done()
	return errors.New("its lease has ended")
}
