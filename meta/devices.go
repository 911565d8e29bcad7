package meta

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

// allot gives each attachment of a network that names a resource the next of the pod's devices of
// that resource: the n-th such attachment has the n-th device.
func (p *Planner) allot(ctx context.Context, pod Pod, all []Wanted) error {
	if p.cfg.AnyDevice {
		return nil
	}
	var devices map[string][]string
	for _, named := range []bool{true, false} { // what the pod has named is no other network's
		for i := range all {
			w := &all[i]
			if w.Resource == "" || (w.DeviceID != "") != named {
				continue
			}
			if p.cfg.Devices == nil {
				if named {
					continue
				}
				return needsDevice(w, "there is no kubelet to ask", "")
			}
			if devices == nil {
				var err error
				if devices, err = p.cfg.Devices.Devices(ctx, pod.Namespace, pod.Name); err != nil {
					return err
				}
			}
			var err error
			if devices[w.Resource], err = p.take(ctx, w, devices[w.Resource]); err != nil {
				return err
			}
		}
	}
	for i := range all {
		all[i].useDevice()
	}
	return nil
}

// take gives a network one of the pod's devices: that which the pod has named, or the first. It returns what is left.
func (p *Planner) take(ctx context.Context, w *Wanted, left []string) ([]string, error) {
	if w.DeviceID != "" {
		i := slices.Index(left, w.DeviceID)
		if i < 0 {
			return nil, needsDevice(w, w.DeviceID+" is not one of the pod's", "leave deviceID out: the pod's devices are used in turn")
		}
		return slices.Delete(slices.Clone(left), i, i+1), nil
	}
	if left == nil {
		if handed, err := p.handed(ctx, w); err != nil || !handed {
			return nil, err
		}
	}
	if len(left) == 0 {
		return nil, needsDevice(w, "the pod has none left", fmt.Sprintf("request one %q in the pod's resources for each such network", w.Resource))
	}
	w.DeviceID = left[0]
	return left[1:], nil
}

// noDevice refuses a network that needs a device to a pod that runs.
func (p *Planner) noDevice(ctx context.Context, w *Wanted) error {
	if w.Resource == "" || w.DeviceID != "" {
		return nil
	}
	if p.cfg.Devices != nil {
		if handed, err := p.handed(ctx, w); err != nil || !handed {
			return err
		}
	}
	return needsDevice(w, "kubelet gives them to pods that start only", "")
}

// handed reports whether anybody hands out devices of the network's resource. If nobody does, the
// resource is for the scheduler alone, which has put the pod where the network is, and w needs none.
func (p *Planner) handed(ctx context.Context, w *Wanted) (bool, error) {
	handed, err := p.cfg.Devices.Hands(ctx, w.Resource)
	if err == nil && !handed {
		w.Resource = ""
	}
	return handed, err
}

func needsDevice(w *Wanted, why, details string) error {
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("network %s needs a device of %s, and %s", w.Network, w.Resource, why), details)
}

// useDevice tells the plugins of the device, as Multus does: by the keys deviceID and pciBusID, and
// by the capability for those that declare it.
func (w *Wanted) useDevice() {
	if w.Resource == "" || w.DeviceID == "" {
		return
	}
	id, _ := json.Marshal(w.DeviceID) // a string always marshals
	for i := range w.Config.Plugins {
		for _, key := range []string{"deviceID", "pciBusID"} {
			w.Config.Plugins[i].Raw[key] = id
		}
	}
	if w.Config.Declares("deviceID") {
		w.Requests.Others["deviceID"] = w.DeviceID
	}
}
