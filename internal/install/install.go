// Package install puts the CNI plugin and its configuration where the container runtime looks for
// them, and takes them away again.
package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// names are those under which the plugin is installed.
var names = []string{"patchbay", "patchbay-ovs", "patchbay-ipam"}

// capabilities are what the runtime is asked to hand over: the pod's annotations, for us; the rest
// for the cluster network.
var capabilities = map[string]bool{
	"io.kubernetes.cri.pod-annotations": true, "portMappings": true, "bandwidth": true, "dns": true, "ipRanges": true, "mac": true, "ips": true,
	"infinibandGUID": true, "deviceID": true, "aliases": true, "cgroupPath": true,
}

// NetConf is the configuration list by which a runtime calls the plugin on the daemon at the socket.
func NetConf(socket, delQueue string) []byte {
	b, _ := json.MarshalIndent(map[string]any{"cniVersion": "1.1.0", "name": "patchbay", "plugins": []any{map[string]any{
		"type": names[0], "socket": socket, "delQueue": delQueue, "capabilities": capabilities}}}, "", "  ") // always marshals
	return append(b, '\n')
}

// Plugin puts the plugin into binDir.
func Plugin(from, binDir string) error { return program(from, binDir, names) }

// The names under which kubectl finds a plugin, and what completes its words.
const (
	KubectlPlugin     = "kubectl-patchbay"
	KubectlCompletion = "kubectl_complete-patchbay"
)

// Kubectl puts patchctl into a directory, with the names by which it is kubectl's plugin beside it.
func Kubectl(patchctl, dir string) error {
	return program(patchctl, dir, []string{"patchctl", KubectlPlugin, KubectlCompletion})
}

// program puts a program into a directory, by rename: a running one is replaced without "text file busy",
// and nobody ever sees half of it. The first of the names is the file, the others lead to it.
func program(from, dir string, names []string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("install %s: %w", names[0], err)
	}
	if err := replace(filepath.Join(dir, names[0]), b, 0o755); err != nil {
		return fmt.Errorf("install %s: %w", names[0], err)
	}
	for _, n := range names[1:] {
		if err := relink(names[0], filepath.Join(dir, n)); err != nil {
			return fmt.Errorf("install %s: %w", n, err)
		}
	}
	return nil
}

// Conf puts the configuration there, and reports whether it was another one, or missing.
func Conf(path string, conf []byte) (changed bool, err error) {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, conf) {
		return false, nil
	}
	if err := replace(path, conf, 0o600); err != nil {
		return false, fmt.Errorf("install the CNI configuration: %w", err)
	}
	return true, nil
}

// Remove takes the configuration away, then the plugin. What is not there is fine; a plugin file of
// another maker is left alone.
func Remove(binDir, confFile string) error {
	var errs []error
	if confFile != "" {
		errs = append(errs, unlessMissing(os.Remove(confFile)))
	}
	if binDir != "" {
		for _, n := range slices.Backward(names) {
			errs = append(errs, unlessMissing(os.Remove(filepath.Join(binDir, n))))
		}
	}
	return errors.Join(errs...)
}

// unlessMissing drops an error that says that there is no such file.
func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replace writes a file beside path, has it on disk, and renames it.
func replace(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".patchbay-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func relink(target, path string) error {
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	temp := path + ".new"
	if err := unlessMissing(os.Remove(temp)); err != nil {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
