package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// Layout is the layout of the keys that this release writes: <prefix>/version.
const Layout = 2

// ErrSuspended says that etcd is not the one that the node has written to. Until an operator has decided,
// nothing is handed out, and nothing is removed.
var ErrSuspended = fault.New(fault.Unavailable, "etcd is not what it was")

// A Guard knows which etcd this node has written to, and notices another one, an empty one, and one that was
// restored from a backup: at the start, and whenever the connection was lost.
type Guard struct {
	kv     *clientv3.Client
	mirror *Mirror
	file   string // of the Identity
	prefix string
	node   string
	holds  func() bool
	log    *slog.Logger

	mu      sync.Mutex             // one examination at a time
	doubts  atomic.Int64           // counts the reasons to look at etcd
	looked  atomic.Int64           // how many of them there were before the last look that found nothing wrong
	refused atomic.Pointer[error]  // why the node is suspended
	birth   atomic.Pointer[string] // the value of <prefix>/birth, as every transaction finds it
	cluster atomic.Uint64          // etcd's cluster ID, as it was examined
	highest atomic.Int64           // the revision at which this node has written last
	newer   atomic.Bool            // the node is suspended as the keys are a newer release's
	daemon  string                 // tells this daemon from others
	fence   atomic.Pointer[fence]  // nil until Claim
	loose   atomic.Bool            // a transaction was not answered, and may come true yet
	others  atomic.Bool            // the node is suspended as another daemon has its records
	resumed chan struct{}          // told that the node is no longer suspended
}

// NewGuard returns a guard of what is below a prefix, which keeps the identity in a file. holds is asked whether a value
// that the node has written is of a pod that runs.
func NewGuard(kv *clientv3.Client, m *Mirror, file, prefix, node string, holds func() bool, log *slog.Logger) *Guard {
	g := &Guard{kv: kv, mirror: m, file: file, prefix: prefix, node: node, holds: holds, log: log, resumed: make(chan struct{}, 1)}
	g.daemon = uuid.NewString()
	g.doubts.Store(1)
	return g
}

// retryExamination is how often an etcd that is not what it was is looked at again, and one that can't be read.
const retryExamination = 5 * time.Second

// Committer returns a committer that writes while etcd is the one that the node has written to.
func (g *Guard) Committer() *Committer {
	k := NewCommitter(g.kv)
	k.guard = g
	return k
}

// Run notices a lost connection, until the context ends, and has etcd examined then.
func (g *Guard) Run(ctx context.Context) {
	conn := g.kv.ActiveConnection()
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, retryExamination)
		if conn == nil { // an embedded etcd: there is none
			<-wait.Done()
		} else if state := conn.GetState(); !conn.WaitForStateChange(wait, state) {
			// nothing has happened
		} else if state == connectivity.Ready {
			g.suspect()
		}
		cancel()
		if g.inDoubt() {
			if err := g.Verify(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrSuspended) {
				g.log.Warn("etcd can't be examined yet", "error", err)
			}
		}
	}
}

