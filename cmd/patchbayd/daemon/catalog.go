package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/attach/sinks"
	kubesink "github.com/patchbay-cni/patchbay/attach/sinks/kube"
	"github.com/patchbay-cni/patchbay/delegates/ovs/marker"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/manifest"
)

// syncWait is how long the start waits for the API server; the caches may also fill later.
const syncWait = 10 * time.Second

// A catalog is where pods and networks come from, with what goes with it.
type catalog interface {
	meta.Catalog
	Networks() []meta.Network
}

// openCatalog chooses between the API server and the directory of manifests.
func (d *Daemon) openCatalog() error {
	enabled := d.cfg.Kubernetes.Enabled
	if enabled == "false" {
		return d.standalone()
	}
	cfg, err := kube.Config(d.cfg.Kubernetes.Kubeconfig, "patchbayd/"+d.version)
	if errors.Is(err, kube.ErrNone) && enabled == "auto" {
		return d.standalone()
	}
	if err != nil {
		return fmt.Errorf("kubernetes.enabled=%s: %w", enabled, err)
	}
	if d.kube, err = kube.New(cfg, d.cfg.Node, d.log); err != nil {
		return err
	}
	d.catalog = d.kube
	if d.status, err = kubesink.New(cfg, d.kube, d.cfg.Node, d.cfg.Kubernetes.Events == "all", d.log); err != nil {
		return err
	}
	if d.devices, err = kube.NewSlices(cfg); err != nil {
		return err
	}
	if d.claims, err = kube.NewIPAMClaims(cfg); err != nil {
		return err
	}
	if err = d.openMarker(cfg); err != nil {
		return err
	}
	d.log.Info("pods and networks come from the API server", "server", cfg.Host)
	return nil
}

func (d *Daemon) standalone() error {
	if d.cfg.OVS.Marker {
		return fmt.Errorf("ovs.marker publishes bridges as resources of a Kubernetes node: %w", kube.ErrNone)
	}
	d.manifests = manifest.New(d.cfg.Standalone.Manifests, d.log)
	d.catalog = d.manifests
	return nil
}

// openMarker makes what publishes the bridges, if it is wanted.
func (d *Daemon) openMarker(cfg *rest.Config) error {
	if !d.cfg.OVS.Marker {
		return nil
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client for the node's resources: %w", err)
	}
	uplinks := map[string][]string{}
	for _, b := range d.cfg.OVS.Bridges {
		if len(b.Uplinks) > 0 {
			uplinks[b.Name] = b.Uplinks
		}
	}
	d.marker = marker.New(marker.Options{Node: d.cfg.Node, Clients: clients, Uplinks: uplinks, Log: d.log,
		Bridges: func() ([]string, bool, <-chan struct{}) { return d.native.Bridges() },
		HasPort: func(name string) bool { return d.native.HasPort(name) }})
	return nil
}

// runCatalog follows the catalog until the context ends.
func (d *Daemon) runCatalog(ctx context.Context) {
	if d.kube == nil {
		d.tasks.Go(func() { d.manifests.Run(ctx) })
		return
	}
	d.tasks.Go(func() { d.kube.Run(ctx) })
	if d.marker != nil {
		d.tasks.Go(func() { d.marker.Run(ctx) })
	}
	follow := sinks.Follow(d.engine, d.status, d.log)
	d.tasks.Go(func() { follow(ctx) })
	d.tasks.Go(func() {
		if err := d.status.Run(ctx, d.engine.Pod); err != nil {
			d.log.Error("network-status is not kept", "error", err)
		}
	})
}

// awaitCatalog waits for the first answers of the API server. A pod whose annotations the runtime
// hands over, and every DEL, need none.
func (d *Daemon) awaitCatalog(ctx context.Context) {
	if d.kube != nil && !d.kube.Await(ctx, syncWait) && ctx.Err() == nil {
		d.log.Error("the API server does not answer: serving from what is recorded, its answers follow once it is back")
	}
}
