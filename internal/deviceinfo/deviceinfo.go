// Package deviceinfo passes on what device plugins say of a pod's devices (Device Information
// Specification 1.1.0).
package deviceinfo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadutils "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/utils"
)

// File returns the device-info file of an attachment. Plugins that declare the capability CNIDeviceInfoFile are
// told its name.
func File(network, containerID, ifName string) string {
	return nadutils.GetCNIDeviceInfoPath(strings.ReplaceAll(network, "/", "-") + "-" + containerID + "_" + ifName)
}

// Prepare copies what the device plugin says of the device, if anything, to the attachment's file.
func Prepare(file, resource, device string) error {
	if _, err := nadutils.LoadDeviceInfoFromDP(resource, device); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := nadutils.CopyDeviceInfoForCNIFromDP(file, resource, device); err != nil {
		return fmt.Errorf("device information of %s %s: %w", resource, device, err)
	}
	return nil
}

// Load returns what the device plugin has said of the attachment's device, or what a CNI plugin has then written
// over it. It returns nil if neither has said anything.
func Load(file string) (*nad.DeviceInfo, error) {
	info, err := nadutils.LoadDeviceInfoFromCNI(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("device information: %w", err)
	}
	return info, nil
}

// Clean removes the attachment's file.
func Clean(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
