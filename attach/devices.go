package attach

import (
	"maps"

	"github.com/patchbay-cni/patchbay/internal/deviceinfo"
	"github.com/patchbay-cni/patchbay/meta"
)

// capabilityInfoFile tells a plugin where device information is, to be read and written.
const capabilityInfoFile = "CNIDeviceInfoFile"

func (s *Spec) infoFile(containerID string) string {
	return deviceinfo.File(s.Network, containerID, s.Interface)
}

// newSpec is what is wanted as it is recorded for a sandbox: with the name of the device-info file, for
// plugins that want it.
func newSpec(w meta.Wanted, containerID string) Spec {
	s := Spec(w)
	if s.DeviceID != "" && s.Config.Declares(capabilityInfoFile) {
		s.Requests.Others = maps.Clone(s.Requests.Others)
		s.Requests.Others[capabilityInfoFile] = s.infoFile(containerID)
	}
	return s
}

// prepareDevices hands device information to the plugins that are to be called.
func (m *making) prepareDevices() error {
	for _, a := range m.parts {
		if a.Spec.DeviceID != "" {
			if err := deviceinfo.Prepare(a.Spec.infoFile(m.sandbox.ContainerID), a.Spec.Resource, a.Spec.DeviceID); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadDevices takes over what is known of the devices now.
func (m *making) loadDevices() error {
	for _, p := range m.parts {
		if p.Spec.DeviceID == "" {
			continue
		}
		var err error
		if p.Status.Device, err = deviceinfo.Load(p.Spec.infoFile(m.sandbox.ContainerID)); err != nil {
			return err
		}
	}
	return nil
}

func (a *Attachment) cleanDevice(containerID string) error {
	if a.Spec.DeviceID == "" {
		return nil
	}
	return deviceinfo.Clean(a.Spec.infoFile(containerID))
}
