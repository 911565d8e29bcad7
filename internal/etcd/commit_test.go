package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// A lossy etcd is a real one, of whose answers to transactions some are lost: what was asked is done.
type lossy struct {
	*clientv3.Client
	lose atomic.Int32 // how many answers
	deny atomic.Int32 // how many transactions after that are refused
}

func startLossy(t *testing.T) *lossy {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pb")
	if err != nil {
		t.Fatal(err)
	}
	e, err := StartEmbedded(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{}
	drop := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasSuffix(method, "/Txn") && l.lose.Load() <= 0 && l.deny.Add(-1) >= 0 {
			return status.Error(codes.PermissionDenied, "not now")
		}
		err := invoke(ctx, method, req, reply, cc, opts...)
		if err == nil && strings.HasSuffix(method, "/Txn") && l.lose.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "the answer was lost")
		}
		return err
	}
	l.Client, err = clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + dir + "/" + SocketName}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(drop)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		e.Close()
		_ = os.RemoveAll(dir)
	})
	return l
}

func (l *lossy) value(t *testing.T, key string) string {
	t.Helper()
	resp, err := l.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// A transaction whose answer is lost is sent again. It must neither be taken for another's conflict, nor a
// conflict for it.
func TestTheOutcomeOfATransactionWhoseAnswerIsLost(t *testing.T) {
	l := startLossy(t)
	k := NewCommitter(l.Client)
	ctx := context.Background()
	for name, c := range map[string]struct {
		before      map[string]string
		transaction Txn
		lost        int32
		want        error
		key, holds  string
	}{
		"a new claim": {nil, Txn{}.IfAbsent("a").Put("a", "me"), 0, nil, "a", "me"},
		"a new claim, of which the answer is lost":   {nil, Txn{}.IfAbsent("a").Put("a", "me"), 1, nil, "a", "me"},
		"a new claim, of which two answers are lost": {nil, Txn{}.IfAbsent("a").Put("a", "me"), 2, nil, "a", "me"},
		"another's claim":                                 {map[string]string{"a": "you"}, Txn{}.IfAbsent("a").Put("a", "me"), 0, txn.ErrConflict, "a", "you"},
		"another's claim, and the answer is lost":         {map[string]string{"a": "you"}, Txn{}.IfAbsent("a").Put("a", "me"), 1, txn.ErrConflict, "a", "you"},
		"a claim that is held":                            {map[string]string{"a": "me"}, Txn{}.IfHolds("a", "me").Put("a", "me"), 1, nil, "a", "me"},
		"a claim that is held, and its pool is another":   {map[string]string{"a": "me"}, Txn{}.IfRevision("spec", 1).IfHolds("a", "me").Put("a", "me"), 0, txn.ErrConflict, "a", "me"},
		"a record without a condition":                    {map[string]string{"r": "old"}, Txn{}.Put("r", "new"), 1, nil, "r", "new"},
		"a record with two claims, one of them another's": {map[string]string{"b": "you"}, Txn{}.IfAbsent("a").IfAbsent("b").Put("r", "new").Put("a", "me").Put("b", "me"), 1, txn.ErrConflict, "r", ""},
		"a release": {map[string]string{"a": "me"}, Txn{}.Delete("r").DeleteIfHolds("a", "me"), 1, nil, "a", ""},
		"a late release, when the address has a new owner":         {map[string]string{"a": "you"}, Txn{}.Delete("r").DeleteIfHolds("a", "me"), 1, nil, "a", "you"},
		"a removal of what is empty":                               {map[string]string{"p/spec": "s"}, Txn{}.IfEmpty("p/ips/").DeleteAll("p/"), 0, nil, "p/spec", ""},
		"a removal of what is not empty":                           {map[string]string{"p/ips/1": "me", "p/spec": "s"}, Txn{}.IfEmpty("p/ips/").DeleteAll("p/"), 0, txn.ErrConflict, "p/spec", "s"},
		"a removal that puts nothing can't tell: it is a conflict": {map[string]string{"p/spec": "s"}, Txn{}.IfHolds("p/spec", "s").DeleteAll("p/"), 1, txn.ErrConflict, "p/spec", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := l.Delete(ctx, "", clientv3.WithFromKey()); err != nil {
				t.Fatal(err)
			}
			for key, value := range c.before {
				if _, err := l.Put(ctx, key, value); err != nil {
					t.Fatal(err)
				}
			}
			l.lose.Store(c.lost)
			if err := k.Commit(ctx, c.transaction); !errors.Is(err, c.want) || err != nil && c.want == nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			l.lose.Store(0)
			if got := l.value(t, c.key); got != c.holds {
				t.Errorf("%s holds %q, want %q", c.key, got, c.holds)
			}
		})
	}
}

