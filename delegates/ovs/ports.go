package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/batch"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// portWait is how long ovs-vswitchd may take to open a new port.
const portWait = 10 * time.Second

// The keys of external_ids that tell whose a port is.
const (
	idSandbox = "patchbay-sandbox"
	idIf      = "patchbay-if"
	idPod     = "patchbay-pod"
	idUID     = "patchbay-pod-uid"
	idNetwork = "patchbay-network"
)

// A portSpec is a port to be added to a bridge.
type portSpec struct {
	name          string
	bridge        string
	tag           *int
	trunks        []int
	ofportRequest *int
	maxRate       uint64 // towards the pod, bit/s; 0: not limited
	ifType        string
	ovnPort       string // OVN's logical port, if the pod names one
	externalIDs   map[string]string
	portIDs       map[string]string // further ones, of the row in Port alone
}

// Ports adds and removes ports. Changes that arrive together go to ovsdb-server in one transaction,
// for which ovs-vswitchd reconfigures once.
type ports struct {
	db      *DB
	batcher *batch.Batcher[change]
	seq     atomic.Uint64 // makes names within transactions unique
}

// A change is what one call wants: all of it or nothing.
type change struct {
	ctx  context.Context
	add  []portSpec
	del  []string // names
	owns func(p *port) bool
}

func newPorts(db *DB) *ports {
	p := &ports{db: db}
	p.batcher = batch.New(64, p.commit)
	return p
}

// add adds the ports and returns when ovs-vswitchd has opened them all, or its error.
func (p *ports) add(ctx context.Context, specs []portSpec) error {
	waits := make([]*wait, len(specs))
	for i, s := range specs {
		waits[i] = p.db.expect(s.name)
		defer p.db.forget(s.name)
	}
	if err := p.batcher.Do(change{ctx: ctx, add: specs}); err != nil {
		return err
	}
	if err := failpoint.Hit(failpoint.OvsPortCommitted); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, portWait, errSwitchSlow)
	defer cancel()
	for i, w := range waits {
		select {
		case <-w.done:
		case <-ctx.Done():
			return waitError(ctx, "open", specs[i])
		}
		if w.row.failed() {
			return fmt.Errorf("ovs-vswitchd refused port %s on bridge %s: %s", specs[i].name, specs[i].bridge, *w.row.Error)
		}
		if want := specs[i].ofportRequest; want != nil && w.row.Ofport != nil && *want != *w.row.Ofport {
			return fmt.Errorf("ofport_request %d on bridge %s was not granted: the port got %d", *want, specs[i].bridge, *w.row.Ofport)
		}
	}
	return failpoint.Hit(failpoint.OvsPortUp)
}

// closed waits until ovs-vswitchd has closed what was removed and had the same names. Links are made
// after that: ovs-vswitchd sets a closed link's flags back by name, which is down.
func (p *ports) closed(ctx context.Context, specs []portSpec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, portWait, errSwitchSlow)
	defer cancel()
	for _, s := range specs {
		if err := p.db.removals.wait(ctx, s.name); err != nil {
			return waitError(ctx, "close the removed", s)
		}
	}
	return nil
}

var errSwitchSlow = fault.New(fault.RetryLater, "ovs-vswitchd takes too long")

func waitError(ctx context.Context, do string, s portSpec) error {
	if context.Cause(ctx) == errSwitchSlow {
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("ovs-vswitchd did not %s port %s on bridge %s within %s", do, s.name, s.bridge, portWait), "is ovs-vswitchd running?")
	}
	return fmt.Errorf("wait for ovs-vswitchd to %s port %s on bridge %s: %w", do, s.name, s.bridge, context.Cause(ctx))
}

// del removes the ports of those names that owns approves of; ports that are not there are fine.
func (p *ports) del(ctx context.Context, names []string, owns func(*port) bool) error {
	if err := p.batcher.Do(change{ctx: ctx, del: names, owns: owns}); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.OvsPortDeleted)
}

func (p *ports) commit(changes []change) []error {
	errs := make([]error, len(changes))
	if len(changes) > 1 && p.try(context.Background(), changes) == nil {
		return errs
	}
	for i, c := range changes {
		errs[i] = p.try(c.ctx, changes[i:i+1])
	}
	return errs
}

// try commits the changes in one transaction; after a lost connection it looks at what is there
// and tries again.
func (p *ports) try(ctx context.Context, changes []change) error {
	for {
		c, err := p.db.client(ctx)
		if err != nil {
			return err
		}
		ops, removed, err := p.operations(ctx, c, changes)
		if err != nil || len(ops) == 0 {
			return err
		}
		err = p.transact(ctx, c, ops, removed)
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		p.db.await(ctx, c)
	}
}

func (p *ports) transact(ctx context.Context, c client.Client, ops []ovsdb.Operation, removed []string) error {
	if len(removed) == 0 {
		_, err := transact(ctx, c, ops)
		return err
	}
	more, err := ask(c)
	if err != nil {
		return err
	}
	results, err := transact(ctx, c, append(ops, more...))
	if err != nil {
		return err
	}
	asked, err := askedIn(results)
	p.db.removals.removed(removed, asked)
	return err
}

