package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// liveTTL is how long after its end a daemon is still taken to be up, in seconds.
const liveTTL = 10

// Live keeps the key that says that the daemon is up, until the context ends. While etcd is away it tries:
// nothing tells when it is back.
func (s *Store) Live(ctx context.Context, c *clientv3.Client) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := s.session(ctx, c); err != nil && ctx.Err() == nil {
			if s.Commit != nil {
				s.Commit.Doubt() // another machine may have taken over
			}
			s.Log.Warn("the daemon's sign of life is lost; it is renewed", "error", err)
		}
	}, liveTTL/2*time.Second)
}

// session keeps the key until its lease is lost or the context has ended; then it gives the lease back.
func (s *Store) session(ctx context.Context, c *clientv3.Client) error {
	if err := s.Elsewhere(ctx); err != nil {
		return err
	}
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
	s.lease.Store(int64(lease.Lease()))
	if _, err := c.Put(ctx, s.live(), "{}", clientv3.WithLease(lease.Lease())); err != nil {
		return err
	}
	<-lease.Done()
	return errors.New("its lease has ended")
}

func (s *Store) live() string { return path.Join(s.Prefix, "live", s.Node) }

// Take makes the node's records this daemon's: what others have asked etcd for, and it has not done yet, it does not do any
// more. It is ErrElsewhere while another machine has the node's name, and is up.
func (s *Store) Take(ctx context.Context) error {
	if err := s.Elsewhere(ctx); err != nil {
		return err
	}
	return s.Commit.Claim(ctx)
}

// ErrElsewhere says that another machine has the node's name, and is up: its pods' records are not ours to drop.
var ErrElsewhere = fault.New(fault.Unavailable, "another machine's patchbayd is up under the name of this node")

// Elsewhere is ErrElsewhere while there is a sign of life that is not ours, of a node that was booted at another time.
// That of this machine before a reboot ends by itself.
func (s *Store) Elsewhere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.KV.Txn(ctx).Then(clientv3.OpGet(s.live()), clientv3.OpGet(s.self())).Commit()
	if err != nil {
		return fmt.Errorf("read node %s: %w: %w", s.Node, txn.ErrUnavailable, err)
	}
	live, self := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	if len(live) == 0 || live[0].Lease == s.lease.Load() || len(self) == 0 {
		return nil
	}
	var n Node
	if json.Unmarshal(self[0].Value, &n) != nil || n.BootID == s.Boot {
		return nil
	}
	return fmt.Errorf("node %s: %w: give one of them another name (node in the configuration)", s.Node, ErrElsewhere)
}
