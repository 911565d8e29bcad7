package kube

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/client-go/kubernetes/fake"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/patchbay-cni/patchbay/meta"
)

// kubelet answers on a real pod-resources socket, for a pod that has one device of example.org/nic.
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
}

func (kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	devices := []*podresources.ContainerDevices{{ResourceName: "example.org/nic", DeviceIds: []string{"d1"}}}
	return &podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{{Namespace: "default", Name: "a",
		Containers: []*podresources.ContainerResources{{Name: "c", Devices: devices}}}, {Namespace: "default", Name: "b"}}}, nil
}

func (kubelet) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	return &podresources.AllocatableResourcesResponse{Devices: []*podresources.ContainerDevices{{ResourceName: "example.org/nic", DeviceIds: []string{"d1"}}}}, nil
}

func start(t *testing.T) Kubelet {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(srv, kubelet{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	slice := &resourcev1.ResourceSlice{}
	slice.Name = "of-a-driver"
	slice.Spec.Devices = []resourcev1.Device{{Name: "vf0", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
		attributeResource: {StringValue: new("example.org/vf")}}}}
	return Kubelet{Socket: socket, Published: &Slices{fake.NewSimpleClientset(slice)}}
}

func TestWhoHandsOutAResource(t *testing.T) {
	k := start(t)
	for resource, want := range map[string]bool{
		"example.org/nic":                     true,  // a device plugin
		"example.org/vf":                      true,  // a DRA driver
		"my-claim":                            true,  // a claim of the pod's
		"ovs-cni.network.kubevirt.io/br-data": false, // the scheduler's alone
	} {
		if got, err := k.Hands(context.Background(), resource); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", resource, got, err, want)
		}
	}
	ids, err := k.Devices(context.Background(), "default", "a")
	if err != nil || !slices.Equal(ids["example.org/nic"], []string{"d1"}) {
		t.Errorf("devices of pod a: %v, %v", ids, err)
	}
	if ids, err = k.Devices(context.Background(), "default", "b"); err != nil || len(ids) != 0 {
		t.Errorf("devices of pod b: %v, %v", ids, err)
	}
	k.Socket += ".gone"
	if _, err := k.Hands(context.Background(), "example.org/nic"); !errors.Is(err, meta.ErrUnavailable) {
		t.Errorf("kubelet is away: %v", err)
	}
}
