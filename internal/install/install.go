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

// Names are those under which the plugin is installed; the first is the file, the others lead to it.
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

// Plugin puts the plugin into binDir, by rename: a running one is replaced without "text file busy",
// and nobody ever sees half of it.
func Plugin(from, binDir string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	if err := replace(filepath.Join(binDir, names[0]), b, 0o755); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	for _, n := range names[1:] {
		if err := relink(names[0], filepath.Join(binDir, n)); err != nil {
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

// Before returns the configurations that the runtime finds before ours: it takes the first by name.
func Before(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var first []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.Name() < filepath.Base(path) && slices.Contains([]string{".conf", ".conflist", ".json"}, ext) {
			first = append(first, e.Name())
		}
	}
	return first, nil
}

// Remove takes the configuration away, then the plugin. What is not there is fine; a plugin file of
// another maker is left alone.
func Remove(binDir, confFile string) error {
	var errs []error
	if confFile != "" {
		errs = append(errs, gone(os.Remove(confFile)))
	}
	if binDir != "" {
		for _, n := range slices.Backward(names) {
			errs = append(errs, gone(os.Remove(filepath.Join(binDir, n))))
		}
	}
	return errors.Join(errs...)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replace writes a file beside path, has it on disk, and renames it.
func replace(path string, b []byte, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".patchbay-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func relink(target, path string) error {
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	temp := path + ".new"
	if err := gone(os.Remove(temp)); err != nil {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
