// Package daemon wires patchbayd: the packages of the project, by the configuration.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/api"
	"github.com/patchbay-cni/patchbay/attach/cni"
	kubesink "github.com/patchbay-cni/patchbay/attach/sinks/kube"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/exec"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/delegates/ovs/marker"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/metrics"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/unixsock"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
	"github.com/patchbay-cni/patchbay/ipam/node"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/manifest"
)

const (
	startTimeout = 60 * time.Second
	ovsWait      = 10 * time.Second // for Open vSwitch at the start; it may also come later
	drainTimeout = 20 * time.Second
)

// A Daemon is patchbayd, started.
type Daemon struct {
	cfg     config.Config
	version string
	log     *slog.Logger

	embedded *etcd.Embedded
	kv       *clientv3.Client
	catalog  catalog
	// One of the two, as configured:
	manifests *manifest.Catalog
	kube      *kube.Catalog
	status    *kubesink.Reporter // nil without Kubernetes
	claims    ipam.IPAMClaims    // IPAMClaims; nil without Kubernetes
	devices   *kube.Slices       // of DRA drivers; nil without Kubernetes
	native    *ovs.Delegate
	marker    *marker.Marker // nil unless ovs.marker
	delegates *delegates.Chain
	ipam      *ipam.Service
	store     *store.Store
	records   *notedRecords // the store, as the engine has it
	engine    *attach.Engine
	planner   *meta.Planner
	cni       *cni.Server
	metrics   *metrics.Metrics
	ready     atomic.Bool
	tasks     sync.WaitGroup
}

// Run starts the daemon, serves until the context ends, and stops gracefully: requests in flight
// are finished, established interfaces go on forwarding.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) error {
	d := &Daemon{cfg: cfg, version: version, log: log.With("node", cfg.Node)}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stop()
		d.tasks.Wait()
		d.closeEtcd()
	}()
	if err := d.installPlugin(); err != nil {
		return err
	}
	cniListener, err := unixsock.Listen(cfg.Listen.CNI)
	if err != nil {
		return err
	}
	defer cniListener.Close()
	apiListener, err := unixsock.Listen(cfg.Listen.API)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	if err := d.build(ctx); err != nil {
		return err
	}
	d.start(background)
	servers, err := d.listen(cniListener, apiListener)
	if err != nil {
		return err
	}
	recoverErr := d.recover(ctx, background)
	if recoverErr == nil {
		d.ready.Store(true)
		d.cni.Ready()
		d.tasks.Go(func() { d.keepInstalled(background) })
		d.log.Info("patchbayd is ready", "version", version, "cni", cfg.Listen.CNI, "api", cfg.Listen.API)
		d.tasks.Go(func() { d.keepDraining(background) })
		d.tasks.Go(func() { d.engine.RunGC(background, time.Duration(cfg.GC.Interval)) })
		select {
		case <-ctx.Done():
		case recoverErr = <-d.etcdFailed():
		}
	}
	d.log.Info("stopping: requests in flight are finished first")
	d.ready.Store(false)
	return errors.Join(recoverErr, servers.shutdown(drainTimeout))
}