// await waits until c is no longer the connection, a moment at most: a transaction has failed on it.
func (d *DB) await(ctx context.Context, c client.Client) {
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

func (p *ports) operations(ctx context.Context, c client.Client, changes []change) (ops []ovsdb.Operation, removed []string, err error) {
	logical := map[string]bool{}
	for _, ch := range changes {
		for _, s := range ch.add {
			if err := unbound(ctx, c, s, logical); err != nil {
				return nil, nil, err
			}
			more, err := p.insert(ctx, c, s)
			if err != nil {
				return nil, nil, err
			}
			ops = append(ops, more...)
		}
		for _, name := range ch.del {
			more, err := remove(ctx, c, name, ch.owns)
			if err != nil {
				return nil, nil, err
			}
			if len(more) > 0 {
				ops, removed = append(ops, more...), append(removed, name)
			}
		}
	}
	return ops, removed, nil
}

// unbound refuses a logical port that another port of the node is bound to: a pod that names another's
// would get its traffic. seen are those of the same transaction.
func unbound(ctx context.Context, c client.Client, s portSpec, seen map[string]bool) error {
	if s.ovnPort == "" {
		return nil
	}
	var others []iface
	err := c.WhereCache(func(i *iface) bool { return i.ExternalIDs["iface-id"] == s.ovnPort && i.Name != s.name }).List(ctx, &others)
	if err != nil {
		return err
	}
	if len(others) > 0 || seen[s.ovnPort] {
		whose := "of the same request"
		if len(others) > 0 {
			whose = fmt.Sprintf("%s of pod %s", others[0].Name, others[0].ExternalIDs[idPod])
		}
		return refuse("OvnPort %q is bound to port %s already", s.ovnPort, whose)
	}
	seen[s.ovnPort] = true
	return nil
}

func (p *ports) insert(ctx context.Context, c client.Client, s portSpec) ([]ovsdb.Operation, error) {
	br := &bridge{Name: s.bridge}
	if err := c.Get(ctx, br); err != nil {
		return nil, fmt.Errorf("bridge %s is not there: %w", s.bridge, err)
	}
	have := &port{Name: s.name}
	if err := c.Get(ctx, have); err == nil {
		if have.ExternalIDs[idSandbox] == s.externalIDs[idSandbox] && have.ExternalIDs[idIf] == s.externalIDs[idIf] {
			return nil, nil // a transaction whose answer was lost
		}
		return nil, fmt.Errorf("port %s exists on Open vSwitch and belongs to another sandbox (%s)", s.name, have.ExternalIDs[idSandbox])
	}
	n := p.seq.Add(1)
	ifRow := &iface{UUID: fmt.Sprintf("if%d", n), Name: s.name, Type: s.ifType, OfportRequest: s.ofportRequest, ExternalIDs: s.externalIDs}
	ids := maps.Clone(s.externalIDs)
	maps.Copy(ids, s.portIDs)
	portRow := &port{UUID: fmt.Sprintf("port%d", n), Name: s.name, Interfaces: []string{ifRow.UUID}, Tag: s.tag, Trunks: s.trunks,
		VLANMode: vlanMode(s), ExternalIDs: ids}
	rows := []model.Model{ifRow, portRow}
	if s.maxRate > 0 {
		q := &qos{UUID: fmt.Sprintf("qos%d", n), Type: "linux-htb", OtherConfig: map[string]string{"max-rate": fmt.Sprint(s.maxRate)},
			ExternalIDs: map[string]string{idSandbox: s.externalIDs[idSandbox], idIf: s.externalIDs[idIf]}}
		portRow.QoS = &q.UUID
		rows = append(rows, q)
	}
	ops, err := create(c, rows...)
	if err != nil {
		return nil, err
	}
	mutate, err := c.Where(br).Mutate(br, model.Mutation{Field: &br.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{portRow.UUID}})
	return append(ops, mutate...), err
}

// create makes the operations for rows of any tables; libovsdb takes one table at a time.
func create(c client.Client, rows ...model.Model) ([]ovsdb.Operation, error) {
	var ops []ovsdb.Operation
	for _, r := range rows {
		more, err := c.Create(r)
		if err != nil {
			return nil, err
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

func vlanMode(s portSpec) *string {
	mode := ""
	switch {
	case s.tag != nil && len(s.trunks) > 0:
		mode = "native-untagged"
	case s.tag != nil:
		mode = "access"
	case len(s.trunks) > 0:
		mode = "trunk"
	default:
		return nil
	}
	return &mode
}

// remove takes the port out of its bridge, whichever that is; the rows then go by themselves, but
// for QoS, which has a life of its own.
func remove(ctx context.Context, c client.Client, name string, owns func(*port) bool) ([]ovsdb.Operation, error) {
	have := &port{Name: name}
	if err := c.Get(ctx, have); errors.Is(err, client.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if owns != nil && !owns(have) {
		return nil, nil
	}
	var in []bridge
	if err := c.WhereCache(func(b *bridge) bool { return slices.Contains(b.Ports, have.UUID) }).List(ctx, &in); err != nil {
		return nil, err
	}
	var ops []ovsdb.Operation
	for i := range in {
		b := &in[i]
		more, err := c.Where(b).Mutate(b, model.Mutation{Field: &b.Ports, Mutator: ovsdb.MutateOperationDelete, Value: []string{have.UUID}})
		if err != nil {
			return nil, err
		}
		ops = append(ops, more...)
	}
	if have.QoS == nil {
		return ops, nil
	}
	bare := &port{}
	free, err := c.Where(have).Update(bare, &bare.QoS)
	if err != nil {
		return nil, err
	}
	gone, err := c.Where(&qos{UUID: *have.QoS}).Delete()
	return slices.Concat(ops, free, gone), err
}
