// Package cniconf reads CNI network configurations, and makes of one what each of its plugins is given on
// standard input. Keys that it does not know pass through untouched, as they never become fields of a struct.
package cniconf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// A List is a network configuration list, CNI 1.1.0 section 1. A configuration of a single plugin
// is a List of one.
type List struct {
	CNIVersion string // the highest version that the configuration offers and we support
	Name       string
	// With DisableCheck or DisableGC, the plugins are not called with CHECK or GC.
	DisableCheck, DisableGC bool
	Plugins                 []Plugin
}

// A Plugin is one plugin's object in a List.
type Plugin struct {
	Type         string                     `json:"type"`
	Capabilities map[string]bool            `json:"capabilities"`
	IPAM         json.RawMessage            `json:"ipam"` // nil if the plugin has none, or an empty one
	IPAMType     string                     `json:"-"`    // the type that IPAM names, "" if there is none
	Raw          map[string]json.RawMessage `json:"-"`    // the whole object
}

type listFields struct {
	CNIVersion   string            `json:"cniVersion,omitempty"`
	CNIVersions  []string          `json:"cniVersions,omitempty"`
	Name         string            `json:"name,omitempty"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	DisableGC    bool              `json:"disableGC,omitempty"`
	OnlyInlined  bool              `json:"loadOnlyInlinedPlugins,omitempty"`
	Plugins      []json.RawMessage `json:"plugins,omitempty"`
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.\-]*$`)

// Parse reads a configuration or a configuration list. If it has no name it gets defaultName (multi-network
// specification 3.4.2). Errors are CNI errors 1, 6 or 7 that say what is wrong and where. The list has the
// plugins that are in it: those of a subdirectory (loadOnlyInlinedPlugins) are for lists on disk; see Find.
func Parse(b []byte, defaultName string) (*List, error) { return parseIn("", b, defaultName) }

// parseIn is Parse for a list that is a file in the directory dir, where a subdirectory of the list's name may
// have further plugins; dir is empty for others.
func parseIn(dir string, b []byte, defaultName string) (*List, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not a JSON object", explain.JSON(b, err))
	}
	var f listFields
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+explain.JSON(b, err), "")
	}
	l := &List{Name: cmp.Or(f.Name, defaultName), DisableCheck: f.DisableCheck, DisableGC: f.DisableGC}
	if l.Name == "" {
		return nil, invalid("\"name\" is missing: the network's")
	}
	if !namePattern.MatchString(l.Name) {
		return nil, invalid("name %q must be letters, digits, dots, dashes and underscores, and begin with a letter or digit", l.Name)
	}
	var err error
	if l.CNIVersion, err = chooseVersion(f.CNIVersion, f.CNIVersions); err != nil {
		return nil, err
	}
	raws := f.Plugins
	_, isList := keys["plugins"]
	switch {
	case !isList && f.OnlyInlined:
		return nil, invalid("network %q has loadOnlyInlinedPlugins, but no plugins", l.Name)
	case !isList && dir == "":
		raws = []json.RawMessage{b}
	}
	for i, raw := range raws {
		p, err := parsePlugin(raw)
		if err != nil {
			return nil, fmt.Errorf("plugin %d of network %q: %w", i+1, l.Name, err)
		}
		l.Plugins = append(l.Plugins, p)
	}
	if dir != "" && !f.OnlyInlined {
		more, err := pluginsIn(filepath.Join(dir, l.Name))
		if err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, more...)
	}
	if len(l.Plugins) == 0 {
		return nil, invalid("network %q has an empty list of plugins", l.Name)
	}
	return l, nil
}

func parsePlugin(raw json.RawMessage) (Plugin, error) {
	p := Plugin{}
	if err := json.Unmarshal(raw, &p.Raw); err != nil {
		return p, types.NewError(types.ErrDecodingFailure, "plugin is not a JSON object", explain.JSON(raw, err))
	}
	if p.Raw == nil {
		return p, invalid("plugin is null, not a JSON object")
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, invalid("%s", explain.JSON(raw, err))
	}
	if text := string(bytes.Join(bytes.Fields(p.IPAM), nil)); text == "null" || text == "{}" {
		p.IPAM = nil
	}
	if p.IPAM != nil {
		var ipam struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(p.IPAM, &ipam); err != nil {
			return p, invalid("ipam: %s", explain.JSON(p.IPAM, err))
		}
		p.IPAMType = ipam.Type
	}
	return p, CheckType(p.Type)
}

