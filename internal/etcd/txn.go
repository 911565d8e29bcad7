package etcd

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// A Txn is a conditional transaction, which its methods build: each returns the transaction with one
// more condition or operation. It is safe to apply twice, as it puts whole values.
type Txn struct {
	conditions []condition // each once: etcd limits how many there are
	operations []clientv3.Op
}

// A condition is a comparison that can itself be compared.
type condition struct {
	key      string
	of       property
	value    string
	revision int64
}

// A property of a key is what a condition compares.
type property int

const (
	creation property = iota // the revision at which the key was created
	change                   // that at which it was last changed
	content                  // its value
	keyRange                 // the creation of all keys that begin with it
)

func (c condition) compare() clientv3.Cmp {
	switch c.of {
	case change:
		return clientv3.Compare(clientv3.ModRevision(c.key), "=", c.revision)
	case content:
		return clientv3.Compare(clientv3.Value(c.key), "=", c.value)
	case keyRange:
		return clientv3.Compare(clientv3.CreateRevision(c.key), "=", c.revision).WithRange(clientv3.GetPrefixRangeEnd(c.key))
	}
	return clientv3.Compare(clientv3.CreateRevision(c.key), "=", c.revision)
}

// comparisons are the conditions as etcd has them.
func (t Txn) comparisons() []clientv3.Cmp {
	all := make([]clientv3.Cmp, len(t.conditions))
	for i, c := range t.conditions {
		all[i] = c.compare()
	}
	return all
}

// Join implements txn.Txn.
func (t Txn) Join(o txn.Txn) txn.Txn {
	with := o.(Txn)
	for _, c := range with.conditions {
		t = t.when(c)
	}
	t.operations = slices.Concat(t.operations, with.operations)
	return t
}

func (t Txn) when(c condition) Txn {
	if slices.Contains(t.conditions, c) {
		return t
	}
	return Txn{append(slices.Clip(t.conditions), c), t.operations}
}

func (t Txn) then(o clientv3.Op) Txn { return Txn{t.conditions, append(slices.Clip(t.operations), o)} }

// IfAbsent is the condition that the key does not exist.
func (t Txn) IfAbsent(key string) Txn { return t.when(condition{key: key, of: creation}) }

// IfHolds is the condition that the key has the value.
func (t Txn) IfHolds(key, value string) Txn {
	return t.when(condition{key: key, of: content, value: value})
}

// IfRevision is the condition that the key was last changed at the revision; 0: that it does not exist.
func (t Txn) IfRevision(key string, revision int64) Txn {
	return t.when(condition{key: key, of: change, revision: revision})
}

// IfEmpty is the condition that no key begins with the prefix: etcd compares an empty range as one key
// that was never created.
func (t Txn) IfEmpty(prefix string) Txn { return t.when(condition{key: prefix, of: keyRange}) }

// Put writes the key.
func (t Txn) Put(key, value string) Txn { return t.then(clientv3.OpPut(key, value)) }

// Delete deletes the key.
func (t Txn) Delete(key string) Txn { return t.then(clientv3.OpDelete(key)) }

// DeleteAll deletes the keys that begin with the prefix.
func (t Txn) DeleteAll(prefix string) Txn {
	return t.then(clientv3.OpDelete(prefix, clientv3.WithPrefix()))
}

// DeleteIfHolds deletes the key, and others with it, if it has the value; otherwise it does nothing.
func (t Txn) DeleteIfHolds(key, value string, with ...string) Txn {
	deletes := []clientv3.Op{clientv3.OpDelete(key)}
	for _, other := range with {
		deletes = append(deletes, clientv3.OpDelete(other))
	}
	return t.then(clientv3.OpTxn([]clientv3.Cmp{condition{key: key, of: content, value: value}.compare()}, deletes, nil))
}