// build makes everything and starts only etcd.
func (d *Daemon) build(ctx context.Context) error {
	if err := d.openCatalog(); err != nil {
		return err
	}
	if err := d.openEtcd(ctx); err != nil {
		return err
	}
	bridges := map[string]ovs.Bridge{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = ovs.Bridge(b)
	}
	commit := etcd.NewCommitter(d.kv)
	d.native = ovs.New(ovs.NewDB(d.cfg.OVS.DB, d.log), ovs.Options{Node: d.cfg.Node, Bridges: bridges}, d.log)
	plan, binDirs, err := d.planConfig()
	if err != nil {
		return err
	}
	d.delegates = delegates.NewChain(exec.New(exec.NewRunner(exec.RunnerOptions{Dirs: binDirs, Root: d.cfg.Meta.DelegateRoot,
		Deadline: time.Duration(d.cfg.Meta.DelegateTimeout), Limit: d.cfg.Meta.DelegateLimit,
		Env: []string{cniwire.SocketEnv + "=" + d.cfg.Listen.CNI, cniwire.QueueEnv + "=" + d.queueDir()}})), d.native)
	book := ledger.New(d.kv, commit, d.cfg.Etcd.Prefix, d.cfg.Node)
	d.ipam = ipam.NewService(ipam.Options{Ledger: book, Modes: map[string]ipam.Mode{ipam.ModeNode: node.New(book)},
		Defined: d.cfg.IPAM.Pools, IPAMClaims: d.claims, Log: d.log})
	d.store = store.New(d.kv, commit, d.cfg.Etcd.Prefix, d.cfg.Node, d.log)
	boot, err := netns.BootID()
	if err != nil {
		return err
	}
	d.records = noteRecords(d.store, filepath.Join(d.cfg.StateDir, "recorded"), boot, d.log)
	d.planner = meta.NewPlanner(d.catalog, plan)
	d.metrics = metrics.New(metrics.Gauges{Attachments: d.countAttachments, Failing: d.countStuck(attach.Failed), Abandoned: d.countStuck(attach.Abandoned), DelQueue: d.countQueue, Ready: d.countReady})
	d.engine, err = attach.New(attach.Options{Node: d.cfg.Node, Records: d.records, Delegates: d.delegates, IPAM: d.ipam,
		GCGrace: time.Duration(d.cfg.GC.Grace),
		GiveUp:  attach.GiveUp{Attempts: d.cfg.GC.GiveUp.Attempts, After: time.Duration(d.cfg.GC.GiveUp.After)}, Mend: d.cfg.GC.Mend, Log: d.log, Meter: d.metrics})
	if err != nil {
		return err
	}
	d.cni = cni.New(cni.Options{Engine: d.engine, Planner: d.planner, Catalog: d.catalog, IPAM: d.ipam,
		Probe: d.probe, Log: d.log, Observe: d.metrics.Observe})
	return nil
}

func (d *Daemon) openEtcd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if len(d.cfg.Etcd.Endpoints) == 0 {
		if d.kube != nil {
			d.log.Warn("etcd.endpoints is empty: the embedded etcd knows this node only, and a cluster of more would give out addresses twice")
		}
		e, err := etcd.StartEmbedded(ctx, d.cfg.StateDir)
		if err != nil {
			return err
		}
		d.embedded, d.kv = e, e.Client
		return nil
	}
	var err error
	t := d.cfg.Etcd.TLS
	d.kv, err = etcd.Dial(etcd.Options{Endpoints: d.cfg.Etcd.Endpoints, Cert: t.Cert, Key: t.Key, CA: t.CA,
		Username: d.cfg.Etcd.Username, PasswordFile: d.cfg.Etcd.PasswordFile})
	if err != nil {
		return err
	}
	return etcd.Ready(ctx, d.kv)
}

func (d *Daemon) closeEtcd() {
	switch {
	case d.embedded != nil:
		d.embedded.Close()
	case d.kv != nil:
		_ = d.kv.Close()
	}
}

func (d *Daemon) etcdFailed() <-chan error {
	if d.embedded == nil {
		return nil
	}
	return d.embedded.Err()
}

func (d *Daemon) start(ctx context.Context) {
	d.tasks.Go(func() { d.native.Run(ctx) })
	d.tasks.Go(func() { d.store.Live(ctx, d.kv) })
	d.runCatalog(ctx)
}

