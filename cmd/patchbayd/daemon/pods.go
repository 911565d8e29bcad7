package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/attach/sinks"
	kubesink "github.com/patchbay-cni/patchbay/attach/sinks/kube"
	"github.com/patchbay-cni/patchbay/delegates/ovs/marker"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/manifest"
)

// syncWait is how long the start waits for the API server; the caches may also fill later.
const syncWait = 10 * time.Second

// A podSource is where pods and networks come from, and what goes with it: the API server, or a
// directory of manifests.
type podSource struct {
	catalog interface {
		meta.Catalog
		Networks() []meta.Network
	}
	devices    meta.Devices    // nil: pods have none
	ipamClaims ipam.IPAMClaims // nil: there are none
	// unaskedGrace is how long a pod's namespace must be gone if no runtime can be asked for the pod.
	unaskedGrace time.Duration
	trusted      []string // namespaces whose networks may reach the node itself, unless it is configured
	// tasks follow the source, and tell it what has become of its pods.
	tasks func() []Task
	// await waits for the first answers, as long as it is worth it; nil: all is known from the start.
	await func(ctx context.Context) error
}

// openPods chooses the source.
func (d *Daemon) openPods() (podSource, error) {
	enabled := d.cfg.Kubernetes.Enabled
	cfg, err := kube.Config(d.cfg.Kubernetes.Kubeconfig, "patchbayd/"+d.version)
	switch {
	case enabled == "false", enabled == "auto" && errors.Is(err, kube.ErrNone):
		return d.standalone()
	case err != nil:
		return podSource{}, fmt.Errorf("kubernetes.enabled=%s: %w", enabled, err)
	}
	return d.cluster(cfg)
}

func (d *Daemon) standalone() (podSource, error) {
	if d.cfg.OVS.Marker {
		return podSource{}, fmt.Errorf("ovs.marker publishes bridges as resources of a Kubernetes node: %w", kube.ErrNone)
	}
	manifests := manifest.New(d.cfg.Standalone.Manifests, d.log)
	check := func(context.Context) (string, error) {
		errs := manifests.Errors()
		var all []error
		for _, path := range slices.Sorted(maps.Keys(errs)) {
			all = append(all, errs[path])
		}
		return d.cfg.Standalone.Manifests + " is readable", errors.Join(all...)
	}
	tasks := []Task{{Name: "manifests", Run: until(manifests.Run), Check: check}}
	// Who writes the manifests is root.
	return podSource{catalog: manifests, trusted: []string{"*"}, tasks: func() []Task { return tasks }}, nil
}

func (d *Daemon) cluster(cfg *rest.Config) (s podSource, err error) {
	catalog, err := kube.New(cfg, d.cfg.Node, d.log)
	if err != nil {
		return s, err
	}
	status, err := kubesink.New(cfg, catalog, d.cfg.Node, d.cfg.Kubernetes.Events == "all", d.log)
	if err != nil {
		return s, err
	}
	published, err := kube.NewSlices(cfg)
	if err != nil {
		return s, err
	}
	if s.ipamClaims, err = kube.NewIPAMClaims(cfg); err != nil {
		return s, err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return s, fmt.Errorf("client for the node's resources: %w", err)
	}
	s.catalog, s.unaskedGrace = catalog, 15*time.Minute
	s.devices = kube.Kubelet{Socket: d.cfg.Kubernetes.PodResources, Published: published}
	s.tasks = func() []Task {
		tasks := []Task{
			{Name: "kubernetes", Vital: true, Run: until(catalog.Run), Check: func(context.Context) (string, error) {
				if !catalog.Synced() {
					return "", errors.New("the API server has not answered since patchbayd started")
				}
				return "pods and networks are followed", nil
			}},
			{Name: "sink", Run: until(sinks.Follow(d.engine, status, d.log))},
			{Name: "network-status", Run: until(func(ctx context.Context) {
				if err := status.Run(ctx, d.engine.Pod); err != nil {
					d.log.Error("network-status is not kept", "error", err)
				}
			})},
		}
		tasks = append(tasks, d.reclaiming(kube.NodeGone(clients)))
		if d.cfg.OVS.Marker {
			tasks = append(tasks, d.marking(clients))
		}
		return tasks
	}
	// Some calls need no answer: every DEL, and an ADD with the pod's annotations from the runtime.
	s.await = func(ctx context.Context) error {
		if !catalog.Await(ctx, syncWait) && ctx.Err() == nil {
			d.log.Error("the API server does not answer: serving from what is recorded, its answers follow once it is back")
		}
		return nil
	}
	d.log.Info("pods and networks come from the API server", "server", cfg.Host)
	if len(d.cfg.Etcd.Endpoints) == 0 {
		d.log.Warn("etcd.endpoints is empty: the embedded etcd knows this node only, and a cluster of more would give out addresses twice")
	}
	return s, nil
}

// marking publishes the bridges as resources of the node.
func (d *Daemon) marking(clients kubernetes.Interface) Task {
	uplinks := map[string][]string{}
	for _, b := range d.cfg.OVS.Bridges {
		if len(b.Uplinks) > 0 {
			uplinks[b.Name] = b.Uplinks
		}
	}
	m := marker.New(marker.Options{Node: d.cfg.Node, Clients: clients, Uplinks: uplinks, Log: d.log,
		Bridges: d.native.Bridges, HasPort: d.native.HasPort})
	return Task{Name: "marker", Run: until(m.Run)}
}
