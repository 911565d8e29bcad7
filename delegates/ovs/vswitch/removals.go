package vswitch

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// removals knows which removed ports ovs-vswitchd may still have open. A port that is removed and added
// again before ovs-vswitchd has looked is the same port to it: it keeps the socket of the link that is
// gone, and never forwards anything. So a removal raises next_cfg, as ovs-vsctl does, and the name is used
// again only when ovs-vswitchd has answered in cur_cfg; see ovs-vswitchd.conf.db(5).
type removals struct {
	mu      sync.Mutex
	cur     int            // cur_cfg: what ovs-vswitchd has answered
	before  int            // next_cfg when the connection was made, whoever had raised it
	asked   map[string]int // next_cfg of removals that are not yet answered, by port name
	changed chan struct{}  // closed and replaced when cur changes
}

func newRemovals() *removals {
	return &removals{asked: map[string]int{}, changed: make(chan struct{})}
}

// connected starts anew with a connection: the database may be another one.
func (r *removals) connected(row OpenVSwitch) {
	r.mu.Lock()
	r.before = row.NextCfg
	clear(r.asked)
	r.mu.Unlock()
	r.answered(row.CurCfg)
}

// answered takes note of cur_cfg.
func (r *removals) answered(cur int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cur = cur
	maps.DeleteFunc(r.asked, func(_ string, asked int) bool { return asked <= cur })
	close(r.changed)
	r.changed = make(chan struct{})
}

// removed takes note that ports were removed, and of what next_cfg became with that.
func (r *removals) removed(names []string, asked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		if asked > r.cur {
			r.asked[n] = asked
		}
	}
}

// wait waits until ovs-vswitchd has closed removed ports of that name.
func (r *removals) wait(ctx context.Context, name string) error {
	for {
		r.mu.Lock()
		open, changed := max(r.before, r.asked[name]) > r.cur, r.changed
		r.mu.Unlock()
		if !open {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// raiseNextCfg returns operations that raise next_cfg and then read it, for nextCfg.
func raiseNextCfg(c client.Client) ([]ovsdb.Operation, error) {
	root := &OpenVSwitch{}
	ops, err := c.WhereCache(func(*OpenVSwitch) bool { return true }).Mutate(root, model.Mutation{Field: &root.NextCfg, Mutator: ovsdb.MutateOperationAdd, Value: 1})
	read := ovsdb.Operation{Op: ovsdb.OperationSelect, Table: "Open_vSwitch", Columns: []string{"next_cfg"}, Where: []ovsdb.Condition{}}
	return append(ops, read), err
}

func nextCfg(results []ovsdb.OperationResult) (int, error) {
	if rows := results[len(results)-1].Rows; len(rows) == 1 {
		if n, ok := rows[0]["next_cfg"].(float64); ok {
			return int(n), nil
		}
	}
	return 0, errors.New("OVSDB did not answer with next_cfg")
}
