// Package daemon wires patchbayd: the packages of the project, by the configuration.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/cni"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/exec"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/delegates/ovs/bridge"
	"github.com/patchbay-cni/patchbay/delegates/ovs/shield"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/cri"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/metrics"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/unixsock"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
	"github.com/patchbay-cni/patchbay/ipam/node"
	"github.com/patchbay-cni/patchbay/meta"
)

// drainTimeout is how long requests in flight have to be finished.
const drainTimeout = 20 * time.Second

// A Daemon is patchbayd, built.
type Daemon struct {
	cfg     config.Config
	version string
	log     *slog.Logger

	pods      podSource
	native    *ovs.Delegate
	shield    *shield.Shield
	delegates *delegates.Chain
	ledger    *ledger.Ledger
	ipam      *ipam.Service
	store     *store.Store
	guard     *etcd.Guard
	mirror    *etcd.Mirror
	boot      string // boot ID
	runtime   *cri.Runtime
	engine    *attach.Engine
	planner   *meta.Planner
	cni       *cni.Server
	metrics   *metrics.Metrics
	tasks     []Task
	ready     atomic.Bool
	faults    atomic.Int64  // of pools, when they were looked at last
	bypassed  atomic.Bool   // the runtime does not take our configuration
	ending    chan struct{} // closed when requests in flight are to be finished
	deciding  sync.Mutex
	decided   chan struct{} // closed by decide, when an operator has decided what becomes of a suspended node
	decide    func()
}

// Run starts the daemon, serves until the context ends, and stops gracefully: requests in flight
// are finished, established interfaces go on forwarding.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) error {
	d := &Daemon{cfg: cfg, version: version, log: log.With("node", cfg.Node), ending: make(chan struct{}), decided: make(chan struct{})}
	d.decide = sync.OnceFunc(func() { close(d.decided) })
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
	if d.pods, err = d.openPods(); err != nil {
		return err
	}
	database, kv, end, err := d.openEtcd(ctx)
	if err != nil {
		return err
	}
	defer end()
	d.runtime = cri.New(cfg.CRI.Endpoint, cfg.Meta.DelegateRoot)
	defer d.runtime.Close()
	if err := d.build(kv); err != nil {
		return err
	}
	d.tasks = slices.Concat([]Task{
		database,
		d.namespaces(),
		d.identity(),
		d.decision(),
		{Name: "sign-of-life", Run: until(func(ctx context.Context) { d.store.Live(ctx, kv) })},
		{Name: "openvswitch", Run: until(d.native.Run), Check: d.checkOVS, Vital: len(cfg.OVS.Bridges) > 0},
		{Name: "bridges", Check: d.checkBridges},
		{Name: "shield", Run: until(d.shield.Run), Ready: d.shield.Ready, Check: d.shield.Check},
	}, d.pods.tasks(), []Task{
		d.recovery(),
		{Name: "first-answers", Ready: d.pods.await},
		{Name: "serving", Ready: d.open},
		d.delQueue(),
		d.poolFaults(),
		d.installation(),
		{Name: "gc", Run: until(func(ctx context.Context) { d.engine.RunGC(ctx, cfg.GC.Interval, d.native.Lost(), d.guard.Resumed()) })},
	})
	servers, err := d.listen(cniListener, apiListener)
	if err != nil {
		return err
	}
	return d.runTasks(ctx, d.tasks, func() error {
		d.ready.Store(false)
		close(d.ending)
		defer d.cni.Close()
		return servers.shutdown(drainTimeout)
	})
}

// open lets calls in.
func (d *Daemon) open(context.Context) error {
	d.ready.Store(true)
	d.cni.Ready()
	d.log.Info("patchbayd is ready", "version", d.version, "cni", d.cfg.Listen.CNI, "api", d.cfg.Listen.API)
	return nil
}

