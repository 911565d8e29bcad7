package etcd

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// A fence keeps what was given up from coming true. etcd may carry a transaction out long after nobody has waited for
// the answer any more, when what has been done since was built upon its not being there. So every transaction has the
// condition that the node's record is as this daemon has written it last, at that very revision. After an answer was
// lost the record is written again before the next transaction is sent: what comes late finds another revision, and
// does nothing. So does what a former daemon has asked for, or that of another machine with the node's name.
type fence struct {
	revision int64  // of the node's record; 0: there is none yet
	value    string // the record
}

func (g *Guard) self() string { return g.prefix + "/nodes/" + g.node }

// Daemon is what tells this daemon from others in the node's record.
func (g *Guard) Daemon() string { return g.daemon }

// daemonKey is the field of the node's record that says which daemon has written it. The release before has none.
const daemonKey = "daemon"

func (g *Guard) isOurs(record string) bool {
	var fields map[string]json.RawMessage
	var daemon string
	return json.Unmarshal([]byte(record), &fields) == nil && json.Unmarshal(fields[daemonKey], &daemon) == nil && daemon == g.daemon
}

// Claim makes the node's records this daemon's: from now on no other writes them. What else the node's record says stays.
func (k *Committer) Claim(ctx context.Context) error {
	g := k.guard
	g.fence.Store(nil) // of an earlier attempt
	resp, err := g.get(ctx, g.self())
	if err != nil {
		return fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	}
	if len(resp.Kvs) == 0 {
		g.fence.Store(&fence{})
		return nil
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(resp.Kvs[0].Value, &fields) != nil { // it is written anew
		fields = map[string]json.RawMessage{}
	}
	fields[daemonKey], _ = json.Marshal(g.daemon) // a string always marshals
	record, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if err := g.Verify(ctx); err != nil {
		return err
	}
	conditions := append(g.conditions(), Txn{}.IfRevision(g.self(), resp.Kvs[0].ModRevision).comparisons()...)
	// The mirror has no copy: what the node's record says is not this daemon's word yet.
	put, err := g.kv.Txn(ctx).If(conditions...).Then(clientv3.OpPut(g.self(), string(record))).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	case !put.Succeeded:
		g.suspect()
		return fmt.Errorf("%w: the record of node %s was written meanwhile", txn.ErrUnavailable, g.node)
	}
	g.fence.Store(&fence{put.Header.Revision, string(record)})
	return nil
}

// look reads what tells whether it was the fence that has refused a transaction.
func (g *Guard) look() []clientv3.Op {
	if g == nil || g.fence.Load() == nil {
		return nil
	}
	return []clientv3.Op{clientv3.OpGet(g.self())}
}

// fenceMoved reports whether it was the fence that has refused a transaction, by what look has read, which it takes out
// of the response.
func (g *Guard) fenceMoved(resp *clientv3.TxnResponse) bool {
	last := len(resp.Responses) - 1
	kvs := resp.Responses[last].GetResponseRange().Kvs
	resp.Responses = resp.Responses[:last]
	revision := int64(0)
	if len(kvs) > 0 {
		revision = kvs[0].ModRevision
	}
	f := g.fence.Load()
	return f == nil || revision != f.revision
}

// unanswered notes that a transaction may come true later.
func (g *Guard) unanswered() {
	if g != nil {
		g.loose.Store(true)
	}
}

// renew keeps what was not answered from coming true later.
func (g *Guard) renew(ctx context.Context) error {
	f := g.fence.Load()
	if !g.loose.Load() || f == nil || f.revision == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout) // see Committer.send
	defer cancel()
	resp, err := g.kv.Txn(ctx).If(Txn{}.IfRevision(g.self(), f.revision).comparisons()...).Then(clientv3.OpPut(g.self(), f.value)).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	case resp.Succeeded:
		g.fence.Store(&fence{resp.Header.Revision, f.value})
	default: // it was written again by what came late, or by another daemon
		g.suspect()
		if err := g.Verify(ctx); err != nil {
			return err
		}
	}
	g.loose.Store(false)
	return nil
}

// moveFence has the fence follow the node's record.
func (g *Guard) moveFence(all []Copy) {
	for _, c := range all {
		if c.Key == g.self() && c.Revision != 0 && g.isOurs(c.Value) {
			g.fence.Store(&fence{c.Revision, c.Value})
		}
	}
}

// taken says that the node's record is not this daemon's any more, and finds the fence again where it is.
func (g *Guard) taken(ctx context.Context) (why string, err error) {
	f := g.fence.Load()
	if f == nil {
		return "", nil
	}
	resp, err := g.get(ctx, g.self())
	if err != nil {
		return "", err
	}
	others := false
	switch {
	case len(resp.Kvs) == 0:
		g.fence.Store(&fence{})
	case g.isOurs(string(resp.Kvs[0].Value)):
		g.fence.Store(&fence{resp.Kvs[0].ModRevision, string(resp.Kvs[0].Value)})
	case resp.Kvs[0].ModRevision < f.revision:
		why = fmt.Sprintf("it has an older record of node %s than this node has written: it was restored from a backup", g.node)
	default:
		others = true
		why = fmt.Sprintf("another patchbayd has taken the records of node %s over: give one of the two machines another name (node in the configuration), and start this one anew", g.node)
	}
	g.others.Store(others)
	return why, nil
}
