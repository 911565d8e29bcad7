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
			return types.NewError(cniwire.ErrRefused, fmt.Sprintf("network %s needs a device of %s, and there is no kubelet to ask", w.Network, w.Resource), "")
		}
		if devices == nil {
			var err error
			if devices, err = p.cfg.Devices.Devices(ctx, pod.Namespace, pod.Name); err != nil {
				return err
			}
		}
		left, has := devices[w.Resource]
		if !has {
			handed, err := p.cfg.Devices.Hands(ctx, w.Resource)
			if err != nil {
				return err
			}
			if !handed {
				w.Resource = "" // for the scheduler alone: it has put the pod where the network is
				continue
			}
		}
		if len(left) == 0 {
			return types.NewError(cniwire.ErrRefused, fmt.Sprintf("network %s needs a device of %s, and the pod has none left", w.Network, w.Resource),
				fmt.Sprintf("request one %q in the pod's resources for each such network", w.Resource))
		}
		w.DeviceID, devices[w.Resource] = left[0], left[1:]
	}
	for i := range all {
		if err := all[i].useDevice(); err != nil {
			return err
		}
	}
	return nil
}

// noDevice refuses a network that needs a device to a pod that runs. A resource that nobody hands out
// is for the scheduler, and the pod has its node.
func (p *Planner) noDevice(ctx context.Context, w *Wanted) error {
	if w.Resource == "" || w.DeviceID != "" {
		return nil
	}
	if p.cfg.Devices != nil && !p.cfg.AnyDevice {
		handed, err := p.cfg.Devices.Hands(ctx, w.Resource)
		if err != nil {
			return err
		}
		if !handed {
			w.Resource = ""
			return nil
		}
	}
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("network %s needs a device of %s, which kubelet gives to pods that start only", w.Network, w.Resource), "")
}

// useDevice tells the plugins of the device, as Multus does: by the keys deviceID and pciBusID, and
// by the capability for those that declare it.
func (w *Wanted) useDevice() error {
	if w.Resource == "" || w.DeviceID == "" {
		return nil
	}
	id, err := json.Marshal(w.DeviceID)
	if err != nil {
		return err
	}
	for i := range w.Config.Plugins {
		for _, key := range []string{"deviceID", "pciBusID"} {
			w.Config.Plugins[i].Raw[key] = id
		}
	}
	if w.Config.Declares("deviceID") {
		w.Requests.Others["deviceID"] = w.DeviceID
	}
	return nil
}
