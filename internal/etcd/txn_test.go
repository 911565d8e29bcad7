package etcd

import (
	"errors"
	"os"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// What keeps two from having one address: each condition holds a transaction back that breaks it.
func TestAConditionHoldsItsTransactionBack(t *testing.T) {
	dir, err := os.MkdirTemp("", "txn") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e, err := StartEmbedded(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	k := NewCommitter(e.Client)
	if err := k.Commit(t.Context(), Txn{}.IfAbsent("/a/key").Put("/a/key", "mine")); err != nil {
		t.Fatal(err)
	}
	have, err := e.Client.Get(t.Context(), "/a/key")
	if err != nil {
		t.Fatal(err)
	}
	revision := have.Kvs[0].ModRevision
	for name, c := range map[string]struct {
		broken, kept Txn
	}{
		"a key that must not be there":      {Txn{}.IfAbsent("/a/key"), Txn{}.IfAbsent("/a/other")},
		"a key that must have a value":      {Txn{}.IfHolds("/a/key", "another's"), Txn{}.IfHolds("/a/key", "mine")},
		"a key that must not have changed":  {Txn{}.IfRevision("/a/key", revision-1), Txn{}.IfRevision("/a/key", revision)},
		"a key that must never have been":   {Txn{}.IfRevision("/a/key", 0), Txn{}.IfRevision("/a/other", 0)},
		"a range that must be empty":        {Txn{}.IfEmpty("/a/"), Txn{}.IfEmpty("/b/")},
		"one condition of two, joined":      {Txn{}.IfAbsent("/a/other").Join(Txn{}.IfAbsent("/a/key")).(Txn), Txn{}.IfAbsent("/a/other").Join(Txn{}.IfAbsent("/b/key")).(Txn)},
		"a key that must be there, changed": {Txn{}.IfHolds("/a/none", ""), Txn{}},
	} {
		if err := k.Commit(t.Context(), c.broken.Put("/done", "broken")); !errors.Is(err, txn.ErrConflict) {
			t.Errorf("%s: broken: %v", name, err)
		}
		if err := k.Commit(t.Context(), c.kept.Put("/done", name)); err != nil {
			t.Errorf("%s: kept: %v", name, err)
		}
	}
	for value, left := range map[string]int64{"another's": 1, "mine": 0} {
		if err := k.Commit(t.Context(), Txn{}.Put("/a/key", "mine")); err != nil {
			t.Fatal(err)
		}
		if err := k.Commit(t.Context(), Txn{}.DeleteIfHolds("/a/key", value)); err != nil {
			t.Error(err)
		}
		if have, err := e.Client.Get(t.Context(), "/a/key"); err != nil || have.Count != left {
			t.Errorf("after the release of %s: %d are left, %v", value, have.Count, err)
		}
	}
}
