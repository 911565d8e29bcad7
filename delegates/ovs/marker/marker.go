// Package marker publishes the bridges of Open vSwitch as extended resources of the node, as ovs-cni's
// marker does, so that the scheduler puts pods where their networks are.
package marker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/patchbay-cni/patchbay/internal/link"
)

// Prefix is followed by the bridge's name in the name of a resource.
const Prefix = "ovs-cni.network.kubevirt.io/"

const (
	// quantity is ovs-cni's. It stands for infinity: no node has more pods.
	quantity = "1000"
	// patchTimeout bounds one request.
	patchTimeout = 10 * time.Second
	// firstRetry and lastRetry bound the wait after a request that failed.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Options are what a Marker is made of.
type Options struct {
	Node    string
	Clients kubernetes.Interface
	// Bridges returns the bridges that are there, whether they are known at all, and a channel that is
	// closed when that may have changed.
	Bridges func() (names []string, known bool, changed <-chan struct{})
	// HasPort reports whether a bridge has a port of that name. Bridges' channel tells of its changes, too.
	HasPort func(name string) bool
	// Uplinks are those of bridges, by the bridge's name. A bridge that has lost one is not published.
	Uplinks map[string][]string
	Log     *slog.Logger
}

// A Marker keeps the node's capacity equal to the bridges. It always compares all of both: what was missed, or
// could not be written, is made good the next time.
type Marker struct {
	Options
	wake   chan struct{} // has an entry when links or the node may have changed
	node   *watched
	warned map[string]bool // bridges whose names can't be a resource's
}

// New returns a Marker. Run runs it.
func New(o Options) *Marker {
	m := &Marker{Options: o, wake: make(chan struct{}, 1), warned: map[string]bool{}}
	m.node = watch(o.Clients, o.Node, m.look)
	return m
}

// look has Run compare everything again.
func (m *Marker) look() {
	select {
	case m.wake <- struct{}{}:
	default: // Run is about to do it
	}
}

// Run publishes until the context ends. What is published stays then, as the bridges do.
func (m *Marker) Run(ctx context.Context) {
	var followers sync.WaitGroup
	defer followers.Wait()
	followers.Go(func() { m.node.informer.RunWithContext(ctx) })
	if len(m.Uplinks) > 0 {
		followers.Go(func() { watchLinks(ctx, m.look, m.Log) })
	}
	wait := firstRetry
	for {
		names, known, changed := m.Bridges()
		err := m.publish(ctx, names, known)
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			m.Log.Error("bridges are not published as resources of the node; trying on", "error", err, "again", wait)
			again = time.After(wait)
			wait = min(2*wait, lastRetry)
		} else {
			wait = firstRetry
		}
		select {
		case <-changed:
		case <-m.wake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// publish compares the node with the bridges and writes what differs.
func (m *Marker) publish(ctx context.Context, names []string, known bool) error {
	capacity := m.node.capacity()
	if capacity == nil {
		return nil // the first that is heard of the node wakes Run
	}
	changes := m.changes(capacity, names, known)
	if len(changes) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"capacity": changes}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	// Kubelet then derives what is allocatable.
	n, err := m.Clients.CoreV1().Nodes().Patch(ctx, m.Node, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("capacity of node %s: %w", m.Node, err)
	}
	m.node.saw(n)
	m.Log.Info("bridges are published as resources of the node", "capacity", string(patch))
	return nil
}

// changes returns what is to be written, nil for what is to be removed. Zero is what kubelet makes of every extended
// resource when a node is set up again. Any other quantity than zero and ours was published by somebody else and
// stays. While the bridges are not known, only bridges that have lost an uplink are removed.
func (m *Marker) changes(capacity corev1.ResourceList, names []string, known bool) map[string]*string {
	full := quantity
	amount := resource.MustParse(full)
	changes, wanted := map[string]*string{}, map[string]bool{}
	for _, bridge := range names {
		if m.valid(bridge) && m.connected(bridge, known) {
			wanted[bridge] = true
			if q, has := capacity[corev1.ResourceName(Prefix+bridge)]; !has || q.IsZero() {
				changes[Prefix+bridge] = &full
			}
		}
	}
	for name, q := range capacity {
		bridge, is := strings.CutPrefix(string(name), Prefix)
		if is && !wanted[bridge] && (known || !m.connected(bridge, false)) && (q.IsZero() || q.Cmp(amount) == 0) {
			changes[string(name)] = nil
		}
	}
	return changes
}

// valid reports whether a resource can have the bridge's name, and says so once if it can't.
func (m *Marker) valid(bridge string) bool {
	errs := validation.IsQualifiedName(Prefix + bridge)
	if len(errs) > 0 && !m.warned[bridge] {
		m.warned[bridge] = true
		m.Log.Warn("bridge is not published: its name can't be a resource's", "bridge", bridge, "reason", strings.Join(errs, "; "))
	}
	return len(errs) == 0
}

// connected reports whether the bridge's uplinks are there as links, and, if ports are known, as ports.
func (m *Marker) connected(bridge string, known bool) bool {
	for _, uplink := range m.Uplinks[bridge] {
		if link.IsGone(uplink) || known && !m.HasPort(uplink) {
			return false
		}
	}
	return true
}
