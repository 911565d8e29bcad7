// Package vswitch is the connection to Open vSwitch: a copy of its database that is kept up to date,
// transactions that outlive a lost connection, and what ovs-vswitchd says of them. It knows when either
// daemon has been started again, and then has everything put right that depends on them.
package vswitch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/cache"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"

	"github.com/patchbay-cni/patchbay/internal/batch"

	"github.com/containernetworking/cni/pkg/types"
)

// connectWait is how long a call waits for ovsdb-server to come back.
const connectWait = 10 * time.Second

// A DB is a long-lived connection to ovsdb-server with a monitored copy of what is in it. It
// connects again by itself, each time with a new client, so that no stale copy survives.
type DB struct {
	endpoint    string
	log         *slog.Logger
	reconcilers []Reconciler
	batcher     *batch.Batcher[request]
	removals    *removals
	failing     chan struct{} // told when an interface may be in error

	mu      sync.Mutex
	conn    client.Client    // nil while not connected
	changed chan struct{}    // closed and replaced when conn changes
	bridges chan struct{}    // closed and replaced when bridges or uplinks may have come or gone
	waiters map[string]*Wait // by interface name
}

// New returns a DB for the endpoint, such as unix:/var/run/openvswitch/db.sock. Run connects it.
func New(endpoint string, log *slog.Logger) *DB {
	d := &DB{endpoint: endpoint, log: log, removals: newRemovals(), failing: make(chan struct{}, 1),
		changed: make(chan struct{}), bridges: make(chan struct{}), waiters: map[string]*Wait{}}
	d.batcher = batch.New(64, d.commit)
	return d
}

// Endpoint is where Open vSwitch is.
func (d *DB) Endpoint() string { return d.endpoint }

// Run keeps the connection, and what is registered, until the context ends.
func (d *DB) Run(ctx context.Context) {
	lastErr := ""
	for ctx.Err() == nil {
		c, err := d.connect(ctx)
		if err == nil {
			if err = d.serve(ctx, c); err != nil {
				c.Close()
			}
		}
		if err != nil {
			if err.Error() != lastErr && ctx.Err() == nil {
				lastErr = err.Error()
				d.log.Warn("Open vSwitch is not usable yet, trying on", "db", d.endpoint, "error", err)
			}
			// Nothing tells when the socket is there again.
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
			}
			continue
		}
		lastErr = ""
	}
}

// serve has a new connection used as long as it lasts, if all that is registered could be put right.
func (d *DB) serve(ctx context.Context, c client.Client) error {
	lasts, end := context.WithCancel(ctx)
	defer end()
	go func() { // the notice is given once, to whoever waits for it then
		select {
		case <-c.DisconnectNotify():
			end()
		case <-lasts.Done():
		}
	}()
	restarts, stop := d.watchSwitch()
	defer stop()
	if err := d.reconcile(lasts, c); err != nil {
		return err
	}
	d.log.Info("connected to Open vSwitch", "db", d.endpoint)
	d.swap(c)
	if d.follow(lasts, c, restarts); ctx.Err() == nil {
		d.log.Warn("connection to Open vSwitch lost", "db", d.endpoint)
	}
	d.swap(nil)
	c.Close()
	return nil
}

func (d *DB) swap(c client.Client) {
	d.mu.Lock()
	d.conn = c
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	d.bridgesChanged()
}

func (d *DB) bridgesChanged() {
	d.mu.Lock()
	close(d.bridges)
	d.bridges = make(chan struct{})
	d.mu.Unlock()
}

func (d *DB) connect(ctx context.Context) (client.Client, error) {
	m, err := dbModel()
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	c, err := client.NewOVSDBClient(m, client.WithEndpoint(d.endpoint), client.WithLogger(&quiet))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		c.Close()
		return nil, err
	}
	c.Cache().AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc: func(_ string, m model.Model) {
			d.hear(m)
			d.tellBridge(m)
		},
		UpdateFunc: func(_ string, _, m model.Model) { d.hear(m) },
		DeleteFunc: func(_ string, m model.Model) { d.tellBridge(m) },
	})
	if _, err := c.Monitor(ctx, monitored(c)); err != nil {
		c.Close()
		return nil, err
	}
	var rows []OpenVSwitch
	if err = c.List(ctx, &rows); err == nil && len(rows) != 1 {
		err = fmt.Errorf("table Open_vSwitch has %d rows instead of one: run ovs-vsctl init", len(rows))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	d.removals.connected(rows[0])
	return c, nil
}

// hear passes on what ovs-vswitchd says, of an interface or that it has done what was asked.
func (d *DB) hear(m model.Model) {
	switch row := m.(type) {
	case *OpenVSwitch:
		d.removals.answered(row.CurCfg)
	case *Interface:
		d.tell(row)
	}
}

func (d *DB) tellBridge(m model.Model) {
	switch row := m.(type) {
	case *Bridge:
		d.bridgesChanged()
	case *Port:
		if row.ExternalIDs[SandboxKey] == "" { // it may be an uplink
			d.bridgesChanged()
		}
	}
}

// errDown is CNI error 11: the runtime tries again.
func (d *DB) errDown() error {
	return types.NewError(types.ErrTryAgainLater, "Open vSwitch does not answer at "+d.endpoint,
		"start ovsdb-server and ovs-vswitchd, or set ovs.db")
}

// Client returns the connection, waiting for it if need be.
func (d *DB) Client(ctx context.Context) (client.Client, error) {
	timeout := time.After(connectWait)
	for {
		d.mu.Lock()
		c, changed := d.conn, d.changed
		d.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, d.errDown()
		case <-ctx.Done():
			return nil, d.errDown()
		}
	}
}

// Now returns the connection if there is one now, else nil, and a channel that is closed when bridges or
// uplinks may have come or gone, or the connection.
func (d *DB) Now() (c client.Client, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn, d.bridges
}

// Connected reports whether there is a connection now.
func (d *DB) Connected() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil
}

// Await waits for a connection and reports whether there is one.
func (d *DB) Await(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_, err := d.Client(ctx)
	return err == nil
}
