package vswitch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// A Change adds its operations to a transaction. It is called again when the transaction has to be made anew,
// and must look at the copy each time.
type Change func(ctx context.Context, t *Transaction) error

// A Transaction is shared by changes that arrive together: ovs-vswitchd then reconfigures once.
type Transaction struct {
	client.Client // makes operations, and reads from the copy
	// Taken is for changes to note what only one of them may have, as the copy does not show it yet.
	Taken map[string]bool

	operations []ovsdb.Operation
	err        error // the first that Add was given
	removed    []string
	removals   *removals // nil in a transaction that removes no ports
}

// Add adds operations as libovsdb's functions return them. Apply returns an error that came with them.
func (t *Transaction) Add(ops []ovsdb.Operation, err error) {
	t.operations = append(t.operations, ops...)
	t.err = cmp.Or(t.err, err)
}

// Insert adds rows of any tables. libovsdb's own Create takes those of one table only.
func (t *Transaction) Insert(rows ...model.Model) {
	for _, r := range rows {
		t.Add(t.Create(r))
	}
}

// Removes takes note that the transaction removes the port of that name; see DB.Closed.
func (t *Transaction) Removes(port string) { t.removed = append(t.removed, port) }

// errLost says that the connection broke, so that a transaction's outcome is unknown.
var errLost = fault.New(fault.Unavailable, "connection to Open vSwitch lost")

// Apply has the database carry out the operations: all of them or none. Once that is begun its outcome is waited
// for, whatever becomes of the context: what it has made could not be undone otherwise.
func (t *Transaction) Apply(ctx context.Context) error {
	if len(t.removed) > 0 {
		t.Add(raiseNextCfg(t.Client))
	}
	if t.err != nil || len(t.operations) == 0 {
		return t.err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := failpoint.Hit("ovsdb-transact"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWait)
	defer cancel()
	results, err := t.Transact(ctx, t.operations...)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	refused, err := ovsdb.CheckOperationResults(results, t.operations)
	if len(refused) > 0 {
		err = refused[0] // err itself says only how many there are
	}
	if err != nil {
		return fmt.Errorf("OVSDB refused the transaction: %w", err)
	}
	if err := failpoint.Hit("ovsdb-transacted"); err != nil {
		return err
	}
	if len(t.removed) == 0 {
		return nil
	}
	asked, err := nextCfg(results)
	t.removals.removed(t.removed, asked)
	return err
}

// request is a change with its caller's context.
type request struct {
	ctx    context.Context
	change Change
}

// Commit makes a change, all of it or nothing. It waits until a lost connection is back.
func (d *DB) Commit(ctx context.Context, c Change) error {
	if _, err := d.Client(ctx); err != nil { // waited for here, beside the others and not behind them
		return err
	}
	return d.batcher.Do(request{ctx, c})
}

// commitGroup makes changes in one transaction, or one by one if that fails. A connection that is lost
// meanwhile is waited for once.
func (d *DB) commitGroup(requests []request) []error {
	errs := make([]error, len(requests))
	away := false
	if len(requests) > 1 {
		err := d.try(context.Background(), requests)
		if err == nil {
			return errs
		}
		away = d.isAway(err)
	}
	for i, r := range requests {
		if away {
			errs[i] = d.away()
			continue
		}
		errs[i] = d.try(r.ctx, requests[i:i+1])
		away = errs[i] != nil && r.ctx.Err() == nil && d.isAway(errs[i])
	}
	return errs
}

// isAway reports whether an error says that ovsdb-server is away, or answers no transactions, for whoever comes next.
func (d *DB) isAway(err error) bool { return !d.Connected() || errors.Is(err, errLost) }

// try makes changes in one transaction. If the connection is lost it has the changes look again, and tries again: for
// connectWait, as an ovsdb-server that answers no transaction may take connections.
func (d *DB) try(ctx context.Context, requests []request) error {
	for begun := time.Now(); ; {
		c, err := d.Client(ctx)
		if err != nil {
			return err
		}
		t := &Transaction{Client: c, Taken: map[string]bool{}, removals: d.removals}
		for _, r := range requests {
			if err := r.change(ctx, t); err != nil {
				return err
			}
		}
		if err = t.Apply(ctx); !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		d.drop(c)
		if time.Since(begun) >= connectWait {
			return err
		}
	}
}
