// Package vswitch is the connection to Open vSwitch: a copy of its database that is kept up to date,
// transactions that outlive a lost connection, and what ovs-vswitchd makes of them. It notices when either
// daemon has been started again, and then runs the reconcilers of what depends on them.
package vswitch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/ovn-kubernetes/libovsdb/cache"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/internal/batch"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

const (
	// connectWait is how long calls wait for ovsdb-server to come back, from when it was heard last.
	connectWait = 10 * time.Second
	// minWait is what a call waits at least, which comes when ovsdb-server has been away for longer.
	minWait = time.Second
	// answerWait is how long ovsdb-server may take to answer before it is taken to hang.
	answerWait = 5 * time.Second
)

// A DB is a long-lived connection to ovsdb-server with a monitored copy of what is in it. It
// connects again by itself, each time with a new client, so that no stale copy survives.
type DB struct {
	endpoint    string
	log         *slog.Logger
	reconcilers []Reconciler
	batcher     *batch.Batcher[request]
	removals    *removals
	failing     chan struct{} // has an entry while somebody is to look for interfaces in error
	bridgeWent  atomic.Bool   // since the reconcilers ran
	removed     chan struct{} // has an entry while the reconcilers are to run, as something went
	lost        chan string   // see Lost

	mu        sync.Mutex
	conn      client.Client             // nil while not connected
	end       context.CancelFunc        // ends conn
	unsettled error                     // what the reconcilers could not put right
	heard     time.Time                 // when ovsdb-server was heard last; at first, when the DB was made
	changed   chan struct{}             // closed and replaced when conn changes, or bridges or uplinks may have
	waiters   map[string]chan Interface // by interface name
}

// New returns a DB for the endpoint, such as unix:/var/run/openvswitch/db.sock. Run connects it.
func New(endpoint string, log *slog.Logger) *DB {
	d := &DB{endpoint: endpoint, log: log, removals: newRemovals(), failing: make(chan struct{}, 1), heard: time.Now(), removed: make(chan struct{}, 1), lost: make(chan string, 256),
		changed: make(chan struct{}), waiters: map[string]chan Interface{}}
	d.batcher = batch.New(64, d.commitGroup)
	return d
}

// Endpoint returns where Open vSwitch is.
func (d *DB) Endpoint() string { return d.endpoint }

// Run keeps the connection, and runs the reconcilers, until the context ends.
func (d *DB) Run(ctx context.Context) {
	lastErr := ""
	for ctx.Err() == nil {
		err := d.serve(ctx)
		if err == nil {
			lastErr = ""
			continue
		}
		if err.Error() != lastErr && ctx.Err() == nil {
			lastErr = err.Error()
			d.log.Warn("Open vSwitch is not usable yet, trying on", "db", d.endpoint, "error", err)
		}
		// Nothing tells when the socket is there again.
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// serve connects, runs the reconcilers, and lets the connection be used until it is lost. It returns an
// error if the connection could not be used at all.
func (d *DB) serve(ctx context.Context) error {
	c, err := newClient(d.endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := d.connect(ctx, c); err != nil {
		return err
	}
	lasts, end := context.WithCancel(ctx)
	defer end()
	go func() {
		defer end()
		d.listen(lasts, c)
	}()
	restarts, stop := d.watchSwitch()
	defer stop()
	_ = d.reconcile(lasts, c) // Unsettled has the error
	if lasts.Err() != nil {
		return errLost
	}
	d.log.Info("connected to Open vSwitch", "db", d.endpoint)
	d.use(c, end)
	d.tellLost("")
	if d.follow(lasts, c, restarts); ctx.Err() == nil {
		d.log.Warn("connection to Open vSwitch lost", "db", d.endpoint)
	}
	d.use(nil, nil)
	return nil
}

// question is a transaction that changes nothing.
var question = ovsdb.Operation{Op: ovsdb.OperationSelect, Table: "Open_vSwitch", Where: []ovsdb.Condition{}, Columns: []string{"_uuid"}}

// listen returns when the connection is lost, or ovsdb-server has stopped answering. libovsdb tells of a lost
// connection once, and only those that are waiting then: each question asks for that, too.
func (d *DB) listen(ctx context.Context, c client.Client) {
	ask := time.NewTicker(answerWait)
	defer ask.Stop()
	for c.Connected() {
		d.mu.Lock()
		d.heard = time.Now()
		d.mu.Unlock()
		select {
		case <-c.DisconnectNotify():
			return
		case <-ctx.Done():
			return
		case <-ask.C:
		}
		answer, cancel := context.WithTimeout(ctx, answerWait)
		_, err := c.Transact(answer, question) // not Echo, which reads an answer that it no longer waits for
		cancel()
		if err != nil {
			d.log.Warn("ovsdb-server does not answer", "db", d.endpoint, "error", err)
			return
		}
	}
}

// connect connects a client and fills its copy of the database. libovsdb panics over schemas and rows of forms
// that it does not know.
func (d *DB) connect(ctx context.Context, c client.Client) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("what ovsdb-server has answered can't be read: %v", v)
		}
	}()
	if err := failpoint.Hit("ovsdb-connect"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return err
	}
	c.Cache().AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc: func(_ string, row model.Model) {
			d.rowWritten(row)
			d.rowCameOrWent(row)
		},
		UpdateFunc: func(_ string, _, row model.Model) { d.rowWritten(row) },
		DeleteFunc: func(_ string, row model.Model) {
			d.rowCameOrWent(row)
			d.rowWent(row)
		},
	})
	if err := failpoint.Hit("ovsdb-monitor"); err != nil {
		return err
	}
	if _, err := c.Monitor(ctx, monitored(c)); err != nil {
		return err
	}
	var rows []OpenVSwitch
	if err := c.List(ctx, &rows); err != nil {
		return err
	}
	if len(rows) != 1 {
		return fmt.Errorf("table Open_vSwitch has %d rows instead of one: run ovs-vsctl init", len(rows))
	}
	d.removals.connected(rows[0])
	return nil
}

