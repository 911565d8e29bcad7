package marker

import (
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watched is a node. Of its capacity, only what may be ours is kept.
type watched struct {
	informer cache.SharedIndexInformer

	mu   sync.Mutex
	seen corev1.ResourceList // nil: no node
}

// watch returns the node, whose informer is to be run. It calls changed whenever the capacity is another.
func watch(clients kubernetes.Interface, name string, changed func()) *watched {
	w := &watched{informer: informers.NewFilteredNodeInformer(clients, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	})}
	tell := func(o any) {
		if n, ok := o.(*corev1.Node); ok && n.Name == name && w.saw(n) {
			changed()
		}
	}
	// Both fail only with an informer that runs already.
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }})
	_ = w.informer.SetTransform(strip)
	return w
}

// saw takes over the node's capacity and reports whether it is another than before.
func (w *watched) saw(n *corev1.Node) (changed bool) {
	now := ours(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	changed = w.seen == nil || !maps.EqualFunc(w.seen, now, resource.Quantity.Equal)
	w.seen = now
	return changed
}

// capacity returns nil as long as nothing is known of the node.
func (w *watched) capacity() corev1.ResourceList {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
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
