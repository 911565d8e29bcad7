package devices

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

// FromSlices returns the look-up of attributes in the ResourceSlices of the API server.
func FromSlices(cfg *rest.Config) (func(ctx context.Context, driver, pool, device string) (Attributes, error), error) {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, driver, pool, device string) (Attributes, error) {
		l, err := clients.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver).String()})
		if err != nil {
			return Attributes{}, fmt.Errorf("%w: ResourceSlices of driver %s: %w", meta.ErrUnavailable, driver, err)
		}
		for _, s := range l.Items {
			for _, d := range s.Spec.Devices {
				if s.Spec.Pool.Name == pool && d.Name == device {
					return Attributes{text(d, attributeResource), text(d, attributeDeviceID)}, nil
				}
			}
		}
		return Attributes{}, nil // the driver has said nothing of it
	}, nil
}

func text(d resourcev1.Device, name resourcev1.QualifiedName) string {
	if v := d.Attributes[name].StringValue; v != nil {
		return *v
	}
	return ""
}
