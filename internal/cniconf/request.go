package cniconf

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Inject is what a runtime adds to a plugin's configuration for one call (CNI 1.1.0 section 3).
type Inject struct {
	// RuntimeConfig has capability arguments. A plugin gets those that it declares.
	RuntimeConfig map[string]any
	PrevResult    json.RawMessage
	// ValidAttachments is for GC only.
	ValidAttachments json.RawMessage
}

// runtimes are the keys, beside those of cni.dev/, that a runtime reads or sets.
var runtimes = []string{"capabilities", "runtimeConfig", "prevResult", "cniVersions"}

// Request returns the configuration that plugin i is executed with: its own keys as they are, without those that
// are the runtime's, and with the list's name and version and what in has for the plugin.
func (l *List) Request(i int, in Inject) ([]byte, error) {
	p := l.Plugins[i]
	conf := maps.Clone(p.Raw)
	maps.DeleteFunc(conf, func(k string, _ json.RawMessage) bool {
		return strings.HasPrefix(k, "cni.dev/") || slices.Contains(runtimes, k)
	})
	var err error
	set := func(key string, v any) {
		if err == nil {
			conf[key], err = json.Marshal(v)
		}
	}
	set("name", l.Name)
	set("cniVersion", l.CNIVersion)
	declared := maps.Clone(in.RuntimeConfig)
	maps.DeleteFunc(declared, func(k string, _ any) bool { return !p.Capabilities[k] })
	if len(declared) > 0 {
		set("runtimeConfig", declared)
	}
	if in.PrevResult != nil {
		set("prevResult", in.PrevResult)
	}
	if in.ValidAttachments != nil {
		set("cni.dev/valid-attachments", in.ValidAttachments)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(conf)
}
