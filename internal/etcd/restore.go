package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// restoreGroup is how many keys are read, or written, at a time.
const restoreGroup = 50

// Missing returns the copies whose keys are not in etcd, and the values of those that are there with another value.
func (g *Guard) Missing(ctx context.Context, copies map[string]Copy) (missing []Copy, others map[string]string, err error) {
	others = map[string]string{}
	keys := slices.Sorted(maps.Keys(copies))
	for group := range slices.Chunk(keys, restoreGroup) {
		var gets []clientv3.Op
		for _, k := range group {
			gets = append(gets, clientv3.OpGet(k))
		}
		resp, err := g.kv.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return nil, nil, fmt.Errorf("read what etcd has%s: %w", at(g.kv.Endpoints()), err)
		}
		for i, k := range group {
			switch kvs := resp.Responses[i].GetResponseRange().Kvs; {
			case len(kvs) == 0:
				missing = append(missing, copies[k])
			case string(kvs[0].Value) != copies[k].Value:
				others[k] = string(kvs[0].Value)
			}
		}
	}
	return missing, others, nil
}

// Restore writes copies that are missing, each group of them if still none is there.
func (g *Guard) Restore(ctx context.Context, missing []Copy) error {
	for group := range slices.Chunk(missing, restoreGroup) {
		var t Txn
		for _, c := range group {
			t = t.IfAbsent(c.Key).Put(c.Key, c.Value)
		}
		resp, err := g.kv.Txn(ctx).If(t.comparisons()...).Then(t.operations...).Commit()
		if err != nil {
			return fmt.Errorf("write back%s: %w", at(g.kv.Endpoints()), err)
		}
		if !resp.Succeeded {
			return fmt.Errorf("write back: one of %d keys from %s on has come meanwhile; try again", len(group), group[0].Key)
		}
	}
	return nil
}

// Overwrite writes copies whatever is there.
func (g *Guard) Overwrite(ctx context.Context, copies []Copy) error {
	for group := range slices.Chunk(copies, restoreGroup) {
		var t Txn
		for _, c := range group {
			t = t.Put(c.Key, c.Value)
		}
		if _, err := g.kv.Txn(ctx).Then(t.operations...).Commit(); err != nil {
			return fmt.Errorf("write back%s: %w", at(g.kv.Endpoints()), err)
		}
	}
	return nil
}

// Copies are what this node has written, by key.
func (g *Guard) Copies() (map[string]Copy, error) { return g.mirror.Copies() }

// Settle makes the etcd that is there the one of this node, and forgets what it had written elsewhere, but for what
// there is to keep. It forgets first: until etcd is adopted the node stays suspended.
func (g *Guard) Settle(ctx context.Context, keep map[string]Copy) error {
	if err := g.mirror.keep(keep); err != nil {
		return err
	}
	_, err := g.Adopt(ctx)
	return err
}
