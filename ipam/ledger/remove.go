package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// usersShown is how many owners the refusal to remove a pool names.
const usersShown = 5

// RemovePool implements ipam.Ledger. The nodes' subnets of the pool go with it, and ErrInUse names owners. A
// network that still has the pool defines it again with its next pod.
func (l *Ledger) RemovePool(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
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
