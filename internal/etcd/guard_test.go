package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// guarded is a guard of an etcd in this process.
func guarded(t *testing.T) (*Guard, *clientv3.Client) {
	t.Helper()
	state, err := os.MkdirTemp("", "guard") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	e, err := StartEmbedded(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	m, err := OpenMirror(filepath.Join(state, "mirror"), "boot", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return NewGuard(e.Client, m, filepath.Join(state, "etcd.json"), "/p", "n1", nil, slog.New(slog.DiscardHandler)), e.Client
}

// Sandboxes come and go, many at once, while etcd is looked at again and again: it is never taken for another one,
// and in the end the mirror has what etcd has.
func TestTheGuardDoesNotMistakeWhatIsUnderWay(t *testing.T) {
	g, kv := guarded(t)
	k := g.Committer()
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 60 {
				key := fmt.Sprintf("/p/sandboxes/n1/%d-%d", i, n%3)
				if err := k.Commit(ctx, Txn{}.Put(key, fmt.Sprint(n)).Put(key+"x", "")); err != nil {
					t.Error(err)
				}
				if n%4 != 3 {
					continue
				}
				if err := k.Commit(ctx, Txn{}.Delete(key).DeleteIfHolds(key+"x", "")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	looking, stop := context.WithCancel(ctx)
	var looks sync.WaitGroup
	looks.Go(func() {
		for looking.Err() == nil {
			g.suspect()
			if err := g.Verify(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	stop()
	looks.Wait()
	copies, err := g.Copies()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := kv.Get(ctx, "/p/sandboxes/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != len(copies) {
		t.Errorf("etcd has %d keys, the mirror %d", len(resp.Kvs), len(copies))
	}
	for _, kv := range resp.Kvs {
		if c := copies[string(kv.Key)]; c.Value != string(kv.Value) {
			t.Errorf("%s: the mirror has %q, etcd %q", kv.Key, c.Value, kv.Value)
		}
	}
}

// Each loss is noticed with the next look, nothing is written meanwhile, and nothing goes from the mirror.
func TestTheGuardNoticesWhatIsLost(t *testing.T) {
	for what, lose := range map[string]func(context.Context, *clientv3.Client) error{
		"a record": func(ctx context.Context, kv *clientv3.Client) error {
			_, err := kv.Delete(ctx, "/p/sandboxes/n1/a")
			return err
		},
		"an older record": func(ctx context.Context, kv *clientv3.Client) error {
			_, err := kv.Put(ctx, "/p/sandboxes/n1/a", "old")
			return err
		},
		"the birth": func(ctx context.Context, kv *clientv3.Client) error {
			_, err := kv.Delete(ctx, "/p/birth")
			return err
		},
		"all": func(ctx context.Context, kv *clientv3.Client) error {
			_, err := kv.Delete(ctx, "/p", clientv3.WithPrefix())
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			g, kv := guarded(t)
			k, ctx := g.Committer(), t.Context()
			if err := k.Commit(ctx, Txn{}.Put("/p/sandboxes/n1/a", "1")); err != nil {
				t.Fatal(err)
			}
			if err := lose(ctx, kv); err != nil {
				t.Fatal(err)
			}
			if what == "an older record" { // which a foreign hand can't write at an earlier revision: the copy is of a later one
				c, _ := g.Copies()
				later := c["/p/sandboxes/n1/a"]
				later.Revision += 10
				g.mirror.add([]Copy{later})
			}
			g.suspect()
			err := k.Commit(ctx, Txn{}.Put("/p/x", "").Delete("/p/sandboxes/n1/a"))
			if !errors.Is(err, ErrSuspended) {
				t.Errorf("%v", err)
			}
			if resp, err := kv.Get(ctx, "/p/x"); err != nil || len(resp.Kvs) > 0 {
				t.Errorf("it was written: %v", err)
			}
			copies, err := g.Copies()
			if _, ok := copies["/p/sandboxes/n1/a"]; err != nil || !ok {
				t.Errorf("the copy is gone, too: %v", err)
			}
		})
	}
}

// Until the guard has noticed, each transaction refuses an etcd without the birth that it knows.
func TestEachTransactionKnowsItsEtcd(t *testing.T) {
	g, kv := guarded(t)
	k, ctx := g.Committer(), t.Context()
	if err := k.Commit(ctx, Txn{}.Put("/p/x", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "/p/birth", "another"); err != nil {
		t.Fatal(err)
	}
	if err := k.Commit(ctx, Txn{}.Put("/p/x", "2")); !errors.Is(err, txn.ErrConflict) {
		t.Errorf("at once: %v", err)
	}
	if err := k.Commit(ctx, Txn{}.Put("/p/x", "2")); !errors.Is(err, ErrSuspended) {
		t.Errorf("then: %v", err)
	}
}