// rowWritten passes on what ovs-vswitchd writes: the state of an interface, or that it has done what was
// asked of it.
func (d *DB) rowWritten(m model.Model) {
	switch row := m.(type) {
	case *OpenVSwitch:
		d.removals.answered(row.CurCfg)
	case *Interface:
		d.report(row)
	}
}

// rowCameOrWent wakes those who wait for bridges, and for ports that are no pod's and so may be uplinks.
func (d *DB) rowCameOrWent(m model.Model) {
	_, isBridge := m.(*Bridge)
	port, isPort := m.(*Port)
	if isBridge || isPort && port.ExternalIDs[SandboxKey] == "" {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.wake()
	}
}

// rowWent has the reconcilers run when a bridge went, or a port that may be an uplink, and tells of a pod's port.
func (d *DB) rowWent(m model.Model) {
	port, isPort := m.(*Port)
	if isPort && port.ExternalIDs[SandboxKey] != "" {
		d.tellLost(port.ExternalIDs[SandboxKey])
		return
	}
	_, isBridge := m.(*Bridge)
	if isBridge {
		d.bridgeWent.Store(true)
	}
	if isBridge || isPort {
		select {
		case d.removed <- struct{}{}:
		default: // they are to run already
		}
	}
}

// use sets the connection that callers get, nil for none, and what ends it.
func (d *DB) use(c client.Client, end context.CancelFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.end = c, end
	d.wake()
}

// drop ends a connection on which a transaction was not answered. Nobody knows whether it will be done: what
// is in the copy of the database can't be trusted any more.
func (d *DB) drop(c client.Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == c && d.end != nil {
		d.end()
		d.conn, d.end = nil, nil
		d.wake()
	}
}

// wake wakes whoever waits for a change. Call it with the lock held.
func (d *DB) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// ErrAway says that there is no connection to Open vSwitch.
var ErrAway = fault.New(fault.Unavailable, "Open vSwitch does not answer")

func (d *DB) away() error {
	return fmt.Errorf("%w at %s: start ovsdb-server and ovs-vswitchd, or set ovs.db", ErrAway, d.endpoint)
}

// Client returns the connection, waiting for it if need be, or ErrAway.
func (d *DB) Client(ctx context.Context) (client.Client, error) {
	d.mu.Lock()
	wait := max(minWait, connectWait-time.Since(d.heard))
	d.mu.Unlock()
	c := d.awaitOther(ctx, nil, wait)
	if c == nil {
		return nil, d.away()
	}
	return c, nil
}

// awaitOther waits until the connection is another than old, and returns that, or old after the wait.
func (d *DB) awaitOther(ctx context.Context, old client.Client, wait time.Duration) client.Client {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		c, changed := d.Now()
		if c != old {
			return c
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return old
		}
	}
}

// Now returns the connection, nil if there is none now, and a channel that is closed when the connection changes,
// or bridges or uplinks may have come or gone.
func (d *DB) Now() (c client.Client, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn, d.changed
}

// Connected reports whether there is a connection now.
func (d *DB) Connected() bool {
	c, _ := d.Now()
	return c != nil
}

// Await waits for a connection and reports whether there is one.
func (d *DB) Await(ctx context.Context, wait time.Duration) bool {
	return d.awaitOther(ctx, nil, wait) != nil
}