// Suspended says why the node is suspended; nil if it is not.
func (g *Guard) Suspended() error {
	if err := g.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// Resumed tells one reader that the node is no longer suspended.
func (g *Guard) Resumed() <-chan struct{} { return g.resumed }

// Undecidable reports whether the node is suspended as the keys are a newer release's, or its records another daemon's:
// there is nothing to decide then.
func (g *Guard) Undecidable() bool { return g.newer.Load() || g.others.Load() }

// Verify examines etcd, if there is a doubt. The error is ErrSuspended, or txn.ErrUnavailable if etcd can't be
// read.
func (g *Guard) Verify(ctx context.Context) error {
	if !g.inDoubt() {
		return g.Suspended()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.inDoubt() { // an examination has ended meanwhile
		return g.Suspended()
	}
	doubts := g.doubts.Load() // what comes from now on is looked into again
	why, err := g.examine(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	}
	if why != "" {
		refused := fmt.Errorf("%w: %s; nothing is handed out, and nothing removed, until you decide: see \"patchctl recover\"", ErrSuspended, why)
		if g.Suspended() == nil {
			g.log.Error("suspended", "error", refused)
		}
		g.refused.Store(&refused)
		return refused
	}
	if g.refused.Swap(nil) != nil {
		g.log.Info("etcd is what it was: no longer suspended")
		select {
		case g.resumed <- struct{}{}:
		default: // it is to be told already
		}
	}
	g.looked.Store(doubts)
	return nil
}

func (g *Guard) inDoubt() bool { return g.doubts.Load() != g.looked.Load() }

// examine says why etcd is not the one that the node has written to.
func (g *Guard) examine(ctx context.Context) (why string, err error) {
	known, err := g.known()
	if err != nil {
		return "", err
	}
	before := g.highest.Load() // what is written while this reads counts no more
	if g.birth.Load() == nil { // at the start
		before = g.mirror.highest()
		if err := g.outdate(ctx); err != nil {
			return "", err
		}
	}
	have, revision, err := g.Read(ctx)
	if err != nil {
		return "", err
	}
	layout, err := g.layout(ctx)
	if err != nil {
		return "", err
	}
	g.newer.Store(layout > Layout)
	switch {
	case layout > Layout:
		return fmt.Sprintf("its keys have layout %d, of a newer release; this one knows %d: install that release again", layout, Layout), nil
	case known == nil || g.elsewhere(*known, have):
		if err := g.mirror.keep(nil); err != nil {
			return "", err
		}
		if have, err = g.Adopt(ctx); err != nil {
			return "", err
		}
	case have.Birth == "":
		return "it has nothing of Patchbay below " + g.prefix + ": it is empty, or another one", nil
	case have.Birth != known.Birth:
		return fmt.Sprintf("it is another one: its birth is %s, and this node has written to %s", have.Birth, known.Birth), nil
	case have.Cluster != known.Cluster:
		return fmt.Sprintf("it was restored from a backup, or moved: its cluster ID is %s, and it was %s", have.Cluster, known.Cluster), nil
	case revision < before:
		return fmt.Sprintf("it was restored from a backup: it is at revision %d, and was at %d", revision, before), nil
	}
	if why, err := g.taken(ctx); err != nil || why != "" {
		return why, err
	}
	// It answers: whoever waits for it no longer wants an answer within the time of one try.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if lost, err := g.lost(ctx); err != nil || lost != "" {
		return lost, err
	}
	cluster, err := strconv.ParseUint(have.Cluster, 16, 64)
	if err != nil {
		return "", err
	}
	g.birth.Store(&have.Birth)
	g.cluster.Store(cluster)
	g.highest.Store(revision)
	return "", nil
}

// elsewhere reports whether an etcd is another one as the configuration names other endpoints, by which the operator has
// decided already: while this node has neither a running pod nor an address in the former one.
func (g *Guard) elsewhere(known, have Identity) bool {
	if known.Cluster == have.Cluster && known.Birth == have.Birth || slices.Equal(known.Endpoints, have.Endpoints) {
		return false
	}
	if g.holds == nil || g.holds() {
		return false
	}
	g.log.Warn("etcd is another one, at other endpoints, and this node has nothing in the former one", "endpoints", have.Endpoints, "were", known.Endpoints)
	return true
}

func (g *Guard) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	resp, err := g.kv.Get(ctx, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("read %s%s: %w", key, at(g.kv.Endpoints()), err)
	}
	return resp, nil
}

// outdate forgets what the daemon has written, if the release before has run on this node since: it writes without
// noting, and a record of the node that tells no layout. What is there is noted again as it is read.
func (g *Guard) outdate(ctx context.Context) error {
	resp, err := g.get(ctx, g.self())
	if err != nil || len(resp.Kvs) == 0 {
		return err
	}
	var n struct {
		Layout int `json:"layout"`
	}
	if json.Unmarshal(resp.Kvs[0].Value, &n) != nil || n.Layout != 0 {
		return nil
	}
	return g.mirror.keep(nil)
}

// page is how many keys are read at a time.
const page = 500

