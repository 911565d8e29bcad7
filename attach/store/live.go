package store

import (
	"context"
	"errors"
	"path"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// liveTTL is how long after its end a daemon is still taken to be up, in seconds.
const liveTTL = 10

// Live keeps the key that says that the daemon is up, until the context ends.
func (s *Store) Live(ctx context.Context, c *clientv3.Client) {
	for ctx.Err() == nil {
		if err := s.session(ctx, c); err != nil && ctx.Err() == nil {
			s.log.Warn("the daemon's sign of life is lost; it is renewed", "error", err)
			// etcd is away; nothing tells when it is back.
			select {
			case <-time.After(liveTTL / 2 * time.Second):
			case <-ctx.Done():
			}
		}
	}
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
	if _, err := c.Put(ctx, path.Join(s.prefix, "live", s.node), "{}", clientv3.WithLease(lease.Lease())); err != nil {
		return err
	}
	<-lease.Done()
	return errors.New("its lease has ended")
}
