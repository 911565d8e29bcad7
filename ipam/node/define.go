package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/ipam"
)

// define makes the pool's specification the one that every node goes by, and returns its revision. Nodes
// that define pools at the same time do so one after another: each has then seen the pools that it must
// not overlap.
func (a *Allocator) define(ctx context.Context, pool string, want ipam.Spec) (revision int64, err error) {
	for {
		resp, err := a.kv.Txn(ctx).Then(clientv3.OpGet(a.specKey(pool)), clientv3.OpGet(a.guard)).Commit()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", etcd.ErrUnavailable, err)
		}
		have, guard := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
		if len(have) > 0 {
			if string(have[0].Value) == want.Value() {
				return have[0].ModRevision, nil
			}
			if err := a.mayChange(ctx, pool, have[0].Value, want); err != nil {
				return 0, err
			}
		}
		if err := a.clash(ctx, pool, want); err != nil {
			return 0, err
		}
		err = a.commit.Commit(ctx, etcd.Txn{
			If:   []clientv3.Cmp{a.specIs(pool, revisionOf(have)), clientv3.Compare(clientv3.ModRevision(a.guard), "=", revisionOf(guard))},
			Then: []clientv3.Op{clientv3.OpPut(a.specKey(pool), want.Value()), clientv3.OpPut(a.guard, pool)}})
		if err != nil && !errors.Is(err, etcd.ErrConflict) {
			return 0, err
		}
	}
}

// specIs is the condition that the pool's specification is that of the revision; 0: that there is none.
func (a *Allocator) specIs(pool string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(a.specKey(pool)), "=", revision)
}

func revisionOf(kvs []*mvccpb.KeyValue) int64 {
	if len(kvs) == 0 {
		return 0
	}
	return kvs[0].ModRevision
}

// mayChange refuses to make another pool of one that is there. Only whether it may overlap others can be
// changed.
func (a *Allocator) mayChange(ctx context.Context, pool string, value []byte, want ipam.Spec) error {
	have, err := ipam.ParseSpec(value)
	switch {
	case err != nil:
		return a.damaged(pool, err)
	case have.OnlyOverlapDiffers(want):
		return nil
	}
	return a.redefined(ctx, pool, have, want)
}

func (a *Allocator) damaged(pool string, err error) error {
	return ipam.Invalid("the record of pool %s can't be read, so that nobody knows which addresses it has (key %s: %v): put it right, or, if no address of it is in use any more, remove it with \"patchctl ipam rm %s\"",
		pool, a.specKey(pool), err, pool)
}

// redefined says in which fields a pool differs from what it is, who uses it, and the ways out.
func (a *Allocator) redefined(ctx context.Context, pool string, have, want ipam.Spec) error {
	users := "no node has a subnet of it"
	if taken, err := a.subnets(ctx, pool); err == nil && len(taken) > 0 {
		users = "in use on node " + strings.Join(slices.Compact(slices.Sorted(maps.Values(taken))), ", ")
	}
	return ipam.Invalid("it is there already with other values (%s): %s; write the same values, or give this network a \"pool\" name and a range of its own, or, if no address of the pool is in use any more, remove it with \"patchctl ipam rm %s\"",
		users, have.Differences(want), pool)
}

// clash looks at every other pool.
func (a *Allocator) clash(ctx context.Context, pool string, want ipam.Spec) error {
	names, err := a.poolNames(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == pool {
			continue
		}
		resp, err := a.kv.Get(ctx, a.specKey(name))
		if err != nil {
			return fmt.Errorf("read pool %s: %w: %w", name, etcd.ErrUnavailable, err)
		}
		if len(resp.Kvs) == 0 {
			continue
		}
		other, err := ipam.ParseSpec(resp.Kvs[0].Value)
		if err != nil {
			return a.damaged(name, err)
		}
		if err := want.Clash(pool, name, other); err != nil {
			return err
		}
	}
	return nil
}

// poolNames steps from pool to pool, over the claims of each.
func (a *Allocator) poolNames(ctx context.Context) ([]string, error) {
	var names []string
	for from, end := a.root, clientv3.GetPrefixRangeEnd(a.root); ; {
		resp, err := a.kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return nil, fmt.Errorf("list pools: %w: %w", etcd.ErrUnavailable, err)
		}
		if len(resp.Kvs) == 0 {
			return names, nil
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(string(resp.Kvs[0].Key), a.root), "/")
		names = append(names, name)
		from = clientv3.GetPrefixRangeEnd(a.root + name + "/")
	}
}
