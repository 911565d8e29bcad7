package marker

import (
	"context"
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watched is a node, of which only the capacity that may be ours is kept.
type watched struct {
	informer cache.Controller

	mu   sync.Mutex
	seen corev1.ResourceList // nil: no node
}

// watch returns the node; changed is called whenever its capacity is another.
func watch(clients kubernetes.Interface, name string, changed func()) *watched {
	w, nodes := &watched{}, clients.CoreV1().Nodes()
	one := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
	tell := func(o any) {
		if n, ok := o.(*corev1.Node); ok && n.Name == name && w.saw(n) {
			changed()
		}
	}
	_, w.informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				one(&o)
				return nodes.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
				one(&o)
				return nodes.Watch(ctx, o)
			},
		}, clients),
		ObjectType: &corev1.Node{},
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }},
		Transform:  strip,
	})
	return w
}

// run follows the node until the context ends; stop waits for that.
func (w *watched) run(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.informer.RunWithContext(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

func (w *watched) saw(n *corev1.Node) (changed bool) {
	now := ours(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	changed = w.seen == nil || !maps.EqualFunc(w.seen, now, sameQuantity)
	w.seen = now
	return changed
}

func (w *watched) capacity() (corev1.ResourceList, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen, w.seen != nil
}

// strip keeps the copy small.
func strip(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
		Status: corev1.NodeStatus{Capacity: ours(n)}}, nil
}

func ours(n *corev1.Node) corev1.ResourceList {
	l := corev1.ResourceList{}
	for name, q := range n.Status.Capacity {
		if strings.HasPrefix(string(name), Prefix) {
			l[name] = q
		}
	}
	return l
}

func sameQuantity(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }
