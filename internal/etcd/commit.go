package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/patchbay-cni/patchbay/internal/batch"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

const (
	tryTimeout    = time.Second     // one try; short, so that a lost leader costs little
	commitTimeout = 7 * time.Second // all tries of one group: a caller is to be answered within 10 s
	groupMax      = 32              // transactions in one group; etcd allows 128 operations by default
)

// A Committer commits transactions in groups: what arrives while one group is on its way goes
// together next, each transaction with its own conditions.
type Committer struct {
	kv      *clientv3.Client
	guard   *Guard // nil: etcd is taken for what it is
	batcher *batch.Batcher[item]
	away    atomic.Bool // the last transaction was given up without an answer
}

type item struct {
	Txn
	ctx      context.Context
	deadline time.Time
	revision *int64 // where it is noted at which it was committed
}

// NewCommitter returns a committer that writes through c.
func NewCommitter(c *clientv3.Client) *Committer {
	k := &Committer{kv: c}
	k.batcher = batch.New(groupMax, k.commitAll)
	return k
}

// Commit applies t, a Txn of this package, or returns txn.ErrConflict, txn.ErrUnavailable, ErrSuspended, or
// etcd's own error. It does not return before the outcome is known or commitTimeout has passed, whatever the context:
// the context only keeps a transaction from being begun.
func (k *Committer) Commit(ctx context.Context, t txn.Txn) error {
	_, err := k.CommitAt(ctx, t)
	return err
}

// CommitAt is Commit, and returns the revision of the keys that were put.
func (k *Committer) CommitAt(ctx context.Context, t txn.Txn) (revision int64, err error) {
	if err := failpoint.Hit("etcd-commit"); err != nil {
		return 0, err
	}
	err = k.batcher.Do(item{t.(Txn), ctx, time.Now().Add(commitTimeout), &revision})
	k.guard.written()
	if err != nil {
		return 0, err
	}
	if err := failpoint.Hit("etcd-committed"); err != nil { // as if the answer were lost
		return 0, fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	}
	return revision, nil
}

// Examine says whether etcd is the one that the node has written to: what another one has means nothing. The error is
// ErrSuspended, or txn.ErrUnavailable.
func (k *Committer) Examine(ctx context.Context) error {
	if k.guard == nil {
		return nil
	}
	return k.guard.Verify(ctx)
}

// Doubt has etcd examined before it is used again: the daemon may have been out of sight for a while.
func (k *Committer) Doubt() { k.guard.suspect() }

// Away reports whether etcd has not answered the last transaction, in all its tries. The next one is tried
// once.
func (k *Committer) Away() bool { return k.away.Load() }

// commitAll commits what has arrived together, and returns the outcome of each.
func (k *Committer) commitAll(items []item) []error {
	errs := make([]error, len(items))
	var live []int
	for i := range items {
		switch errs[i] = items[i].ctx.Err(); {
		case errs[i] != nil:
		case k.away.Load() && time.Now().After(items[i].deadline): // it has waited for those before it
			errs[i] = fmt.Errorf("%w%s", txn.ErrUnavailable, at(k.kv.Endpoints()))
		default:
			live = append(live, i)
		}
	}
	lost := false
	if len(live) > 1 {
		live, lost = k.commitGroup(items, live, errs)
	}
	for _, i := range live {
		resp, again, err := k.try(items[i].Txn, reads(items[i].operations))
		if errs[i] = err; err == nil {
			if !resp.Succeeded {
				k.guard.suspect() // the condition that did not hold may have been its own
			}
			errs[i] = k.conclude(items[i], resp, resp.Header.Revision, lost || again)
		}
	}
	return errs
}

// conclude returns the outcome of a transaction, and has the guard note what was written.
func (k *Committer) conclude(i item, resp *clientv3.TxnResponse, revision int64, lost bool) error {
	if err := outcome(i.Txn, resp, lost); err != nil {
		return err
	}
	if !resp.Succeeded { // an earlier try has, and the keys tell at which
		revision = resp.Responses[0].GetResponseRange().Kvs[0].ModRevision
	}
	*i.revision = revision
	k.guard.after(i.Txn, revision)
	return nil
}

