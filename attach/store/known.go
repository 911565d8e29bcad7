package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// known is a record as this node knows it to be in etcd. Of a record that is not there both are 0.
type known struct {
	revision int64
	written  time.Duration // see record
}

// foreign is known of a record that is not this node's: no write of ours is later, so that nothing is written over it.
var foreign = known{written: math.MaxInt64}

// commit writes a record, if it is still as this node has read or written it last. A write of which no answer came may
// have been committed: then the record is a later one of this node's, and is written over. Another one is
// attach.ErrChanged, and stays.
func (s *Store) commit(ctx context.Context, key string, t etcd.Txn, with txn.Txn) (revision int64, err error) {
	for {
		var last known
		if v, ok := s.known.Load(key); ok {
			last = v.(known)
		}
		revision, err = s.Commit.CommitAt(ctx, txn.Join(t.IfRevision(key, last.revision), with))
		if !errors.Is(err, txn.ErrConflict) {
			return revision, err
		}
		now, err := s.look(ctx, key, last)
		if err != nil {
			return 0, err
		}
		if now == last { // it is something else that has changed
			return 0, txn.ErrConflict
		}
		s.known.Store(key, now)
	}
}

// look reads how a record is that may not be as this node knows it.
func (s *Store) look(ctx context.Context, key string, last known) (known, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.KV.Get(ctx, key)
	if err != nil {
		return last, fmt.Errorf("read record %s: %w: %w", key, txn.ErrUnavailable, err)
	}
	if len(resp.Kvs) == 0 {
		return known{}, nil // removed by a write of ours, or lost, which the guard sees
	}
	now := known{resp.Kvs[0].ModRevision, writtenAt(resp.Kvs[0].Value)}
	if now.revision == last.revision || s.Key.sealed(key, resp.Kvs[0].Value) && now.written > last.written {
		return now, nil
	}
	return last, fmt.Errorf("record %s, revision %d: %w", key, now.revision, attach.ErrChanged)
}
