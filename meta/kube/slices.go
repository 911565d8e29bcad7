package kube

import (
	"context"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/meta"
)

const (
	attributeResource = resourcev1.QualifiedName("k8s.cni.cncf.io/resourceName")
	attributeDeviceID = resourcev1.QualifiedName("k8s.cni.cncf.io/deviceID")
)

// Slices are the ResourceSlices of the API server: what DRA drivers have published of devices.
type Slices struct{ clients kubernetes.Interface }

// Attributes are those of a device by which its driver says what it is to a network: the resource that
// the network names, and the ID that plugins know the device by.
type Attributes struct{ Resource, DeviceID string }

// NewSlices returns the ResourceSlices of an API server.
func NewSlices(cfg *rest.Config) (*Slices, error) {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for ResourceSlices: %w", err)
	}
	return &Slices{clients}, nil
}

// Attributes returns those of a device; none if its driver has said nothing of it.
func (s *Slices) Attributes(ctx context.Context, driver, pool, device string) (Attributes, error) {
	of := fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver)
	d, err := s.first(ctx, of, func(in string, d resourcev1.Device) bool { return in == pool && d.Name == device })
	return Attributes{text(d, attributeResource), text(d, attributeDeviceID)}, err
}

// Has reports whether there is any device of the resource. Those of all nodes count: a name that a
// driver uses is not a bridge's.
func (s *Slices) Has(ctx context.Context, resource string) (bool, error) {
	d, err := s.first(ctx, fields.Everything(), func(_ string, d resourcev1.Device) bool { return text(d, attributeResource) == resource })
	return d.Name != "", err
}

// first returns the first device that is meant. If there is none, what it returns has no name.
func (s *Slices) first(ctx context.Context, which fields.Selector, meant func(pool string, d resourcev1.Device) bool) (resourcev1.Device, error) {
	l, err := s.clients.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: which.String()})
	if err != nil {
		return resourcev1.Device{}, fmt.Errorf("list ResourceSlices: %w: %w", meta.ErrUnavailable, err)
	}
	for _, sl := range l.Items {
		for _, d := range sl.Spec.Devices {
			if meant(sl.Spec.Pool.Name, d) {
				return d, nil
			}
		}
	}
	return resourcev1.Device{}, nil
}

func text(d resourcev1.Device, name resourcev1.QualifiedName) string {
	if v := d.Attributes[name].StringValue; v != nil {
		return *v
	}
	return ""
}
