package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/meta"
)

// A Snapshot is what a cluster has, read once: a meta.Source too.
type Snapshot struct {
	Networks []meta.Network
	Pods     []meta.Pod // those that ask for networks
	// Configs are the configurations of Multus in ConfigMaps, by namespace/name/key.
	Configs map[string]string
}

// pageSize bounds what is read at a time.
const pageSize = 500

// TakeSnapshot reads a cluster.
func TakeSnapshot(ctx context.Context, cfg *rest.Config) (*Snapshot, error) {
	s := &Snapshot{Configs: map[string]string{}}
	nads, err := nadclient.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	l, err := nads.K8sCniCncfIoV1().NetworkAttachmentDefinitions("").List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("list NetworkAttachmentDefinitions: %w", err)
	}
	for i := range l.Items {
		s.Networks = append(s.Networks, *toNetwork(&l.Items[i]))
	}
	if err := s.readPods(ctx, cfg); err != nil {
		return nil, err
	}
	return s, s.readConfigs(ctx, cfg)
}

func (s *Snapshot) readPods(ctx context.Context, cfg *rest.Config) error {
	pods, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		l, err := pods.Resource(Pods).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range l.Items {
			if p := toPod(&l.Items[i]); p.Annotations[meta.NetworksAnnotation] != "" || p.Annotations[meta.DefaultNetworkAnnotation] != "" {
				s.Pods = append(s.Pods, *p)
			}
		}
		if opts.Continue = l.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// readConfigs finds the ConfigMaps of Multus' manifests: multus-daemon-config of the thick daemon,
// multus-cni-config of the thin plugin.
func (s *Snapshot) readConfigs(ctx context.Context, cfg *rest.Config) error {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	l, err := clients.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	for _, m := range l.Items {
		if !strings.HasPrefix(m.Name, "multus-") {
			continue
		}
		for key, text := range m.Data {
			s.Configs["ConfigMap "+m.Namespace+"/"+m.Name+" "+key] = text
		}
	}
	return nil
}

// Pod implements meta.Source.
func (s *Snapshot) Pod(_ context.Context, namespace, name, _ string) (*meta.Pod, error) {
	i := slices.IndexFunc(s.Pods, func(p meta.Pod) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, meta.ErrNotFound)
	}
	return &s.Pods[i], nil
}

// Network implements meta.Source.
func (s *Snapshot) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	i := slices.IndexFunc(s.Networks, func(n meta.Network) bool { return n.Namespace == namespace && n.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", namespace, name, meta.ErrNotFound)
	}
	return &s.Networks[i], nil
}
