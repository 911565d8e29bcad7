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

// File is the device-info file of an attachment; plugins that declare the capability
// CNIDeviceFile are told it.
func File(network, containerID, ifName string) string {
	return nadutils.GetCNIDeviceInfoPath(strings.ReplaceAll(network, "/", "-") + "-" + containerID + "_" + ifName)
}

// Prepare copies what the device plugin says of the device to the attachment's file, if it says
// anything.
func Prepare(file, resource, device string) error {
	if _, err := nadutils.LoadDeviceInfoFromDP(resource, device); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := nadutils.CopyDeviceInfoForCNIFromDP(file, resource, device); err != nil {
		return fmt.Errorf("device information of %s %s: %w", resource, device, err)
	}
	return nil
}

// Load returns what is known of the attachment's device: the device plugin's word, or the CNI
// plugin's over it. Nil if neither has said anything.
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
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
