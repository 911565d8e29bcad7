package cniconf

import (
	"encoding/json"
	"maps"
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

// Request returns the configuration that plugin i is executed with: its own, byte-equal in
// meaning, with name and version set, the capability arguments it declares, and without what is
// the runtime's alone (capabilities, runtimeConfig and cni.dev/ keys of others).
func (l *List) Request(i int, in Inject) ([]byte, error) {
	p := l.Plugins[i]
	conf := maps.Clone(p.Raw)
	for k := range conf {
		if strings.HasPrefix(k, "cni.dev/") {
			delete(conf, k)
		}
	}
	for _, k := range []string{"capabilities", "runtimeConfig", "prevResult", "cniVersions"} {
		delete(conf, k)
	}
	var err error
	set := func(key string, v any) {
		if err == nil {
			conf[key], err = json.Marshal(v)
		}
	}
	set("name", l.Name)
	set("cniVersion", l.CNIVersion)
	declared := map[string]any{}
	for k, v := range in.RuntimeConfig {
		if p.Capabilities[k] {
			declared[k] = v
		}
	}
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
