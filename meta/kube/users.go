package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"k8s.io/klog/v2"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/meta"
)

// ErrNotSynced says that not all pods have been read yet.
var ErrNotSynced = fault.New(fault.Unavailable, "not all pods have been read yet")

// running leaves out the pods that have ended, which use nothing any more.
const running = "status.phase!=Succeeded,status.phase!=Failed"

// Users knows which pods of the cluster use which networks: by what they ask for, and by what their network-status
// says they have. It follows all pods, and of those that use no network it keeps nothing.
type Users struct {
	client metadata.Interface
	log    klog.Logger

	mu     sync.Mutex
	synced bool
	pods   map[string][]string            // pod -> networks, both namespace/name
	of     map[string]map[string]struct{} // network -> pods
}

// NewUsers returns the users of a cluster. Run fills it.
func NewUsers(cfg *rest.Config, log *slog.Logger) (*Users, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for pods: %w", err)
	}
	return &Users{client: client, log: logr.FromSlogHandler(log.Handler()), pods: map[string][]string{}, of: map[string]map[string]struct{}{}}, nil
}

// Of returns the pods, namespace/name, that use a network, namespace/name; or ErrNotSynced.
func (u *Users) Of(network string) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.synced {
		return nil, ErrNotSynced
	}
	return slices.Sorted(maps.Keys(u.of[network])), nil
}

// Synced reports whether all pods have been read once.
func (u *Users) Synced() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.synced
}

// Run follows the pods until the context ends.
func (u *Users) Run(ctx context.Context) {
	pods := u.client.Resource(Pods)
	of := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = running
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = running
			return pods.Watch(ctx, o)
		},
	}, u.client)
	cache.NewReflectorWithOptions(of, &metav1.PartialObjectMetadata{}, (*podStore)(u), cache.ReflectorOptions{Logger: &u.log, Name: "pods"}).RunWithContext(klog.NewContext(ctx, u.log))
}

// podStore is what the reflector writes to. It implements cache.TransformingStore.
type podStore Users

func (s *podStore) Transformer() cache.TransformFunc { return slim }
func (s *podStore) Resync() error                    { return nil }
func (s *podStore) Add(o any) error                  { return s.Update(o) }

func (s *podStore) Update(o any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(o.(*metav1.PartialObjectMetadata))
	return nil
}

func (s *podStore) Delete(o any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := o.(*metav1.PartialObjectMetadata)
	s.remove(p.Namespace + "/" + p.Name)
	return nil
}

func (s *podStore) Replace(all []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.pods)
	clear(s.of)
	for _, o := range all {
		s.set(o.(*metav1.PartialObjectMetadata))
	}
	s.synced = true
	return nil
}

func (s *podStore) set(o *metav1.PartialObjectMetadata) {
	pod := o.Namespace + "/" + o.Name
	s.remove(pod)
	networks := used(toPod(o))
	if len(networks) == 0 {
		return
	}
	s.pods[pod] = networks
	for _, n := range networks {
		if s.of[n] == nil {
			s.of[n] = map[string]struct{}{}
		}
		s.of[n][pod] = struct{}{}
	}
}

func (s *podStore) remove(pod string) {
	for _, n := range s.pods[pod] {
		if delete(s.of[n], pod); len(s.of[n]) == 0 {
			delete(s.of, n)
		}
	}
	delete(s.pods, pod)
}

// used are the networks, namespace/name, that a pod asks for or has.
func used(p *meta.Pod) []string {
	var networks []string
	if sels, err := meta.ParseNetworks(p.Annotations[meta.NetworksAnnotation], p.Namespace); err == nil {
		for _, s := range sels {
			networks = append(networks, s.Ref())
		}
	}
	var status []meta.NetworkStatus
	if json.Unmarshal([]byte(p.Annotations[meta.StatusAnnotation]), &status) == nil {
		for _, s := range status {
			networks = append(networks, s.Name)
		}
	}
	slices.Sort(networks)
	return slices.Compact(networks)
}

// eachPod calls fn with every pod that list returns, a page at a time.
func eachPod[L, P runtime.Object](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), fn func(P)) error {
	pages := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) { return list(ctx, opts) })
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		fn(o.(P))
		return nil
	})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	return nil
}
