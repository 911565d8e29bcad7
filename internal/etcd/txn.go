package etcd

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// A Txn is a conditional transaction, which its methods build: each returns the transaction with one
// more condition or operation. It is safe to apply twice, as it puts whole values.
type Txn struct {
	conditions []clientv3.Cmp
	operations []clientv3.Op
}

// Join implements txn.Txn.
func (t Txn) Join(o txn.Txn) txn.Txn {
	with := o.(Txn)
	return Txn{slices.Concat(t.conditions, with.conditions), slices.Concat(t.operations, with.operations)}
}

func (t Txn) when(c clientv3.Cmp) Txn { return Txn{append(slices.Clip(t.conditions), c), t.operations} }
func (t Txn) then(o clientv3.Op) Txn  { return Txn{t.conditions, append(slices.Clip(t.operations), o)} }

// IfAbsent is the condition that the key does not exist.
func (t Txn) IfAbsent(key string) Txn {
	return t.when(clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
}

// IfHolds is the condition that the key has the value.
func (t Txn) IfHolds(key, value string) Txn { return t.when(holds(key, value)) }

// IfRevision is the condition that the key was last changed at the revision; 0: that it does not exist.
func (t Txn) IfRevision(key string, revision int64) Txn {
	return t.when(clientv3.Compare(clientv3.ModRevision(key), "=", revision))
}

// IfEmpty is the condition that no key begins with the prefix: etcd compares an empty range as one key
// that was never created.
func (t Txn) IfEmpty(prefix string) Txn {
	return t.when(clientv3.Compare(clientv3.CreateRevision(prefix), "=", 0).WithRange(clientv3.GetPrefixRangeEnd(prefix)))
}

// Put writes the key.
func (t Txn) Put(key, value string) Txn { return t.then(clientv3.OpPut(key, value)) }

// Delete deletes the key.
func (t Txn) Delete(key string) Txn { return t.then(clientv3.OpDelete(key)) }

// DeleteAll deletes the keys that begin with the prefix.
func (t Txn) DeleteAll(prefix string) Txn {
	return t.then(clientv3.OpDelete(prefix, clientv3.WithPrefix()))
}

// DeleteIfHolds deletes the key if it has the value; otherwise it does nothing.
func (t Txn) DeleteIfHolds(key, value string) Txn {
	return t.then(clientv3.OpTxn([]clientv3.Cmp{holds(key, value)}, []clientv3.Op{clientv3.OpDelete(key)}, nil))
}

func holds(key, value string) clientv3.Cmp { return clientv3.Compare(clientv3.Value(key), "=", value) }
