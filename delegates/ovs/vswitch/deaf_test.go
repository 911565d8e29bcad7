package vswitch_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// An ovsdb-server may take connections and answer everything but transactions, or be too slow for those. It is away,
// then: those who wait are told, and none waits for the others.
func TestTransactionsThatAreNeverAnsweredAreGivenUp(t *testing.T) {
	o := testnode.StartOVS(t)
	deaf := &atomic.Bool{}
	db := vswitch.New("unix:"+deafProxy(t, strings.TrimPrefix(o.DB, "unix:"), deaf), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		db.Run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	if !db.Await(ctx, time.Minute) {
		t.Fatal("no connection")
	}
	change := func(_ context.Context, tx *vswitch.Transaction) error {
		root := &vswitch.OpenVSwitch{}
		tx.Add(tx.WhereCache(func(*vswitch.OpenVSwitch) bool { return true }).
			Mutate(root, model.Mutation{Field: &root.NextCfg, Mutator: ovsdb.MutateOperationAdd, Value: 1}))
		return nil
	}
	deaf.Store(true)
	const calls = 20
	errs := make(chan error, calls)
	for range calls {
		go func() { errs <- db.Commit(ctx, change) }()
	}
	limit := time.After(45 * time.Second)
	for i := range calls {
		select {
		case err := <-errs:
			if fault.Of(err) != fault.Unavailable {
				t.Errorf("it is answered %v", err)
			}
		case <-limit:
			deaf.Store(false)
			t.Fatalf("%d of %d changes are answered", i, calls)
		}
	}
	deaf.Store(false)
	testnode.Eventually(t, "changes are made again", func() bool { return db.Commit(ctx, change) == nil })
}

// deafProxy stands before ovsdb-server, and keeps transactions from it while it is deaf.
func deafProxy(t *testing.T, to string, deaf *atomic.Bool) (socket string) {
	t.Helper()
	socket = filepath.Join(testnode.ShortDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, s) // until one of the two ends
			}()
			go func() {
				defer s.Close()
				buf := make([]byte, 1<<20)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if deaf.Load() && bytes.Contains(buf[:n], []byte(`"transact"`)) {
						continue
					}
					if _, err := s.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return socket
}
