package vswitch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// While ovsdb-server is away, changes wait for it beside each other: how many there are makes no call slower.
func TestChangesWaitForOpenVSwitchBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New("unix:/nowhere/db.sock", slog.New(slog.DiscardHandler))
		begun := time.Now()
		const calls = 100
		errs := make(chan error, calls)
		for i := range calls {
			go func() {
				time.Sleep(time.Duration(i%4) * time.Second)
				errs <- d.Commit(context.Background(), func(context.Context, *Transaction) error { return nil })
			}()
		}
		for range calls {
			if err := <-errs; !errors.Is(err, ErrAway) {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took > 3*time.Second+connectWait {
			t.Errorf("%d changes waited %s in all", calls, took)
		}
		// Those that were to be made together when the connection was lost.
		begun = time.Now()
		for _, err := range d.commitGroup(slices.Repeat([]request{{context.Background(), nil}}, calls)) {
			if err == nil {
				t.Error("a change was made without a connection")
			}
		}
		if took := time.Since(begun); took > connectWait {
			t.Errorf("%d changes waited %s for a lost connection", calls, took)
		}
	})
}

// The directory of the socket can't be watched: nothing is left of the attempt, which is made again with each
// connection.
func TestAWatchThatFailsLeavesNothing(t *testing.T) {
	d := New("unix:/nowhere/db.sock", slog.New(slog.DiscardHandler))
	restarts, stop := d.watchSwitch()
	defer stop()
	if restarts != nil {
		t.Error("it is watched")
	}
	goleak.VerifyNone(t)
}
