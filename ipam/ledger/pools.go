package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
		resp, err := l.kv.Txn(ctx).Then(clientv3.OpGet(l.specKey(pool)), clientv3.OpGet(l.guard)).Commit()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
		}
		have, guard := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
		if len(have) > 0 {
			if string(have[0].Value) == want.Value() {
				return have[0].ModRevision, nil
			}
			if err := l.mayChange(ctx, pool, have[0].Value, want); err != nil {
				return 0, err
			}
		}
		if err := l.clash(ctx, pool, want); err != nil {
			return 0, err
		}
		err = l.Commit(ctx, etcd.Txn{}.IfRevision(l.specKey(pool), revisionOf(have)).IfRevision(l.guard, revisionOf(guard)).
			Put(l.specKey(pool), want.Value()).Put(l.guard, pool))
		if err != nil && !errors.Is(err, txn.ErrConflict) {
			return 0, err
		}
	}
}

// Revision returns the revision of a pool's specification, 0 if there is none.
func (l *Ledger) Revision(ctx context.Context, pool string) (int64, error) {
	kvs, err := l.get(ctx, "pool "+pool, l.specKey(pool))
	return revisionOf(kvs), err
}

func revisionOf(kvs []*mvccpb.KeyValue) int64 {
	if len(kvs) == 0 {
		return 0
	}
	return kvs[0].ModRevision
}

// mayChange refuses to make another pool of one that is there: only whether it may overlap others can be
// changed. The error says in which fields they differ, who uses the pool, and the ways out.
func (l *Ledger) mayChange(ctx context.Context, pool string, value []byte, want ipam.Spec) error {
	have, err := ipam.ParseSpec(value)
	switch {
	case err != nil:
		return l.damaged(pool, err)
	case have.OnlyOverlapDiffers(want):
		return nil
	}
	users := "no node has a subnet of it"
	if taken, err := l.Subnets(ctx, pool); err == nil && len(taken) > 0 {
		users = "in use on node " + strings.Join(slices.Compact(slices.Sorted(maps.Values(taken))), ", ")
	}
	return ipam.Invalid("it is there already with other values (%s): %s; write the same values, or give this network a \"pool\" name and a range of its own, or, if no address of the pool is in use any more, remove it with \"patchctl ipam rm %s\"",
		users, have.Differences(want), pool)
}

func (l *Ledger) damaged(pool string, err error) error {
	return ipam.Invalid("the record of pool %s can't be read, so that nobody knows which addresses it has (key %s: %v): put it right, or, if no address of it is in use any more, remove it with \"patchctl ipam rm %s\"",
		pool, l.specKey(pool), err, pool)
}

// clash looks at every other pool. It steps from pool to pool, over the claims of each.
func (l *Ledger) clash(ctx context.Context, pool string, want ipam.Spec) error {
	for from, end := l.root, clientv3.GetPrefixRangeEnd(l.root); ; {
		next, err := l.get(ctx, "pools", from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil || len(next) == 0 {
			return err
		}
		name := l.record(next[0]).pool
		from = clientv3.GetPrefixRangeEnd(l.poolPrefix(name))
		if name == pool {
			continue
		}
		spec, err := l.get(ctx, "pool "+name, l.specKey(name))
		if err != nil {
			return err
		}
		if len(spec) == 0 {
			continue
		}
		other, err := ipam.ParseSpec(spec[0].Value)
		if err != nil {
			return l.damaged(name, err)
		}
		if err := want.Clash(pool, name, other); err != nil {
			return err
		}
	}
}

const (
	removeTimeout = 10 * time.Second // to remove a pool
	usersShown    = 5                // how many owners the refusal to remove a pool names
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
	all, claims := l.poolPrefix(name), l.claimsPrefix(name)
	resp, err := l.kv.Txn(ctx).Then(clientv3.OpGet(l.specKey(name)), clientv3.OpGet(claims, clientv3.WithPrefix(), clientv3.WithLimit(usersShown)),
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
	return l.Commit(ctx, etcd.Txn{}.IfRevision(l.specKey(name), revisionOf(spec.Kvs)).IfEmpty(claims).DeleteAll(all))
}

func (l *Ledger) inUse(name string, users *etcdserverpb.RangeResponse) error {
	var who []string
	for _, kv := range users.Kvs {
		r := l.record(kv)
		c, _ := r.claim()
		who = append(who, r.id+" by "+c.Owner.String())
	}
	if more := int(users.Count) - len(who); more > 0 {
		who = append(who, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("pool %s can't be removed, as %w: %s; end those pods, or detach them", name, ipam.ErrInUse, strings.Join(who, ", "))
}
