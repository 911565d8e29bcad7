// Package multus reads Multus' configuration, of the thin plugin and of the thick daemon, and says
// what of it, and of a cluster's networks, works here as it does there.
package multus

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/meta"
)

// A Config is what of Multus' configuration has a meaning here.
type Config struct {
	ClusterNetwork     string            `json:"clusterNetwork"`
	Delegates          []json.RawMessage `json:"delegates"`
	DefaultNetworks    []string          `json:"defaultNetworks"`
	SystemNamespaces   []string          `json:"systemNamespaces"`
	Namespace          string            `json:"multusNamespace"`
	NamespaceIsolation *bool             `json:"namespaceIsolation"`
	GlobalNamespaces   string            `json:"globalNamespaces"` // separated by commas
	ConfDir            string            `json:"confDir"`
	BinDir             string            `json:"binDir"`
	ReadinessFile      string            `json:"readinessindicatorfile"`
	AuxiliaryChain     string            `json:"auxiliaryCNIChainName"`
}

// understood are the keys that have a meaning here, and those of every CNI configuration.
var understood = []string{"clusterNetwork", "delegates", "defaultNetworks", "systemNamespaces", "multusNamespace", "namespaceIsolation",
	"globalNamespaces", "confDir", "binDir", "readinessindicatorfile", "auxiliaryCNIChainName",
	"cniVersion", "name", "type", "capabilities", "runtimeConfig", "prevResult"}

// without are the keys, in lower case, that have no effect here, with the reason or our own key for it.
var without = map[string]string{
	"kubeconfig":          "the daemon has its own credentials; kubernetes.kubeconfig sets another",
	"cnidir":              "records are in etcd",
	"logfile":             "the log is the daemon's standard error",
	"loglevel":            "log.level",
	"logtostderr":         "the log is the daemon's standard error",
	"logoptions":          "the log is the daemon's standard error",
	"retrydeleteonerror":  "a DEL that fails is always kept and tried again",
	"chrootdir":           "meta.delegateRoot",
	"socketdir":           "listen.cni",
	"daemonsocketdir":     "listen.cni",
	"metricsport":         "listen.metrics",
	"enablepprof":         "not served; metrics are",
	"connectionlimit":     "meta.delegateLimit",
	"pernodecertificate":  "the service account's token is used",
	"multusconfigfile":    "install.confFile",
	"multusautoconfigdir": "meta.clusterNetwork, a directory: its first configuration",
	"multusmastercni":     "meta.clusterNetwork",
	"cniconfigdir":        "install.confFile",
	"forcecniversion":     "results are converted to the version asked for",
	"overridenetworkname": "the network's name is install's: patchbay",
}

// Parse reads a configuration; notes are the keys that have no effect, with the reason.
func Parse(b []byte) (c *Config, notes []string, err error) {
	c = &Config{}
	var all map[string]json.RawMessage
	for _, into := range []any{c, &all} {
		if err := json.Unmarshal(b, into); err != nil {
			return nil, nil, fmt.Errorf("configuration of Multus: %s", explain.JSON(b, err))
		}
	}
	if c.ClusterNetwork != "" && len(c.Delegates) > 0 {
		return nil, nil, errors.New("configuration of Multus: clusterNetwork and delegates exclude each other")
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		// As encoding/json, and so Multus, takes them: in upper or lower case.
		if slices.ContainsFunc(understood, func(u string) bool { return strings.EqualFold(u, k) }) {
			continue
		}
		note := k + ": not a key of Multus: ignored"
		if why := without[strings.ToLower(k)]; why != "" {
			note = k + ": has no effect here: " + why
		}
		notes = append(notes, note)
	}
	return c, notes, nil
}

// Any reports whether the configuration says anything that matters here.
func (c *Config) Any() bool {
	return c.ClusterNetwork != "" || len(c.Delegates) > 0 || len(c.DefaultNetworks) > 0 || c.NamespaceIsolation != nil || c.ReadinessFile != "" || c.Namespace != "" || c.SystemNamespaces != nil || c.AuxiliaryChain != ""
}

// Isolation reports whether pods may use the networks of their own namespace and of Globals only.
func (c *Config) Isolation() bool { return c.NamespaceIsolation != nil && *c.NamespaceIsolation }

// Globals are the namespaces whose networks every pod may use.
func (c *Config) Globals() []string {
	if c.GlobalNamespaces == "" {
		return []string{"default"}
	}
	all := strings.Split(c.GlobalNamespaces, ",")
	for i, ns := range all {
		all[i] = strings.TrimSpace(ns)
	}
	return all
}

// Over returns the daemon's configuration with Multus' over it, as Multus would take it: what it
// leaves out has Multus' default.
func (c *Config) Over(base meta.Config) (meta.Config, error) {
	base.Namespace = cmp.Or(c.Namespace, "kube-system")
	base.SystemNamespaces = []string{"kube-system"}
	if c.SystemNamespaces != nil {
		base.SystemNamespaces = c.SystemNamespaces
	}
	base.NamespaceIsolation = c.Isolation()
	base.GlobalNamespaces = c.Globals()
	if !base.NamespaceIsolation {
		base.Overriding = []string{"*"}
	}
	base.CNIConfDir = cmp.Or(c.ConfDir, base.CNIConfDir)
	base.DefaultNetworks = c.DefaultNetworks
	base.ReadinessFile = c.ReadinessFile
	base.AuxiliaryChain = c.AuxiliaryChain
	base.ClusterNetwork = cmp.Or(c.ClusterNetwork, base.ClusterNetwork)
	for i, d := range c.Delegates {
		list, err := cniconf.Parse(d, "")
		if err != nil {
			return base, fmt.Errorf("delegates[%d]: %w", i, err)
		}
		if slices.ContainsFunc(list.Types(), cniconf.IsMeta) {
			return base, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("delegates[%d] is a meta-plugin", i), "")
		}
		base.Inline = append(base.Inline, list)
	}
	return base, nil
}
