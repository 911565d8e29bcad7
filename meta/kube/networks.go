package kube

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	nadinformers "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/informers/externalversions/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/patchbay-cni/patchbay/meta"
)

// A NetworkCache has all NetworkAttachmentDefinitions.
type NetworkCache struct {
	nad  nadclient.Interface
	nads cache.SharedIndexInformer
}

// NewNetworkCache returns the cache. Run fills it.
func NewNetworkCache(cfg *rest.Config, log *slog.Logger) (*NetworkCache, error) {
	n, err := nadclient.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for NetworkAttachmentDefinitions: %w", err)
	}
	c := &NetworkCache{nad: n, nads: nadinformers.NewNetworkAttachmentDefinitionInformer(n, metav1.NamespaceAll, resync, cache.Indexers{})}
	return c, prepare(c.nads, "NetworkAttachmentDefinitions", log)
}

// Run keeps the cache until the context ends.
func (c *NetworkCache) Run(ctx context.Context) { c.nads.RunWithContext(ctx) }

// Synced reports whether the cache has been filled once.
func (c *NetworkCache) Synced() bool { return c.nads.HasSynced() }

// Network implements meta.Catalog.
func (c *NetworkCache) Network(ctx context.Context, namespace, name string) (*meta.Network, error) {
	if o, ok, err := c.nads.GetStore().GetByKey(namespace + "/" + name); err == nil && ok {
		return toNetwork(o.(*nad.NetworkAttachmentDefinition)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	o, err := c.nad.K8sCniCncfIoV1().NetworkAttachmentDefinitions(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, classify("NetworkAttachmentDefinition "+namespace+"/"+name, err)
	}
	return toNetwork(o), nil
}

// Networks returns all networks, sorted by namespace and name.
func (c *NetworkCache) Networks() []meta.Network {
	var all []meta.Network
	for _, o := range c.nads.GetStore().List() {
		all = append(all, *toNetwork(o.(*nad.NetworkAttachmentDefinition)))
	}
	slices.SortFunc(all, meta.ByName)
	return all
}

func toNetwork(o *nad.NetworkAttachmentDefinition) *meta.Network {
	return &meta.Network{Namespace: o.Namespace, Name: o.Name, Config: o.Spec.Config, Resource: o.Annotations[meta.ResourceAnnotation]}
}
