package attach

import (
	"maps"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

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

// prepareDevice hands what is known of the device to the plugins that are to be called.
func (s *Spec) prepareDevice(containerID string) error {
	if s.DeviceID == "" {
		return nil
	}
	return deviceinfo.Prepare(s.infoFile(containerID), s.Resource, s.DeviceID)
}

// loadDevice returns what is known of the device now, nil if there is none.
func (s *Spec) loadDevice(containerID string) (*nad.DeviceInfo, error) {
	if s.DeviceID == "" {
		return nil, nil
	}
	return deviceinfo.Load(s.infoFile(containerID))
}

// cleanDevice removes the file with what is known of the device.
func (s *Spec) cleanDevice(containerID string) error {
	if s.DeviceID == "" {
		return nil
	}
	return deviceinfo.Clean(s.infoFile(containerID))
}
