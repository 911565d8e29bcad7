package vswitch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// A Change adds its operations to a transaction. It is called again when the transaction has to be made
// anew, and looks at what is there each time.
type Change func(ctx context.Context, t *Transaction) error

// A Transaction is shared by changes that arrive together: ovs-vswitchd then reconfigures once.
type Transaction struct {
	client.Client // makes operations, and reads from the copy
	// Taken is what changes of this transaction have taken of what only one may have; the copy has it
	// later.
	Taken map[string]bool

	operations []ovsdb.Operation
	removed    []string
}

// Add adds operations as libovsdb's functions return them.
func (t *Transaction) Add(ops []ovsdb.Operation, err error) error {
	t.operations = append(t.operations, ops...)
	return err
}

// Insert adds rows of any tables; libovsdb's own Create takes one table at a time.
func (t *Transaction) Insert(rows ...model.Model) error {
	for _, r := range rows {
		if err := t.Add(t.Create(r)); err != nil {
			return err
		}
	}
	return nil
}

// Removes says that the transaction removes the port of that name, which is not to be used again before
// ovs-vswitchd has closed it; see Closed.
func (t *Transaction) Removes(port string) { t.removed = append(t.removed, port) }

// request is a change with its caller's context.
type request struct {
	ctx    context.Context
	change Change
}

// Commit makes a change: all of it or nothing. It waits for a connection that is lost.
func (d *DB) Commit(ctx context.Context, c Change) error { return d.batcher.Do(request{ctx, c}) }

// commit makes changes together, or one by one where that is refused.
func (d *DB) commit(requests []request) []error {
	errs := make([]error, len(requests))
	if len(requests) > 1 && d.try(context.Background(), requests) == nil {
		return errs
	}
	for i, r := range requests {
		errs[i] = d.try(r.ctx, requests[i:i+1])
	}
	return errs
}

// try commits changes in one transaction; after a lost connection it looks at what is there and tries
// again.
func (d *DB) try(ctx context.Context, requests []request) error {
	for {
		c, err := d.Client(ctx)
		if err != nil {
			return err
		}
		t := &Transaction{Client: c, Taken: map[string]bool{}}
		for _, r := range requests {
			if err := r.change(ctx, t); err != nil {
				return err
			}
		}
		if len(t.operations) == 0 {
			return nil
		}
		if err = d.apply(ctx, t); !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		d.awaitAnother(ctx, c)
	}
}

func (d *DB) apply(ctx context.Context, t *Transaction) error {
	if len(t.removed) == 0 {
		_, err := transact(ctx, t.Client, t.operations)
		return err
	}
	more, err := ask(t.Client)
	if err != nil {
		return err
	}
	results, err := transact(ctx, t.Client, append(t.operations, more...))
	if err != nil {
		return err
	}
	asked, err := askedIn(results)
	d.removals.removed(t.removed, asked)
	return err
}

// awaitAnother waits until c is no longer the connection, a moment at most: a transaction has failed on it.
func (d *DB) awaitAnother(ctx context.Context, c client.Client) {
	d.mu.Lock()
	same, changed := d.conn == c, d.changed
	d.mu.Unlock()
	if !same {
		return
	}
	select {
	case <-changed:
	case <-time.After(time.Second): // a time-out, not a lost connection
	case <-ctx.Done():
	}
}

// errLost says that a transaction's outcome is unknown, as the connection broke.
var errLost = fault.New(fault.Unavailable, "connection to Open vSwitch lost")

func transact(ctx context.Context, c client.Client, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	results, err := c.Transact(ctx, ops...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	if opErrs, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		for _, e := range opErrs {
			if e != nil {
				return nil, fmt.Errorf("OVSDB refused the transaction: %w", e)
			}
		}
		return nil, fmt.Errorf("OVSDB refused the transaction: %w", err)
	}
	return results, nil
}

// Apply makes a transaction that is no other caller's: a reconciler's.
func (t *Transaction) Apply(ctx context.Context) error {
	_, err := transact(ctx, t.Client, t.operations)
	return err
}
