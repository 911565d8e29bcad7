package meta

import (
	"context"
	"encoding/json"
	"fmt"

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
	for i := range all {
		w := &all[i]
		if w.Resource == "" || w.DeviceID != "" {
			continue
		}
		if p.cfg.Devices == nil {
			return needsDevice(w, "there is no kubelet to ask", "")
		}
		if devices == nil {
			var err error
			if devices, err = p.cfg.Devices.Devices(ctx, pod.Namespace, pod.Name); err != nil {
				return err
			}
		}
		left, has := devices[w.Resource]
		if !has {
			handed, err := p.handed(ctx, w)
			if err != nil {
				return err
			}
			if !handed {
				continue
			}
		}
		if len(left) == 0 {
			return needsDevice(w, "the pod has none left", fmt.Sprintf("request one %q in the pod's resources for each such network", w.Resource))
		}
		w.DeviceID, devices[w.Resource] = left[0], left[1:]
	}
	for i := range all {
		all[i].useDevice()
	}
	return nil
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
