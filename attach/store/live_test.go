package store

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
)

// The sign of life comes although etcd is away at first, is renewed when its lease is lost, and is gone
// at once when the daemon ends.
func TestTheSignOfLife(t *testing.T) {
	state, err := os.MkdirTemp("", "live") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	c, err := etcd.Dial(etcd.Options{Endpoints: []string{"unix://" + filepath.Join(state, etcd.SocketName)}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := New(Options{KV: c, Prefix: "/patchbay/v1", Node: "n1", Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Live(ctx, c)
	}()
	defer stop()

	e, err := etcd.StartEmbedded(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	const key = "/patchbay/v1/live/n1"
	signs := e.Client.Watch(t.Context(), key, clientv3.WithRev(1))
	next := func() *clientv3.Event {
		t.Helper()
		select {
		case r := <-signs:
			if len(r.Events) != 1 {
				t.Fatalf("%+v, %v", r, r.Err())
			}
			return r.Events[0]
		case <-time.After(time.Minute):
			t.Fatal("no sign of life within a minute")
			return nil
		}
	}
	first := next()
	lease := clientv3.LeaseID(first.Kv.Lease)
	ttl, err := e.Client.TimeToLive(t.Context(), lease)
	if err != nil || !first.IsCreate() || string(first.Kv.Value) != "{}" || ttl.GrantedTTL != 10 {
		t.Fatalf("%+v, lease %+v, %v", first, ttl, err)
	}
	if _, err := e.Client.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	if lost, again := next(), next(); lost.Type != clientv3.EventTypeDelete || !again.IsCreate() || again.Kv.Lease == first.Kv.Lease {
		t.Errorf("after its lease was lost: %+v, %+v", lost, again)
	}
	stop()
	<-ended
	if left, err := e.Client.Get(t.Context(), key); err != nil || left.Count != 0 {
		t.Errorf("after the end: %+v, %v", left, err)
	}
}