// commitGroup nests the transactions in one, so that each has its own outcome. If etcd refuses the group as a
// whole (a key twice, too many operations), all of them are left; lost says that an answer was lost before.
func (k *Committer) commitGroup(items []item, live []int, errs []error) (left []int, lost bool) {
	ops := make([]clientv3.Op, len(live))
	for n, i := range live {
		ops[n] = clientv3.OpTxn(items[i].comparisons(), items[i].operations, reads(items[i].operations))
	}
	resp, lost, err := k.try(Txn{operations: ops}, nil)
	if err != nil && !errors.Is(err, txn.ErrUnavailable) && !errors.Is(err, ErrSuspended) {
		return live, lost
	}
	if err == nil && !resp.Succeeded {
		k.guard.suspect()
		err = txn.ErrConflict
	}
	for n, i := range live {
		if errs[i] = err; err == nil {
			sub := resp.Responses[n].GetResponseTxn()
			errs[i] = k.conclude(items[i], (*clientv3.TxnResponse)(sub), resp.Header.Revision, lost)
		}
	}
	return nil, lost
}

// outcome tells a conflict from a transaction that had been committed by an earlier try, whose answer was
// lost: then every key holds what was to be put. A transaction that puts nothing has nothing to tell by, and
// is a conflict.
func outcome(t Txn, resp *clientv3.TxnResponse, lost bool) error {
	if resp.Succeeded {
		return nil
	}
	found := resp.Responses // what reads asked for
	if !lost || len(found) == 0 {
		return txn.ErrConflict
	}
	for _, op := range t.operations {
		if !op.IsPut() {
			continue
		}
		kvs := found[0].GetResponseRange().Kvs
		found = found[1:]
		if len(kvs) != 1 || !bytes.Equal(kvs[0].Value, op.ValueBytes()) {
			return txn.ErrConflict
		}
	}
	return nil
}

// reads asks for the keys that operations put.
func reads(then []clientv3.Op) []clientv3.Op {
	var gets []clientv3.Op
	for _, op := range then {
		if op.IsPut() {
			gets = append(gets, clientv3.OpGet(string(op.KeyBytes())))
		}
	}
	return gets
}

// try sends the transaction until etcd answers. Lost says that there were tries without an answer before.
func (k *Committer) try(t Txn, orElse []clientv3.Op) (resp *clientv3.TxnResponse, lost bool, err error) {
	deadline := time.Now()
	if !k.away.Load() {
		deadline = deadline.Add(commitTimeout)
	}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
		resp, err := k.send(ctx, t, orElse, lost)
		cancel()
		switch {
		case err == nil:
			k.away.Store(false)
			return resp, lost, nil
		case errors.Is(err, ErrSuspended):
			return nil, lost, err
		case !transient(err):
			k.away.Store(false)
			return nil, lost, refusal(t, err)
		}
		if time.Now().After(deadline) || k.kv.Ctx().Err() != nil {
			k.away.Store(true)
			return nil, lost, fmt.Errorf("%w%s: %w", txn.ErrUnavailable, at(k.kv.Endpoints()), err)
		}
		lost = true
		// etcd refuses at once while it has no leader or is not there; nothing tells us when it is back.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-k.kv.Ctx().Done():
		}
	}
}

// send sends the transaction once, if etcd is the one that the guard knows. Lost says that it may have been committed.
func (k *Committer) send(ctx context.Context, t Txn, orElse []clientv3.Op, lost bool) (*clientv3.TxnResponse, error) {
	forgotten, err := k.guard.before(ctx, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout) // where etcd is slow, that has taken long
	defer cancel()
	for {
		look := k.guard.look()
		resp, err := k.kv.Txn(ctx).If(slices.Concat(t.comparisons(), k.guard.conditions())...).Then(t.operations...).
			Else(slices.Concat(orElse, look)...).Commit()
		if err != nil {
			k.guard.suspect()
			if transient(err) {
				k.guard.unanswered()
			}
			return nil, err
		}
		k.guard.heard(resp.Header)
		if !resp.Succeeded && len(look) > 0 && k.guard.fenceMoved(resp) {
			k.guard.suspect()
			if err = k.guard.Verify(ctx); err == nil { // it is where it was found now
				continue
			}
		}
		if !resp.Succeeded && !lost {
			k.guard.unchanged(forgotten)
		}
		return resp, err
	}
}

// transient reports whether the same transaction may do later. An etcd that does not know us or our rights is one that
// is away: a password, certificate or role is being replaced. So is one whose space is used up: it takes deletions only.
func transient(err error) bool {
	known := []error{
		context.DeadlineExceeded, context.Canceled, rpctypes.ErrNoLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail,
		rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrNotLeader, rpctypes.ErrStopped, rpctypes.ErrUnhealthy, rpctypes.ErrTooManyRequests, rpctypes.ErrNoSpace,
	}
	return errors.Is(err, txn.ErrUnavailable) || slices.ContainsFunc(known, func(e error) bool { return errors.Is(err, e) }) ||
		slices.Contains([]codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unauthenticated, codes.PermissionDenied}, status.Code(err))
}
