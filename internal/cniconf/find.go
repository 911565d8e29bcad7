package cniconf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// Find reads a configuration on disk (multi-network specification 3.4.1). name is the absolute path of a file, that
// of a directory, of which the first configuration by file name is taken, or the "name" of a configuration in
// dir, where lists go before single configurations.
func Find(dir, name string) (*List, error) {
	if strings.HasPrefix(name, "/") {
		if fi, err := os.Stat(name); err == nil && fi.IsDir() {
			return first(name)
		}
		return read(name)
	}
	files, err := configFiles(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if l, err := read(f); err == nil && l.Name == name {
			return l, nil
		}
	}
	return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("no configuration named %q in %s", name, dir), "")
}

func first(dir string) (*List, error) {
	files, err := configFiles(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	for _, f := range files {
		l, err := read(f)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(l.Types(), IsMeta) {
			return l, nil
		}
	}
	return nil, types.NewError(types.ErrInvalidNetworkConfig, "no CNI configuration in "+dir, "")
}

// IsMeta reports whether a plugin type is a meta-plugin: ours, or one that ours stands in for. A network must not
// lead back to one.
func IsMeta(pluginType string) bool {
	return slices.Contains([]string{"patchbay", "multus", "multus-shim"}, pluginType)
}

func read(file string) (*List, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "read CNI configuration", err.Error())
	}
	dir := ""
	if filepath.Ext(file) == ".conflist" {
		dir = filepath.Dir(file)
	}
	l, err := parseIn(dir, b, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return l, nil
}

// pluginsIn returns the plugins that a list on disk gets from the *.conf files of the directory of
// its name, in the order of the files' names (CNI 1.1.0 section 1, subdirectory-based plugin loading).
func pluginsIn(dir string) ([]Plugin, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var plugins []Plugin
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "read CNI configuration", err.Error())
		}
		p, err := parsePlugin(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		plugins = append(plugins, p)
	}
	return plugins, nil
}

// Passthru is the type of a plugin that does nothing. It is the head of a chain that has no network of its own.
const Passthru = "passthru"

// Chain makes a list of the *.conf files in the directory dir/name, with a passthru plugin at its head. It returns
// nil if there are none. CHECK is disabled, as there is no interface that the plugins could look at.
func Chain(dir, name string) (*List, error) {
	plugins, err := pluginsIn(filepath.Join(dir, name))
	if err != nil || len(plugins) == 0 {
		return nil, err
	}
	l, err := Parse([]byte(`{"cniVersion": "1.0.0", "disableCheck": true, "plugins": [{"type": "`+Passthru+`"}]}`), name)
	if err != nil {
		return nil, err
	}
	return l.With(append(l.Plugins, plugins...)), nil
}

// configFiles returns the files of lists first, then those of single configurations.
func configFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lists, singles []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conflist":
			lists = append(lists, filepath.Join(dir, e.Name()))
		case ".conf", ".json":
			singles = append(singles, filepath.Join(dir, e.Name()))
		}
	}
	return append(lists, singles...), nil
}
