package ovs

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
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/internal/fault"

	"github.com/containernetworking/cni/pkg/types"
)

// connectWait is how long a call waits for ovsdb-server to come back.
const connectWait = 10 * time.Second

// A DB is a long-lived connection to ovsdb-server with a monitored copy of what is in it. It
// connects again by itself, each time with a new client, so that no stale copy survives.
type DB struct {
	endpoint string
	log      *slog.Logger
	removals *removals

	failed chan struct{} // told when an interface may be in error

	mu      sync.Mutex
	conn    client.Client    // nil while not connected
	changed chan struct{}    // closed and replaced when conn changes
	bridges chan struct{}    // closed and replaced when bridges or uplinks may have come or gone
	waiters map[string]*wait // by interface name
}

// wait is somebody waiting for ovs-vswitchd's word on a new interface.
type wait struct {
	done chan struct{}
	once sync.Once
	row  iface
}

// NewDB returns a DB for the endpoint, such as unix:/var/run/openvswitch/db.sock. Run connects it.
func NewDB(endpoint string, log *slog.Logger) *DB {
	return &DB{endpoint: endpoint, log: log, removals: newRemovals(), failed: make(chan struct{}, 1),
		changed: make(chan struct{}), bridges: make(chan struct{}), waiters: map[string]*wait{}}
}

// Run keeps the connection until the context ends. onConnect is called after each connection, with
// the copy complete, before anybody else can use it.
func (d *DB) Run(ctx context.Context, onConnect func(context.Context, client.Client) error) {
	lastErr := ""
	for ctx.Err() == nil {
		c, err := d.connect(ctx)
		if err == nil {
			if err = onConnect(ctx, c); err != nil {
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
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		lastErr = ""
		d.log.Info("connected to Open vSwitch", "db", d.endpoint)
		gone := c.DisconnectNotify()
		d.swap(c)
		select {
		case <-gone:
			d.log.Warn("connection to Open vSwitch lost", "db", d.endpoint)
		case <-ctx.Done():
		}
		d.swap(nil)
		c.Close()
	}
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
			d.tell(m)
			d.tellBridge(m)
		},
		UpdateFunc: func(_ string, _, m model.Model) { d.tell(m) },
		DeleteFunc: func(_ string, m model.Model) { d.tellBridge(m) },
	})
	if _, err := c.Monitor(ctx, monitored(c)); err != nil {
		c.Close()
		return nil, err
	}
	var rows []openvSwitch
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

// tell passes on what ovs-vswitchd says: that it has opened an interface, or why not, or that it has
// done what was asked.
func (d *DB) tell(m model.Model) {
	if o, ok := m.(*openvSwitch); ok {
		d.removals.answered(o.CurCfg)
		return
	}
	i, ok := m.(*iface)
	if !ok || i.Ofport == nil && !i.failed() {
		return
	}
	if i.failed() {
		d.lookForErrors()
	}
	d.mu.Lock()
	w := d.waiters[i.Name]
	d.mu.Unlock()
	if w != nil {
		w.once.Do(func() {
			w.row = *i
			close(w.done)
		})
	}
}

func (d *DB) tellBridge(m model.Model) {
	switch row := m.(type) {
	case *bridge:
		d.bridgesChanged()
	case *port:
		if row.ExternalIDs[idSandbox] == "" { // it may be an uplink
			d.bridgesChanged()
		}
	}
}

// lookForErrors has the interfaces that are in error looked at, soon.
func (d *DB) lookForErrors() {
	select {
	case d.failed <- struct{}{}:
	default: // it is to be done already
	}
}

// expect registers a waiter for the interface; call it before the transaction, and forget after.
func (d *DB) expect(name string) *wait {
	w := &wait{done: make(chan struct{})}
	d.mu.Lock()
	d.waiters[name] = w
	d.mu.Unlock()
	return w
}

func (d *DB) forget(name string) {
	d.mu.Lock()
	delete(d.waiters, name)
	d.mu.Unlock()
}

// errDown is CNI error 11: the runtime tries again.
func (d *DB) errDown() error {
	return types.NewError(types.ErrTryAgainLater, "Open vSwitch does not answer at "+d.endpoint,
		"start ovsdb-server and ovs-vswitchd, or set ovs.db")
}

// client returns the connection, waiting for it if need be.
func (d *DB) client(ctx context.Context) (client.Client, error) {
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

// Connected reports whether there is a connection now.
func (d *DB) Connected() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil
}

// errLost says that a transaction's outcome is unknown, as the connection broke.
var errLost = fault.New(fault.Unavailable, "connection to Open vSwitch lost")

func transact(ctx context.Context, c client.Client, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	results, err := c.Transact(ctx, ops...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	if opErrs, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		for _, e := range opErrs {
			if e != nil {
				return nil, fmt.Errorf("OVSDB refused the transaction: %w", e)
			}
		}
		return nil, fmt.Errorf("OVSDB refused the transaction: %w", err)
	}
	return results, nil
}

// Await waits for a connection and reports whether there is one.
func (d *DB) Await(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_, err := d.client(ctx)
	return err == nil
}
