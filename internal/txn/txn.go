// Package txn describes a store's transactions to packages that only pass them on: changes of records that
// happen together or not at all. Only the store that one is made for knows what is in it.
package txn

import "github.com/patchbay-cni/patchbay/internal/fault"

var (
	// ErrConflict says that a transaction's condition did not hold: a record has changed, or has
	// another owner, and nothing was written.
	ErrConflict = fault.New(fault.RetryLater, "etcd transaction refused: a key has changed or has another owner")
	// ErrUnavailable says that the store gave no answer in time. The transaction may have been committed.
	ErrUnavailable = fault.New(fault.Unavailable, "etcd is unavailable")
)

// A Txn is changes, with the conditions under which they are made. It is safe to apply twice.
type Txn interface {
	// Join returns the changes and conditions of both; the other one is of the same store.
	Join(Txn) Txn
}

// Join joins two transactions, of which either may be nil; nil if both are.
func Join(a, b Txn) Txn {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return a.Join(b)
}