// recover brings what is to what is recorded, and works off the DELs that were queued meanwhile.
// Only unreadable records keep the daemon from serving: what it can't mend now, GC tries again, and
// without Open vSwitch recovery goes on in the background.
func (d *Daemon) recover(ctx, background context.Context) error {
	hadRecords := d.records.had()
	if err := d.engine.Load(ctx); err != nil {
		return err
	}
	// Until it is known which interfaces have no record, the node says that records may be lost.
	lost, err := d.store.Lost(ctx)
	if err != nil {
		return err
	}
	lost = lost || hadRecords && len(d.engine.Sandboxes())+len(d.engine.Unreadable()) == 0
	if err := d.register(ctx, lost); err != nil {
		return err
	}
	mend := func(ctx context.Context) {
		kept, err := d.engine.Recover(ctx, lost)
		if err != nil {
			d.log.Error("recovery is incomplete; what is left is tried again", "error", err)
			return
		}
		if lost && !kept {
			d.records.settle()
			if err := d.register(ctx, false); err != nil {
				d.log.Error("the node's record is not written", "error", err)
			}
		}
	}
	if d.native.Await(ctx, ovsWait) {
		mend(ctx)
	} else if ctx.Err() == nil {
		d.log.Error("Open vSwitch is away: serving without it, recovery follows once it is back", "db", d.cfg.OVS.DB)
		d.tasks.Go(func() {
			for background.Err() == nil {
				if d.native.Await(background, ovsWait) {
					mend(background)
					return
				}
			}
		})
	}
	d.awaitCatalog(ctx)
	d.drain(ctx)
	return ctx.Err()
}

// drain works off the DELs that were queued while the daemon was away.
func (d *Daemon) drain(ctx context.Context) {
	n, err := delqueue.Drain(d.queueDir(), func(c delqueue.Call) error { return d.cni.Drain(ctx, c) })
	if err != nil {
		d.log.Error("queued DELs", "error", err)
	}
	if n > 0 {
		d.log.Info("queued DELs are done", "count", n)
	}
}

// keepDraining repeats queued DELs that failed.
func (d *Daemon) keepDraining(ctx context.Context) {
	tick := time.NewTicker(time.Duration(d.cfg.GC.Interval))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if d.countQueue() > 0 {
				d.drain(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (d *Daemon) register(ctx context.Context, lost bool) error {
	bridges := map[string]string{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = b.Name
	}
	return d.store.Register(ctx, store.Node{Node: d.cfg.Node, BootID: d.records.boot, Version: d.version, Bridges: bridges, RecordsLost: lost})
}

func (d *Daemon) queueDir() string { return filepath.Join(d.cfg.StateDir, "del-queue") }

// probe says whether an ADD could be served.
func (d *Daemon) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := etcd.Ready(ctx, d.kv); err != nil {
		return types.NewError(cniwire.ErrPluginNotAvailable, err.Error(), "")
	}
	if d.kube != nil && !d.kube.Synced() {
		return types.NewError(cniwire.ErrPluginNotAvailable, "the API server has not answered since patchbayd started", "")
	}
	if len(d.cfg.OVS.Bridges) > 0 && !d.native.Connected() {
		return types.NewError(cniwire.ErrLimitedConnection, "Open vSwitch does not answer at "+d.cfg.OVS.DB, "")
	}
	wanted, err := d.planner.Plan(ctx, meta.Pod{}, "eth0", nil)
	if err != nil {
		return types.NewError(cniwire.ErrPluginNotAvailable, err.Error(), "")
	}
	for _, w := range wanted {
		if err := d.delegates.Status(ctx, w.Config); err != nil {
			return fmt.Errorf("network %s: %w", w.Config.Name, err)
		}
	}
	return nil
}

func (d *Daemon) countAttachments() float64 {
	n := 0
	for _, s := range d.engine.Sandboxes() {
		n += len(s.Attachments)
	}
	return float64(n)
}

func (d *Daemon) countStuck(phase attach.Phase) func() float64 {
	return func() float64 { return float64(len(d.engine.Stuck(phase))) }
}

func (d *Daemon) countQueue() float64 {
	n, err := delqueue.Len(d.queueDir())
	if err != nil {
		return -1
	}
	return float64(n)
}

func (d *Daemon) countReady() float64 {
	if d.ready.Load() {
		return 1
	}
	return 0
}

func (d *Daemon) apiOptions() api.Options {
	return api.Options{Engine: d.engine, Planner: d.planner, IPAM: d.ipam, Nodes: d.store.Nodes, Networks: d.catalog.Networks,
		Doctor: d.examine, InlineTypes: d.cfg.API.InlineTypes, Version: d.version, Log: d.log, Observe: d.metrics.Observe}
}