// Each transaction of a group has an outcome of its own, whether the group's answer is lost or not, and a group
// that etcd refuses is committed one by one.
func TestEachOfAGroupHasItsOutcome(t *testing.T) {
	l := startLossy(t)
	k := NewCommitter(l.Client)
	ctx := context.Background()
	if _, err := l.Put(ctx, "taken", "you"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, lost := range []int32{0, 1} {
		for _, key := range []string{"a", "b", "both"} {
			if _, err := l.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		l.lose.Store(lost)
		errs := k.commitAll([]item{unbounded(ctx, Txn{}.IfAbsent("a").Put("a", "1")), unbounded(ctx, Txn{}.IfAbsent("taken").Put("taken", "me")), unbounded(ctx, Txn{}.Put("b", "2")), unbounded(ended, Txn{}.Put("never", "x"))})
		if errs[0] != nil || !errors.Is(errs[1], txn.ErrConflict) || errs[2] != nil || !errors.Is(errs[3], context.Canceled) {
			t.Errorf("answers lost: %d: %v", lost, errs)
		}
		l.lose.Store(lost)
		errs = k.commitAll([]item{unbounded(ctx, Txn{}.IfAbsent("both").Put("both", "1")), unbounded(ctx, Txn{}.IfAbsent("both").Put("both", "2"))})
		if errs[0] != nil || !errors.Is(errs[1], txn.ErrConflict) {
			t.Errorf("one key twice, answers lost: %d: %v", lost, errs)
		}
		if a, b, taken, never, both := l.value(t, "a"), l.value(t, "b"), l.value(t, "taken"), l.value(t, "never"), l.value(t, "both"); a+b+taken+never+both != "12you1" {
			t.Errorf("answers lost: %d: %q %q %q %q %q", lost, a, b, taken, never, both)
		}
	}
}

func unbounded(ctx context.Context, t Txn) item { return item{t, ctx, time.Time{}, new(int64)} }

// The revision of what was written is known although the answer was lost.
func TestTheRevisionIsKnownAfterALostAnswer(t *testing.T) {
	l := startLossy(t)
	k := NewCommitter(l.Client)
	for _, lost := range []int32{0, 1} {
		l.lose.Store(lost)
		revision, err := k.CommitAt(t.Context(), Txn{}.IfRevision("a", revisionOf(t, l, "a")).Put("a", fmt.Sprint(lost)))
		if has := revisionOf(t, l, "a"); err != nil || revision != has {
			t.Errorf("answers lost: %d: %d, %v; it is at %d", lost, revision, err, has)
		}
	}
}

func revisionOf(t *testing.T, l *lossy, key string) int64 {
	t.Helper()
	resp, err := l.Client.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return 0
	}
	return resp.Kvs[0].ModRevision
}

// A group whose answer was lost is refused when it is sent again, as when a role of etcd's is being changed:
// its transactions, now committed one by one, were committed already.
func TestAGroupThatIsRefusedAfterALostAnswerIsNoConflict(t *testing.T) {
	l := startLossy(t)
	k := NewCommitter(l.Client)
	ctx := context.Background()
	l.lose.Store(1)
	l.deny.Store(1)
	errs := k.commitAll([]item{unbounded(ctx, Txn{}.IfAbsent("a").Put("a", "1")), unbounded(ctx, Txn{}.IfAbsent("b").Put("b", "2"))})
	if errs[0] != nil || errs[1] != nil {
		t.Errorf("%v", errs)
	}
}
