package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/meta"
)

// A Snapshot is what a cluster has, read once. To a planner it answers for the networks, and for the
// devices: it takes it that pods get those they request.
type Snapshot struct {
	Networks []meta.Network
	Pods     []meta.Pod // those that ask for networks and have not ended
	// Requests are the extended resources that those pods request, by pod (namespace/name) and resource.
	Requests map[string]map[string]int
	// Claimers are the pods (namespace/name) with resource claims. What they get is not in their
	// manifests, so it may be any device.
	Claimers map[string]bool
	// Configs are the configurations of Multus, by where they were found.
	Configs map[string]string
}

// TakeSnapshot reads a cluster.
func TakeSnapshot(ctx context.Context, cfg *rest.Config) (*Snapshot, error) {
	s := &Snapshot{Configs: map[string]string{}, Requests: map[string]map[string]int{}, Claimers: map[string]bool{}}
	nads, err := nadclient.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(cfg)
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
	if err := eachPod(ctx, clients.CoreV1().Pods("").List, s.addPod); err != nil {
		return nil, err
	}
	return s, s.readConfigs(ctx, clients)
}

func (s *Snapshot) addPod(o *corev1.Pod) {
	p := toPod(&metav1.PartialObjectMetadata{ObjectMeta: o.ObjectMeta})
	ended := o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
	if ended || p.Annotations[meta.NetworksAnnotation] == "" && p.Annotations[meta.DefaultNetworkAnnotation] == "" {
		return
	}
	s.Pods = append(s.Pods, *p)
	s.Requests[p.Namespace+"/"+p.Name] = requests(&o.Spec)
	s.Claimers[p.Namespace+"/"+p.Name] = len(o.Spec.ResourceClaims) > 0
}

// requests are the extended resources of a pod's containers. Init containers run before the others and
// pass their devices on, but for those that stay.
func requests(spec *corev1.PodSpec) map[string]int {
	sum, most := map[string]int{}, map[string]int{}
	for i, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		ends := i < len(spec.InitContainers) && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
		for name, q := range c.Resources.Limits { // of extended resources, requests are the same
			switch n := int(q.Value()); {
			case !strings.Contains(string(name), "/"):
			case ends:
				most[string(name)] = max(most[string(name)], n)
			default:
				sum[string(name)] += n
			}
		}
	}
	for name, n := range most {
		sum[name] = max(sum[name], n)
	}
	return sum
}

// SchedulerResources is what ovs-cni's marker calls the bridges of a node. kubelet has no devices of
// them: they lead a pod to a node that has the bridge.
const SchedulerResources = "ovs-cni.network.kubevirt.io/"

// Hands implements meta.Devices.
func (s *Snapshot) Hands(_ context.Context, resource string) (bool, error) {
	return !strings.HasPrefix(resource, SchedulerResources), nil
}

// maxDevices is more than a pod can have networks.
const maxDevices = 256

// Devices implements meta.Devices, with made-up devices.
func (s *Snapshot) Devices(_ context.Context, namespace, pod string) (map[string][]string, error) {
	at := namespace + "/" + pod
	devices := map[string][]string{}
	for resource, n := range s.Requests[at] {
		for i := range min(n, maxDevices) {
			devices[resource] = append(devices[resource], fmt.Sprintf("device-%d", i+1))
		}
	}
	if s.Claimers[at] {
		for _, n := range s.Networks {
			devices[n.Resource] = append(devices[n.Resource], "claimed")
		}
	}
	maps.DeleteFunc(devices, func(resource string, _ []string) bool { return strings.HasPrefix(resource, SchedulerResources) })
	return devices, nil
}

// readConfigs finds the ConfigMaps of Multus' manifests: multus-daemon-config of the thick daemon,
// multus-cni-config of the thin plugin.
func (s *Snapshot) readConfigs(ctx context.Context, clients kubernetes.Interface) error {
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

// Network implements meta.Networks.
func (s *Snapshot) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	i := slices.IndexFunc(s.Networks, func(n meta.Network) bool { return n.Namespace == namespace && n.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", namespace, name, meta.ErrNotFound)
	}
	return &s.Networks[i], nil
}