// lost says which sandboxes' records etcd lacks, or has as they were before, that the mirror has, or which claims that
// are in no record.
func (g *Guard) lost(ctx context.Context) (string, error) {
	own := g.prefix + "/sandboxes/" + g.node + "/"
	have := map[string]int64{}
	for from, end := own, clientv3.GetPrefixRangeEnd(own); ; {
		resp, err := g.get(ctx, from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(page))
		if err != nil {
			return "", err
		}
		for _, kv := range resp.Kvs {
			have[string(kv.Key)] = kv.ModRevision
		}
		if !resp.More {
			break
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	written := g.mirror.Revisions()
	before, err := g.relieved(ctx, written)
	if err == nil && before {
		err = g.mirror.keep(nil)
	}
	if err != nil || before {
		return "", err
	}
	claims := map[string]Copy{}
	for key, revision := range written {
		if strings.HasPrefix(key, g.prefix+"/ipam/") {
			if c, ok := g.mirror.Copy(key); ok && g.isPlugins(c) {
				claims[key] = c
			}
		}
		if !strings.HasPrefix(key, own) {
			continue
		}
		if have[key] != 0 && have[key] >= revision {
			continue
		}
		if why, err := g.confirm(ctx, key); err != nil || why != "" {
			return why, err
		}
	}
	return g.lostOf(ctx, claims)
}

// isPlugins reports whether a copy is a claim of this node that no record of ours tells of: a plugin's.
func (g *Guard) isPlugins(c Copy) bool {
	var v struct {
		Node string `json:"node"`
		Via  string `json:"via"`
	}
	return json.Unmarshal([]byte(c.Value), &v) == nil && v.Via != "" && v.Node == g.node
}

// lostOf says which of the copies etcd lacks.
func (g *Guard) lostOf(ctx context.Context, copies map[string]Copy) (string, error) {
	reading, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	missing, _, err := g.Missing(reading, copies)
	for _, c := range missing {
		if why, err := g.confirm(ctx, c.Key); err != nil || why != "" {
			return why, err
		}
	}
	return "", err
}

// relieved reports whether the release before has run on this node since the mirror was written, and in this boot. It
// has no mirror, and may have changed and removed records.
func (g *Guard) relieved(ctx context.Context, written map[string]int64) (bool, error) {
	mine, is := written[g.self()]
	if !is {
		return false, nil
	}
	resp, err := g.get(ctx, g.self())
	if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision <= mine {
		return false, err
	}
	var n struct {
		BootID string `json:"bootID"`
		Layout int    `json:"layout"` // which it does not write
	}
	ran := json.Unmarshal(resp.Kvs[0].Value, &n) == nil && n.BootID == g.mirror.boot && n.Layout == 0
	if ran {
		g.log.Warn("the release before has run on this node meanwhile: what etcd has is right")
	}
	return ran, nil
}

// confirm looks again at a record that etcd seems to have lost: a call may have written or removed it since.
func (g *Guard) confirm(ctx context.Context, key string) (string, error) {
	resp, err := g.get(ctx, key, clientv3.WithKeysOnly())
	if err != nil {
		return "", err
	}
	switch revision, is := g.mirror.Revisions()[key]; {
	case !is:
		return "", nil
	case len(resp.Kvs) == 0:
		return fmt.Sprintf("it has lost what this node has written (key %s): it was restored from a backup, or emptied in part", key), nil
	case resp.Kvs[0].ModRevision < revision:
		return fmt.Sprintf("it has an older record than this node has written (key %s): it was restored from a backup", key), nil
	}
	return "", nil
}

// Seen is told of keys of this node that were read, which it need not have written in this boot.
func (k *Committer) Seen(kvs ...*mvccpb.KeyValue) {
	if k.guard == nil {
		return
	}
	all := make([]Copy, len(kvs))
	for i, kv := range kvs {
		all[i] = Copy{Key: string(kv.Key), Value: string(kv.Value), Revision: kv.ModRevision}
	}
	k.guard.mirror.seen(all)
}

// Unseen is told of a key that somebody else has changed, and that this node has done with: etcd may lack it from now on.
func (k *Committer) Unseen(key string) error {
	if k.guard == nil {
		return nil
	}
	_, err := k.guard.mirror.forget([]clientv3.Op{clientv3.OpDelete(key)})
	return err
}

// suspect has etcd examined before it is used again.
func (g *Guard) suspect() {
	if g != nil {
		g.doubts.Add(1)
	}
}

// heard looks at what etcd says of itself with each answer. Answers may come in another order than etcd has given
// them: a revision that is too low is a reason to look, and no more.
func (g *Guard) heard(h *etcdserverpb.ResponseHeader) {
	if g == nil {
		return
	}
	if h.ClusterId != g.cluster.Load() || h.Revision < g.highest.Load() {
		g.suspect()
		return
	}
	g.highest.Store(h.Revision) // one transaction at a time is sent
}

// conditions are those of every transaction: etcd is the one that was examined, and the node's records are this daemon's.
func (g *Guard) conditions() []clientv3.Cmp {
	if g == nil {
		return nil
	}
	t := Txn{}.IfHolds(g.prefix+"/birth", *g.birth.Load())
	if f := g.fence.Load(); f != nil {
		t = t.IfRevision(g.self(), f.revision)
	}
	return t.comparisons()
}

// before is called each time before a transaction is sent. It returns what the mirror forgets as the transaction may
// delete it.
func (g *Guard) before(ctx context.Context, t Txn) (forgotten []Copy, err error) {
	if g == nil {
		return nil, nil
	}
	if err := g.Verify(ctx); err != nil {
		return nil, err
	}
	if err := g.renew(ctx); err != nil {
		return nil, err
	}
	if forgotten, err = g.mirror.forget(t.operations); err != nil {
		return nil, fmt.Errorf("what this node has written can't be noted on disk: %w", err)
	}
	return forgotten, nil
}

// unchanged is called when a transaction was refused as a whole: nothing was deleted.
func (g *Guard) unchanged(forgotten []Copy) {
	if g != nil {
		g.mirror.add(forgotten)
	}
}

// written returns when what was committed, or was forgotten for nothing, is in the mirror.
func (g *Guard) written() {
	if g != nil {
		g.mirror.flush()
	}
}

// after is called when a transaction was committed, at a revision.
func (g *Guard) after(t Txn, revision int64) {
	if g != nil {
		all := puts(t.operations, revision)
		g.moveFence(all)
		g.mirror.add(all)
	}
}
