package vswitch

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/ovn-kubernetes/libovsdb/client"
)

// A Reconciler puts right what depends on Open vSwitch: bridges, later flows and tunnels. It runs after each
// start of ovsdb-server, which may have lost its database, and of ovs-vswitchd, which has lost everything that
// is not in the database; when a bridge or an uplink is removed; and again after an error.
type Reconciler func(ctx context.Context, c client.Client) error

// Register adds a reconciler. They run in the order in which they were added. Call it before Run.
func (d *DB) Register(r Reconciler) { d.reconcilers = append(d.reconcilers, r) }

// reconcile runs all reconcilers, even if one fails, and keeps what is wrong for Unsettled.
func (d *DB) reconcile(ctx context.Context, c client.Client) error {
	var errs []error
	for _, reconciler := range d.reconcilers {
		errs = append(errs, reconciler(ctx, c))
	}
	err := errors.Join(errs...)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && ctx.Err() == nil && (d.unsettled == nil || d.unsettled.Error() != err.Error()) {
		d.log.Error("Open vSwitch is not as it is declared, trying on", "error", err)
	}
	d.unsettled = err
	return err
}

// Unsettled says what the reconcilers could not put right.
func (d *DB) Unsettled() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsettled
}

// retryPause is how long to wait before a new try where nothing tells when it would succeed.
const retryPause = 100 * time.Millisecond

// switchdPID is the file that ovs-vswitchd makes at its start, beside the database's socket.
const switchdPID = "ovs-vswitchd.pid"

// follow runs the reconcilers as long as the connection lasts: after each restart of ovs-vswitchd, when a
// bridge or an uplink is removed, and again after an error. The database does not tell of restarts: of all
// columns, only the local interfaces' statistics change (tried with Open vSwitch 3.1, killed and ended). The pid
// file does, beside a unix socket. Over TCP nothing does.
func (d *DB) follow(ctx context.Context, c client.Client, restarts <-chan struct{}) {
	for {
		var again <-chan time.Time
		if d.Unsettled() != nil {
			again = time.After(10 * retryPause)
		}
		restarted, late := false, false
		select {
		case <-ctx.Done():
			return
		case <-restarts:
			d.log.Info("ovs-vswitchd was started again")
			restarted = true
		case <-d.removed:
		case <-again:
			late = true
		}
		err := d.reconcile(ctx, c)
		// A bridge goes with all its ports: each was told of, but had no bridge then.
		if restarted || d.bridgeWent.Swap(false) || late && err == nil {
			d.tellLost("")
		}
	}
}

// Lost returns a channel of sandboxes, by container ID, that a port was removed of, by whomever; "" stands for
// all.
func (d *DB) Lost() <-chan string { return d.lost }

// tellLost tells who receives from Lost. If there is more than is received, all are to be looked at.
func (d *DB) tellLost(sandbox string) {
	select {
	case d.lost <- sandbox:
	default:
		select {
		case <-d.lost: // makes room
		default:
		}
		select {
		case d.lost <- "":
		default: // there will be one
		}
	}
}

// watchSwitch tells of each start of ovs-vswitchd from now on.
func (d *DB) watchSwitch() (restarts <-chan struct{}, stop func()) {
	socket, isUnix := strings.CutPrefix(d.endpoint, "unix:")
	if !isUnix {
		return nil, func() {}
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(filepath.Dir(socket)); err != nil {
			err = errors.Join(err, w.Close())
		}
	}
	if err != nil {
		d.log.Error("restarts of ovs-vswitchd are not noticed", "directory", filepath.Dir(socket), "error", err)
		return nil, func() {}
	}
	c := make(chan struct{}, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if filepath.Base(e.Name) != switchdPID || !e.Has(fsnotify.Create) {
					continue
				}
			case _, ok := <-w.Errors: // events were lost, a start among them perhaps
				if !ok {
					return
				}
			}
			select {
			case c <- struct{}{}:
			default: // told already
			}
		}
	}()
	return c, func() {
		_ = w.Close() // ends Events
		<-finished
	}
}