// build makes everything, and starts nothing.
func (d *Daemon) build(kv *clientv3.Client) error {
	bridges := map[string]bridge.Declared{}
	for role, b := range d.cfg.OVS.Bridges {
		bridges[role] = bridge.Declared(b)
	}
	var err error
	if d.boot, err = netns.BootID(); err != nil {
		return err
	}
	if d.mirror, err = etcd.OpenMirror(filepath.Join(d.cfg.StateDir, "mirror"), d.boot, d.log); err != nil {
		return err
	}
	key, err := store.LoadKey(filepath.Join(d.cfg.StateDir, "records.key"))
	if err != nil {
		return err
	}
	d.guard = etcd.NewGuard(kv, d.mirror, filepath.Join(d.cfg.StateDir, "etcd.json"), d.cfg.Etcd.Prefix, d.cfg.Node, d.holds, d.log)
	commit := d.guard.Committer()
	d.native = ovs.New(vswitch.New(d.cfg.OVS.DB, d.log), ovs.Options{Node: d.cfg.Node, Bridges: bridges}, d.log)
	d.shield = shield.New(ovs.LinkGroup, d.log)
	plan, binDirs, err := d.planConfig()
	if err != nil {
		return err
	}
	d.delegates = delegates.NewChain(exec.New(exec.Options{Dirs: binDirs, Root: d.cfg.Meta.DelegateRoot,
		Deadline: d.cfg.Meta.DelegateTimeout, Limit: d.cfg.Meta.DelegateLimit,
		Env: []string{cniwire.SocketEnv + "=" + d.cfg.Listen.CNI, cniwire.QueueEnv + "=" + d.queueDir()}}), d.native)
	d.ledger = ledger.New(kv, commit, d.cfg.Etcd.Prefix, d.cfg.Node)
	perNode, err := node.New(d.ledger, filepath.Join(d.cfg.StateDir, "resting"), d.log)
	if err != nil {
		return err
	}
	d.ipam = &ipam.Service{Ledger: d.ledger, Modes: map[string]ipam.Mode{ipam.ModeNode: perNode},
		Defined: d.cfg.IPAM.Pools, IPAMClaims: d.pods.ipamClaims, Log: d.log}
	d.store = store.New(store.Options{KV: kv, Commit: commit, Prefix: d.cfg.Etcd.Prefix, Node: d.cfg.Node, Boot: d.boot, Key: key, Vet: d.vet, Written: d.guard.Copies, Log: d.log})
	d.planner = meta.NewPlanner(d.pods.catalog, plan)
	d.metrics = metrics.New(metrics.Gauges{Attachments: d.countAttachments, Failing: d.countStuck(attach.Failed), Abandoned: d.countStuck(attach.Abandoned), DelQueue: d.countQueue, Ready: d.ready.Load,
		Unreadable: func() int { return len(d.engine.Unreadable()) }, PoolFaults: func() int { return int(d.faults.Load()) }, Bypassed: d.bypassed.Load, Suspended: func() bool { return d.guard.Suspended() != nil }})
	d.engine, err = attach.New(attach.Options{Node: d.cfg.Node, Records: d.store, Suspended: d.guard.Suspended, Delegates: d.delegates, IPAM: d.ipam,
		Runtime: d.runtime, GCGrace: d.cfg.GC.Grace, UnaskedGrace: max(d.cfg.GC.Grace, d.pods.unaskedGrace),
		GiveUp: attach.GiveUp(d.cfg.GC.GiveUp), Mend: d.cfg.GC.Mend, Rehearse: d.cfg.GC.DryRun, Log: d.log, Meter: d.metrics})
	if err != nil {
		return err
	}
	d.cni = cni.New(cni.Options{Engine: d.engine, Planner: d.planner, Catalog: d.pods.catalog, IPAM: d.ipam,
		Probe: d.probe, Log: d.log, Observe: d.metrics.Observe, Queue: d.queueDir(), Away: func() bool { return commit.Away() || d.guard.Suspended() != nil }})
	return nil
}

// vet checks a record that this node has not written as it checks what a pod asks for.
func (d *Daemon) vet(s *attach.Sandbox) error {
	for _, a := range s.Attachments {
		if err := d.delegates.Installed(a.Spec.Config, s.CNIPath); err != nil {
			return fmt.Errorf("attachment %s: %w", a.Spec.Interface, err)
		}
		if namespace, _, ok := strings.Cut(a.Spec.Network, "/"); ok {
			if err := d.planner.Could(s.Namespace, a.Spec.Source, namespace); err != nil {
				return fmt.Errorf("attachment %s: %w", a.Spec.Interface, err)
			}
		}
	}
	return nil
}

// probe says why an ADD could not be served.
func (d *Daemon) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, t := range d.tasks {
		if !t.Vital {
			continue
		}
		_, err := t.Check(ctx)
		if coded := (*types.Error)(nil); errors.As(err, &coded) {
			return err
		}
		if err != nil {
			return types.NewError(cniwire.ErrPluginNotAvailable, err.Error(), "")
		}
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

func (d *Daemon) checkOVS(context.Context) (string, error) {
	if !d.native.Connected() {
		return "", types.NewError(cniwire.ErrLimitedConnection, "Open vSwitch does not answer at "+d.cfg.OVS.DB, "start ovsdb-server and ovs-vswitchd, or set ovs.db")
	}
	return "connected to " + d.cfg.OVS.DB, nil
}

func (d *Daemon) checkBridges(context.Context) (string, error) {
	return "as they are declared", d.native.Unsettled()
}

func (d *Daemon) countAttachments() (n int) {
	for _, s := range d.engine.Sandboxes() {
		n += len(s.Attachments)
	}
	return n
}

func (d *Daemon) countStuck(phase attach.Phase) func() int {
	return func() int { return len(d.engine.Stuck(phase)) }
}
