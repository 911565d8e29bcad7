package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/ipam"
)

// define makes the pool's specification the one that every node goes by. Nodes that define pools at
// the same time do so one after another: each has then seen the pools that it must not overlap.
func (a *Allocator) define(ctx context.Context, pool string, want ipam.Spec) error {
	for {
		err := a.tryDefine(ctx, pool, want)
		if !errors.Is(err, etcd.ErrConflict) {
			return err
		}
	}
}

func (a *Allocator) tryDefine(ctx context.Context, pool string, want ipam.Spec) error {
	resp, err := a.kv.Txn(ctx).Then(clientv3.OpGet(a.specKey(pool)), clientv3.OpGet(a.guard)).Commit()
	if err != nil {
		return fmt.Errorf("%w: %w", etcd.ErrUnavailable, err)
	}
	have, guard := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	t := etcd.Txn{If: []clientv3.Cmp{etcd.Absent(a.specKey(pool))}}
	if len(have) > 0 {
		value := string(have[0].Value)
		if value == want.Value() {
			return nil
		}
		var is ipam.Spec
		if err := json.Unmarshal([]byte(value), &is); err != nil || !is.OnlyOverlapDiffers(want) {
			return a.redefined(ctx, pool, is, want)
		}
		t.If = []clientv3.Cmp{etcd.Holds(a.specKey(pool), value)}
	}
	if err := a.clash(ctx, pool, want); err != nil {
		return err
	}
	unchanged := int64(0)
	if len(guard) > 0 {
		unchanged = guard[0].ModRevision
	}
	t.If = append(t.If, clientv3.Compare(clientv3.ModRevision(a.guard), "=", unchanged))
	t.Then = []clientv3.Op{clientv3.OpPut(a.specKey(pool), want.Value()), clientv3.OpPut(a.guard, pool)}
	return a.commit.Commit(ctx, t)
}

// redefined says in which fields a pool differs from what it is, who uses it, and the ways out.
func (a *Allocator) redefined(ctx context.Context, pool string, have, want ipam.Spec) error {
	users := "no node has a subnet of it"
	if taken, err := a.subnets(ctx, pool); err == nil && len(taken) > 0 {
		users = "in use on node " + strings.Join(slices.Compact(slices.Sorted(maps.Values(taken))), ", ")
	}
	return ipam.Invalid("it is there already with other values (%s): %s; write the same values, or give this network a \"pool\" name and a range of its own",
		users, have.Differences(want))
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
		var other ipam.Spec
		if err := json.Unmarshal(resp.Kvs[0].Value, &other); err != nil {
			return fmt.Errorf("the record of pool %s (%s) is damaged, and it may overlap: %w", name, a.specKey(name), err)
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