// CheckType refuses a plugin type that is not a plain file name (CVE-2021-20206).
func CheckType(t string) error {
	switch {
	case t == "":
		return invalid("\"type\" is missing")
	case strings.ContainsAny(t, "/\\\x00") || t == "." || t == "..":
		return invalid("type %q must be a plain file name", t)
	}
	return nil
}

// chooseVersion returns the highest supported version of those offered. If none is offered that is the
// specification's first, as for libcni.
func chooseVersion(one string, many []string) (string, error) {
	offered := many
	if one != "" || len(many) == 0 {
		offered = append([]string{cmp.Or(one, "0.1.0")}, many...)
	}
	supported := version.All.SupportedVersions() // in ascending order
	for _, v := range slices.Backward(supported) {
		if slices.Contains(offered, v) {
			return v, nil
		}
	}
	return "", types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %s is not supported", strings.Join(offered, ", ")),
		"supported: "+strings.Join(supported, ", "))
}

// MarshalJSON returns the list form, which Parse reads back to the same List.
func (l *List) MarshalJSON() ([]byte, error) {
	f := listFields{CNIVersion: l.CNIVersion, Name: l.Name, DisableCheck: l.DisableCheck, DisableGC: l.DisableGC}
	for _, p := range l.Plugins {
		raw, err := json.Marshal(p.Raw)
		if err != nil {
			return nil, err
		}
		f.Plugins = append(f.Plugins, raw)
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads what Parse reads.
func (l *List) UnmarshalJSON(b []byte) error {
	parsed, err := Parse(b, "")
	if err != nil {
		return err
	}
	*l = *parsed
	return nil
}

// Clone returns a copy whose keys can be changed without changing the list.
func (l *List) Clone() *List {
	c := l.With(slices.Clone(l.Plugins))
	for i, p := range c.Plugins {
		c.Plugins[i].Raw = maps.Clone(p.Raw)
		c.Plugins[i].Capabilities = maps.Clone(p.Capabilities)
	}
	return c
}

// With returns the list with these plugins instead of its own.
func (l *List) With(plugins []Plugin) *List {
	c := *l
	c.Plugins = plugins
	return &c
}

// Declares reports whether a plugin of the list declares the capability.
func (l *List) Declares(capability string) bool {
	return slices.ContainsFunc(l.Plugins, func(p Plugin) bool { return p.Capabilities[capability] })
}

// Types returns the plugins' types, in order.
func (l *List) Types() []string {
	t := make([]string, len(l.Plugins))
	for i, p := range l.Plugins {
		t[i] = p.Type
	}
	return t
}

// MergeArgs puts a selection element's cni-args over the configuration's own under args.cni, in
// each plugin (multi-network specification 4.1.2.1.6).
func (l *List) MergeArgs(cniArgs map[string]json.RawMessage) error {
	for i := range l.Plugins {
		raw := l.Plugins[i].Raw
		args, cni := map[string]json.RawMessage{}, map[string]json.RawMessage{}
		if err := unmarshalObject(raw["args"], &args); err != nil {
			return invalid("\"args\" of network %q must be an object: %s", l.Name, explain.JSON(raw["args"], err))
		}
		if err := unmarshalObject(args["cni"], &cni); err != nil {
			return invalid("\"args.cni\" of network %q must be an object: %s", l.Name, explain.JSON(args["cni"], err))
		}
		maps.Copy(cni, cniArgs)
		var err error
		if args["cni"], err = json.Marshal(cni); err != nil {
			return err
		}
		if raw["args"], err = json.Marshal(args); err != nil {
			return err
		}
	}
	return nil
}

func unmarshalObject(b json.RawMessage, into *map[string]json.RawMessage) error {
	if len(b) == 0 || string(b) == "null" {
		return nil
	}
	return json.Unmarshal(b, into)
}

func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}
