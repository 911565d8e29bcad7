package cniconf

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Inject is what a runtime puts into a plugin's configuration for one call, CNI 1.1.0 section 3.
type Inject struct {
	// RuntimeConfig holds the capability arguments at hand; a plugin gets those it declares.
	RuntimeConfig map[string]any
	PrevResult    json.RawMessage
	// ValidAttachments is for GC only.
	ValidAttachments json.RawMessage
}

// runtimes are keys that are the runtime's to read or to set, beside those of cni.dev/.
var runtimes = []string{"capabilities", "runtimeConfig", "prevResult", "cniVersions"}

// Request returns the configuration that plugin i is executed with: its own, byte-equal in
// meaning, with name and version set, the capability arguments it declares, and without what is
// the runtime's alone (capabilities, runtimeConfig and cni.dev/ keys of others).
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
