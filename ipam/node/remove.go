package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
)

var (
	// ErrNoPool says that etcd has no pool of that name.
	ErrNoPool = fault.New(fault.NotFound, "there is no pool of that name")
	// ErrInUse says that addresses of the pool have owners.
	ErrInUse = fault.New(fault.Conflict, "addresses of it are in use")
)

// usersShown is how many owners the refusal to remove a pool names.
const usersShown = 5

// RemovePool removes a pool of which no address is in use, with the nodes' subnets. A network that still
// has it defines it again with its next pod. Otherwise the error is ErrInUse, and names owners, or ErrNoPool.
func (a *Allocator) RemovePool(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for again := false; ; again = true {
		err := a.tryRemovePool(ctx, name)
		switch {
		case again && errors.Is(err, ErrNoPool): // removed by the try whose answer was lost, or by somebody else
			return nil
		case !errors.Is(err, etcd.ErrConflict):
			return err
		}
	}
}

func (a *Allocator) tryRemovePool(ctx context.Context, name string) error {
	if !ipam.IsName(name) {
		return fmt.Errorf("pool %q: %w", name, ErrNoPool)
	}
	all := a.root + name + "/"
	ips := all + "ips/"
	resp, err := a.kv.Txn(ctx).Then(clientv3.OpGet(a.specKey(name)), clientv3.OpGet(ips, clientv3.WithPrefix(), clientv3.WithLimit(usersShown)),
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
	if err != nil {
		return fmt.Errorf("read pool %s: %w: %w", name, etcd.ErrUnavailable, err)
	}
	spec, users := resp.Responses[0].GetResponseRange(), resp.Responses[1].GetResponseRange()
	if users.Count > 0 {
		return a.inUse(name, users)
	}
	if resp.Responses[2].GetResponseRange().Count == 0 {
		return fmt.Errorf("pool %s: %w", name, ErrNoPool)
	}
	// etcd compares an empty range as one key that was never created.
	noUsers := clientv3.Compare(clientv3.CreateRevision(ips), "=", 0).WithRange(clientv3.GetPrefixRangeEnd(ips))
	return a.commit.Commit(ctx, etcd.Txn{
		If:   []clientv3.Cmp{a.specIs(name, revisionOf(spec.Kvs)), noUsers},
		Then: []clientv3.Op{clientv3.OpDelete(all, clientv3.WithPrefix())}})
}

func (a *Allocator) inUse(name string, users *etcdserverpb.RangeResponse) error {
	var who []string
	for _, kv := range users.Kvs {
		ip := strings.TrimPrefix(string(kv.Key), a.root+name+"/ips/")
		c, _ := decodeClaim(name, ip, kv.Value)
		who = append(who, ip+" by "+c.Owner.String())
	}
	if more := int(users.Count) - len(who); more > 0 {
		who = append(who, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("pool %s can't be removed, as %w: %s; end those pods, or detach them", name, ErrInUse, strings.Join(who, ", "))
}
