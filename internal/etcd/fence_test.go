package etcd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A late etcd is a real one, that some transactions come to only when they are let go: their caller has given them up.
type late struct {
	*Committer
	kv   *clientv3.Client // of the test's own
	hold atomic.Int32     // how many transactions are held from now on
	held chan func() error
}

func startAt(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "late") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e, err := StartEmbedded(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return filepath.Join(dir, SocketName)
}

func startLate(t *testing.T, at string) *late {
	t.Helper()
	l := &late{held: make(chan func() error, 10)}
	hold := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !strings.HasSuffix(method, "/Txn") || l.hold.Add(-1) < 0 {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		l.held <- func() error { return l.kv.ActiveConnection().Invoke(context.Background(), method, req, reply) }
		return status.Error(codes.Unavailable, "no answer")
	}
	dial := func(o ...grpc.DialOption) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + at}, Logger: zap.NewNop(), DialOptions: o})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	l.kv = dial()
	state := t.TempDir()
	m, err := OpenMirror(filepath.Join(state, "mirror"), "boot", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.Committer = NewGuard(dial(grpc.WithChainUnaryInterceptor(hold)), m, filepath.Join(state, "etcd.json"), "/p", "n1", nil, slog.New(slog.DiscardHandler)).Committer()
	if err := l.guard.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// begin is what a daemon does at its start.
func (l *late) begin(t *testing.T) {
	t.Helper()
	if err := l.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.commit(t, Txn{}.Put("/p/nodes/n1", `{"layout":2,"daemon":"`+l.guard.Daemon()+`"}`))
}

func (l *late) commit(t *testing.T, transaction Txn) {
	t.Helper()
	if err := l.Commit(t.Context(), transaction); err != nil {
		t.Fatal(err)
	}
}

func (l *late) has(t *testing.T, key, want string) {
	t.Helper()
	resp, err := l.kv.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	have := ""
	for _, kv := range resp.Kvs {
		have = string(kv.Value)
	}
	if have != want {
		t.Errorf("%s is %q, not %q", key, have, want)
	}
}

func (l *late) letGo(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := (<-l.held)(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was sent, and not answered, is carried out when a later transaction has undone it, or has changed it.
func TestATransactionThatWasNotAnsweredDoesNotComeTrueLater(t *testing.T) {
	at := startAt(t)
	l := startLate(t, at)
	l.begin(t)
	const record, other = "/p/sandboxes/n1/a", "/p/sandboxes/n1/b"
	l.hold.Store(2) // the first try, and the first attempt to fence it off
	l.commit(t, Txn{}.Put(record, "intent"))
	l.commit(t, Txn{}.Delete(record))
	l.letGo(t, 2)
	l.has(t, record, "")

	l.hold.Store(1)
	l.commit(t, Txn{}.Put(other, "intent"))
	l.commit(t, Txn{}.Put(other, "made"))
	l.letGo(t, 1)
	l.has(t, other, "made")
	l.commit(t, Txn{}.Put(other, "changed"))
	l.has(t, other, "changed")
}

// What a daemon had asked for when it was killed is not carried out once the next one has begun.
func TestWhatAFormerDaemonAskedForDoesNotComeTrueLater(t *testing.T) {
	at := startAt(t)
	former := startLate(t, at)
	former.begin(t)
	former.hold.Store(100)
	ended := make(chan error, 1)
	go func() { ended <- former.Commit(t.Context(), Txn{}.Put("/p/sandboxes/n1/a", "intent")) }()
	asked := <-former.held
	now := startLate(t, at)
	now.begin(t)
	if err := asked(); err != nil {
		t.Fatal(err)
	}
	now.has(t, "/p/sandboxes/n1/a", "")
	former.hold.Store(0)
	if err := <-ended; !errors.Is(err, ErrSuspended) {
		t.Errorf("%v", err)
	}
}

// Two machines have one name, and the first was away when the second started: its records are no longer its own.
func TestADaemonWhoseRecordsAnotherHasTakenOverWritesNothing(t *testing.T) {
	at := startAt(t)
	first, second := startLate(t, at), startLate(t, at)
	first.begin(t)
	first.commit(t, Txn{}.Put("/p/sandboxes/n1/a", "first"))
	second.begin(t)
	second.commit(t, Txn{}.Put("/p/sandboxes/n1/b", "second"))
	for _, transaction := range []Txn{Txn{}.Delete("/p/sandboxes/n1/b"), Txn{}.Put("/p/sandboxes/n1/b", "first"), Txn{}.IfAbsent("/p/x").Put("/p/x", "")} {
		if err := first.Commit(t.Context(), transaction); !errors.Is(err, ErrSuspended) || !strings.Contains(err.Error(), "taken the records of node n1 over") {
			t.Errorf("%v", err)
		}
	}
	if !first.guard.Undecidable() {
		t.Error("there is nothing to decide")
	}
	first.has(t, "/p/sandboxes/n1/b", "second")
	second.commit(t, Txn{}.Put("/p/sandboxes/n1/b", "second's still"))
}
