package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/patchbay-cni/patchbay/meta"
)

const (
	kubeletTimeout = 10 * time.Second
	// maxMessage is kubelet's own limit for an answer.
	maxMessage = 16 << 20
)

// A Kubelet answers for the devices of the pods of this node, on its pod-resources socket.
type Kubelet struct {
	Socket    string
	Published *Slices
}

// Devices implements meta.Devices: the pod's device IDs by resource, sorted, as Multus hands
// them out. A device that DRA has allocated is found under the resource name that its driver has
// published, and under the name of the claim, there by the name that CDI has for it.
func (k Kubelet) Devices(ctx context.Context, namespace, pod string) (map[string][]string, error) {
	l, err := ask(ctx, k.Socket, podresources.PodResourcesListerClient.List)
	if err != nil {
		return nil, err
	}
	ids := map[string][]string{}
	for _, p := range l.GetPodResources() {
		if p.GetName() != pod || p.GetNamespace() != namespace {
			continue
		}
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				ids[d.GetResourceName()] = append(ids[d.GetResourceName()], d.GetDeviceIds()...)
			}
			for _, r := range c.GetDynamicResources() {
				if err := k.allocated(ctx, r, ids); err != nil {
					return nil, err
				}
			}
		}
	}
	for name, l := range ids {
		slices.Sort(l)
		ids[name] = slices.Compact(l) // containers may share a claim
	}
	return ids, nil
}

// Hands implements meta.Devices: it reports whether devices of the resource are handed to pods
// here, by a device plugin or a DRA driver. What nobody hands out is a number for the scheduler.
func (k Kubelet) Hands(ctx context.Context, resource string) (bool, error) {
	if !strings.Contains(resource, "/") {
		return true, nil // no extended resource has such a name: it is a claim's
	}
	l, err := ask(ctx, k.Socket, podresources.PodResourcesListerClient.GetAllocatableResources)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(l.GetDevices(), func(d *podresources.ContainerDevices) bool { return d.GetResourceName() == resource }) {
		return true, nil
	}
	return k.Published.Has(ctx, resource)
}

// ask calls a method of kubelet's pod-resources service, with an empty question.
func ask[Q, A any](ctx context.Context, socket string,
	method func(podresources.PodResourcesListerClient, context.Context, *Q, ...grpc.CallOption) (*A, error)) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, kubeletTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := method(podresources.NewPodResourcesListerClient(conn), ctx, new(Q))
	if err != nil {
		return nil, fmt.Errorf("%w: kubelet's pod resources at %s: %w", meta.ErrUnavailable, socket, err)
	}
	return answer, nil
}

// allocated adds the devices of a resource claim.
func (k Kubelet) allocated(ctx context.Context, r *podresources.DynamicResource, ids map[string][]string) error {
	for _, d := range r.GetClaimResources() {
		for _, c := range d.GetCdiDevices() {
			if _, name, ok := strings.Cut(c.GetName(), "="); ok { // vendor/class=name
				ids[r.GetClaimName()] = append(ids[r.GetClaimName()], name)
			}
		}
		a, err := k.Published.Attributes(ctx, d.GetDriverName(), d.GetPoolName(), d.GetDeviceName())
		if err != nil {
			return fmt.Errorf("device %s of driver %s for claim %s: %w", d.GetDeviceName(), d.GetDriverName(), r.GetClaimName(), err)
		}
		if a.Resource != "" && a.DeviceID != "" {
			ids[a.Resource] = append(ids[a.Resource], a.DeviceID)
		}
	}
	return nil
}
