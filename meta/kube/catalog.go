// Package kube is the catalog of pods and networks of a node in a cluster: the API server, through
// informers. It keeps the pods of this node only, and of their metadata only what is needed.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/patchbay-cni/patchbay/meta"
)

// Pods is the resource of pods.
var Pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// resync is how often everything is looked at again, should an event have been missed.
const resync = 10 * time.Minute

// mirrorOf is what kubelet notes on the API's copy of a static pod: the UID by which the runtime
// knows the pod.
const mirrorOf = "kubernetes.io/config.mirror"

// A Catalog answers from its caches, and asks the API server when they are behind.
type Catalog struct {
	*NetworkCache
	meta metadata.Interface
	pods cache.SharedIndexInformer
}

// New returns the catalog for a node. Run fills its caches.
func New(cfg *rest.Config, node string, log *slog.Logger) (*Catalog, error) {
	m, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for pods: %w", err)
	}
	n, err := NewNetworkCache(cfg, log)
	if err != nil {
		return nil, err
	}
	s := &Catalog{NetworkCache: n, meta: m}
	s.pods = metadatainformer.NewFilteredMetadataInformer(m, Pods, metav1.NamespaceAll, resync, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}).Informer()
	return s, prepare(s.pods, "pods", log)
}

// prepare sets an informer up before it runs.
func prepare(i cache.SharedIndexInformer, what string, log *slog.Logger) error {
	if err := i.SetTransform(slim); err != nil {
		return err
	}
	return i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			log.Warn("the API server is not followed, trying on", "resource", what, "error", err)
		}
	})
}

// Run keeps the caches until the context ends.
func (s *Catalog) Run(ctx context.Context) {
	var networks sync.WaitGroup
	networks.Go(func() { s.NetworkCache.Run(ctx) })
	s.pods.RunWithContext(ctx)
	networks.Wait()
}

// Await waits until the caches are filled, and reports whether they are.
func (s *Catalog) Await(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return cache.WaitForCacheSync(ctx.Done(), s.pods.HasSynced, s.nads.HasSynced)
}

// Synced reports whether the caches have been filled once.
func (s *Catalog) Synced() bool { return s.pods.HasSynced() && s.NetworkCache.Synced() }

// OnPod has fn called with every pod of this node that is new or has changed, and now and then with
// all of them.
func (s *Catalog) OnPod(fn func(meta.Pod)) error {
	tell := func(o any) { fn(*toPod(o.(*metav1.PartialObjectMetadata))) }
	_, err := s.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }})
	return err
}

// Cached returns a pod as it is in the cache, or nil.
func (s *Catalog) Cached(namespace, name string) *meta.Pod {
	o, ok, err := s.pods.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	return toPod(o.(*metav1.PartialObjectMetadata))
}

// Pod implements meta.Catalog.
func (s *Catalog) Pod(ctx context.Context, namespace, name, uid string) (*meta.Pod, error) {
	if p := s.Cached(namespace, name); p != nil && p.Is(uid) {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	o, err := s.meta.Resource(Pods).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, classify("pod "+namespace+"/"+name, err)
	}
	p := toPod(o)
	if !p.Is(uid) {
		return nil, fmt.Errorf("pod %s/%s has UID %s by now, the sandbox is for %s: %w", namespace, name, p.UID, uid, meta.ErrReplaced)
	}
	return p, nil
}

// classify says what an error of the API server means to the caller.
func classify(what string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", what, meta.ErrNotFound)
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return fmt.Errorf("%s: %w: %w (have the credentials expired, or is RBAC missing?)", what, meta.ErrUnavailable, err)
	}
	return fmt.Errorf("%s is not in the cache: %w: %w", what, meta.ErrUnavailable, err)
}

func toPod(o *metav1.PartialObjectMetadata) *meta.Pod {
	return &meta.Pod{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), MirrorOf: o.Annotations[mirrorOf],
		Version: o.ResourceVersion, Annotations: o.Annotations}
}

// slim drops what nobody needs of an object before it is cached.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *metav1.PartialObjectMetadata:
		return &metav1.PartialObjectMetadata{ObjectMeta: slimMeta(o.ObjectMeta)}, nil
	case *nad.NetworkAttachmentDefinition:
		return &nad.NetworkAttachmentDefinition{ObjectMeta: slimMeta(o.ObjectMeta), Spec: o.Spec}, nil
	}
	return o, nil // a tombstone
}

func slimMeta(o metav1.ObjectMeta) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, Annotations: map[string]string{}}
	for k, v := range o.Annotations {
		if strings.Contains(k, "cni") || k == mirrorOf {
			kept.Annotations[k] = v
		}
	}
	return kept
}
