package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Define makes the pool's specification the one that every node goes by, and returns its revision. Nodes
// that define pools at the same time do so one after another: each has then seen the pools that it must
// not overlap.
func (l *Ledger) Define(ctx context.Context, pool string, want ipam.Spec) (revision int64, err error) {
	for {
		resp, err := l.kv.Txn(ctx).Then(clientv3.OpGet(l.spec(pool)), clientv3.OpGet(l.guard)).Commit()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
		}
		have, guard := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
		value := want.Value()
		if len(have) > 0 {
			same, err := l.compare(ctx, pool, have[0].Value, want)
			if err != nil {
				return 0, err
			}
			if same {
				l.Seen(have...)
				return have[0].ModRevision, nil
			}
			if value, err = want.Over(have[0].Value); err != nil {
				return 0, l.damaged(pool, err)
			}
		}
		if err := l.clash(ctx, pool, want); err != nil {
			return 0, err
		}
		err = l.Commit(ctx, etcd.Txn{}.IfRevision(l.spec(pool), revisionOf(have)).IfRevision(l.guard, revisionOf(guard)).
			Put(l.spec(pool), value).Put(l.guard, pool))
		if err != nil && !errors.Is(err, txn.ErrConflict) {
			return 0, err
		}
	}
}

// Revision returns the revision of a pool's specification, 0 if there is none.
func (l *Ledger) Revision(ctx context.Context, pool string) (int64, error) {
	kvs, err := l.get(ctx, "pool "+pool, l.spec(pool))
	return revisionOf(kvs), err
}

func revisionOf(kvs []*mvccpb.KeyValue) int64 {
	if len(kvs) == 0 {
		return 0
	}
	return kvs[0].ModRevision
}

// compare reports whether a pool that is there is the wanted one. It refuses to make another pool of it: only
// whether it may overlap others can be changed. The error says in which fields they differ, who uses the pool, and
// the ways out.
func (l *Ledger) compare(ctx context.Context, pool string, value []byte, want ipam.Spec) (same bool, err error) {
	have, err := ipam.ParseSpec(value)
	switch {
	case err != nil:
		return false, l.damaged(pool, err)
	case have.Value() == want.Value():
		return true, nil
	case have.OnlyOverlapDiffers(want):
		return false, nil
	}
	return false, ipam.Invalid("it is there already with other values (%s): %s; write the same values, or give this network a \"pool\" name and a range of its own, or, if no address of the pool is in use any more, remove it with \"patchctl ipam rm %s\"",
		l.users(ctx, pool), have.Differences(want), pool)
}

// users names some of the nodes that have subnets of a pool.
func (l *Ledger) users(ctx context.Context, pool string) string {
	prefix := l.subnets(pool)
	resp, err := l.kv.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(usersShown))
	if err != nil || len(resp.Kvs) == 0 {
		return "no node has a subnet of it"
	}
	var nodes []string
	for _, kv := range resp.Kvs {
		node, _ := l.record(kv).node()
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	text := "in use on node " + strings.Join(slices.Compact(nodes), ", ")
	if resp.More {
		text += " and others"
	}
	return text
}

func (l *Ledger) damaged(pool string, err error) error {
	return ipam.Invalid("the record of pool %s can't be read, so that nobody knows which addresses it has (key %s: %v): put it right, or, if no address of it is in use any more, remove it with \"patchctl ipam rm %s\"",
		pool, l.spec(pool), err, pool)
}

// clash looks at every other pool.
func (l *Ledger) clash(ctx context.Context, pool string, want ipam.Spec) error {
	return l.eachPool(ctx, func(name string) error {
		if name == pool {
			return nil
		}
		spec, err := l.get(ctx, "pool "+name, l.spec(name))
		if err != nil || len(spec) == 0 {
			return err
		}
		other, err := ipam.ParseSpec(spec[0].Value)
		if err != nil {
			return l.damaged(name, err)
		}
		return want.Clash(pool, name, other)
	})
}

const (
	removeTimeout = 10 * time.Second // to remove a pool
	usersShown    = 5                // how many owners, or nodes, a refusal names
)

// RemovePool implements ipam.Ledger. The nodes' subnets of the pool go with it, and ErrInUse names owners. A
// network that still has the pool defines it again with its next pod.
func (l *Ledger) RemovePool(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := failpoint.Hit("pool-remove"); err != nil {
		return err
	}
	for again := false; ; again = true {
		err := l.tryRemovePool(ctx, name)
		switch {
		case again && errors.Is(err, ipam.ErrNoPool): // removed by the try whose answer was lost, or by somebody else
			return nil
		case !errors.Is(err, txn.ErrConflict):
			return err
		}
	}
}

func (l *Ledger) tryRemovePool(ctx context.Context, name string) error {
	if !ipam.IsName(name) {
		return fmt.Errorf("pool %q: %w", name, ipam.ErrNoPool)
	}
	all, claims := l.pool(name), l.claims(name)
	resp, err := l.kv.Txn(ctx).Then(clientv3.OpGet(l.spec(name)), clientv3.OpGet(claims, clientv3.WithPrefix(), clientv3.WithLimit(usersShown)),
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
	if err != nil {
		return fmt.Errorf("read pool %s: %w: %w", name, txn.ErrUnavailable, err)
	}
	spec, users := resp.Responses[0].GetResponseRange(), resp.Responses[1].GetResponseRange()
	if users.Count > 0 {
		return l.inUse(name, users)
	}
	if resp.Responses[2].GetResponseRange().Count == 0 {
		return fmt.Errorf("pool %s: %w", name, ipam.ErrNoPool)
	}
	if err := l.Open(ctx); err != nil { // it may be a newer release's
		return err
	}
	// The other nodes find out when they use the pool next, and take it from their index.
	return l.Commit(ctx, etcd.Txn{}.IfRevision(l.spec(name), revisionOf(spec.Kvs)).IfEmpty(claims).DeleteAll(all).DeleteAll(l.index+name+"/"))
}

func (l *Ledger) inUse(name string, users *etcdserverpb.RangeResponse) error {
	var who []string
	for _, kv := range users.Kvs {
		r := l.record(kv)
		c, _ := r.claim()
		if text := r.id + " by " + c.Owner.String(); !slices.Contains(who, text) { // most are there twice
			who = append(who, text)
		}
	}
	if users.More {
		who = append(who, "and more")
	}
	return fmt.Errorf("pool %s can't be removed, as %w: %s; end those pods, or detach them", name, ipam.ErrInUse, strings.Join(who, ", "))
}
