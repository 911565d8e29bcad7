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

// The attributes by which a DRA driver says what a device is to a network.
const (
	attributeResource = resourcev1.QualifiedName("k8s.cni.cncf.io/resourceName")
	attributeDeviceID = resourcev1.QualifiedName("k8s.cni.cncf.io/deviceID")
)

// Slices are the ResourceSlices of the API server.
type Slices struct{ clients kubernetes.Interface }

// NewSlices returns the ResourceSlices of an API server.
func NewSlices(cfg *rest.Config) (*Slices, error) {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for ResourceSlices: %w", err)
	}
	return &Slices{clients}, nil
}

// Attributes implements Published.
func (s *Slices) Attributes(ctx context.Context, driver, pool, device string) (Attributes, error) {
	l, err := s.list(ctx, fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver))
	if err != nil {
		return Attributes{}, fmt.Errorf("ResourceSlices of driver %s: %w", driver, err)
	}
	for _, sl := range l {
		for _, d := range sl.Spec.Devices {
			if sl.Spec.Pool.Name == pool && d.Name == device {
				return Attributes{text(d, attributeResource), text(d, attributeDeviceID)}, nil
			}
		}
	}
	return Attributes{}, nil
}

// Has implements Published. Any node's devices count: a name that is a driver's is no bridge's.
func (s *Slices) Has(ctx context.Context, resource string) (bool, error) {
	l, err := s.list(ctx, fields.Everything())
	if err != nil {
		return false, fmt.Errorf("ResourceSlices: %w", err)
	}
	for _, sl := range l {
		for _, d := range sl.Spec.Devices {
			if text(d, attributeResource) == resource {
				return true, nil
			}
		}
	}
	return false, nil
}

func (s *Slices) list(ctx context.Context, which fields.Selector) ([]resourcev1.ResourceSlice, error) {
	l, err := s.clients.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: which.String()})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", meta.ErrUnavailable, err)
	}
	return l.Items, nil
}

func text(d resourcev1.Device, name resourcev1.QualifiedName) string {
	if v := d.Attributes[name].StringValue; v != nil {
		return *v
	}
	return ""
}
