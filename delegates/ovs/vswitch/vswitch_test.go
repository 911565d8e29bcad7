package vswitch_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/ovn-kubernetes/libovsdb/client"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

// What depends on Open vSwitch is put right after each start of either daemon, whether it was killed or
// ended, in the order in which it was registered; one that fails is tried again.
func TestReconcilersRunAfterEachRestart(t *testing.T) {
	o := testnode.StartOVS(t)
	db := vswitch.New(o.DB, slog.New(slog.DiscardHandler))
	ran, fail := make(chan string, 100), make(chan error, 1)
	db.Register(func(context.Context, client.Client) error {
		ran <- "first"
		return nil
	})
	db.Register(func(ctx context.Context, c client.Client) error {
		ran <- "second"
		select {
		case err := <-fail:
			return err
		default:
			var roots []vswitch.OpenVSwitch
			return c.List(ctx, &roots)
		}
	})
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
	both := func() {
		t.Helper()
		if a, b := <-ran, <-ran; a != "first" || b != "second" {
			t.Fatalf("%s, then %s", a, b)
		}
	}
	both()
	o.StopSwitch() // kill -9
	o.StartSwitch(t)
	both()
	if !db.Connected() {
		t.Error("the connection is not used")
	}
	fail <- context.DeadlineExceeded
	o.EndSwitch(t)
	o.StartSwitch(t)
	both()
	both() // again, as one has failed
	o.StopServer()
	o.StartServer(t)
	both()
}

// The connection is lost while a reconciler is at work: it must be noticed, and the next one be used.
func TestAConnectionThatIsLostWhileReconcilingIsNoticed(t *testing.T) {
	o := testnode.StartOVS(t)
	db := vswitch.New(o.DB, slog.New(slog.DiscardHandler))
	begun, goOn := make(chan client.Client, 100), make(chan struct{})
	db.Register(func(_ context.Context, c client.Client) error {
		begun <- c
		<-goOn
		return nil
	})
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
	first := <-begun
	goOn <- struct{}{}
	o.StopSwitch()
	o.StartSwitch(t)
	<-begun // after the restart of ovs-vswitchd
	o.StopServer()
	o.StartServer(t)
	close(goOn)
	if second := <-begun; second == first {
		t.Error("the lost connection is still used")
	}
}
