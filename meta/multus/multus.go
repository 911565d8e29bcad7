// Package multus reads Multus' configuration, of the thin plugin and of the thick daemon, and says
// what of it, and of a cluster's networks, works here as it does there.
package multus

import (
	"encoding/json"
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

// keys that have a meaning here, besides those of every CNI configuration.
var understood = []string{"clusterNetwork", "delegates", "defaultNetworks", "systemNamespaces", "multusNamespace", "namespaceIsolation",
	"globalNamespaces", "confDir", "binDir", "readinessindicatorfile", "auxiliaryCNIChainName",
	"cniVersion", "name", "type", "capabilities", "runtimeConfig", "prevResult"}

// without are the keys, in lower case, that mean nothing here, with the reason.
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
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, nil, fmt.Errorf("configuration of Multus: %s", explain.JSON(b, err))
	}
	c = &Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, nil, fmt.Errorf("configuration of Multus: %s", explain.JSON(b, err))
	}
	if c.ClusterNetwork != "" && len(c.Delegates) > 0 {
		return nil, nil, fmt.Errorf("configuration of Multus: clusterNetwork and delegates exclude each other")
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		// As encoding/json, and so Multus, takes them: in upper or lower case.
		if slices.ContainsFunc(understood, func(u string) bool { return strings.EqualFold(u, k) }) {
			continue
		}
		note, known := without[strings.ToLower(k)]
		switch {
		case !known:
			notes = append(notes, k+": not a key of Multus: ignored")
		case note == "":
			notes = append(notes, k+": has no effect here")
		default:
			notes = append(notes, k+": has no effect here: "+note)
		}
	}
	return c, notes, nil
}

// Any reports whether the configuration says anything that matters here.
func (c *Config) Any() bool {
	return c.ClusterNetwork != "" || len(c.Delegates) > 0 || len(c.DefaultNetworks) > 0 || c.NamespaceIsolation != nil || c.ReadinessFile != "" || c.Namespace != "" || c.SystemNamespaces != nil || c.AuxiliaryChain != ""
}

// Globals are the namespaces whose networks every pod may use.
func (c *Config) Globals() []string {
	if c.GlobalNamespaces == "" {
		return []string{"default"}
	}
	var all []string
	for ns := range strings.SplitSeq(c.GlobalNamespaces, ",") {
		all = append(all, strings.TrimSpace(ns))
	}
	return all
}

// Over returns the daemon's configuration with Multus' over it, as Multus would take it: what it
// leaves out has Multus' default.
func (c *Config) Over(base meta.Config) (meta.Config, error) {
	base.Namespace = "kube-system"
	if c.Namespace != "" {
		base.Namespace = c.Namespace
	}
	base.SystemNamespaces = []string{"kube-system"}
	if c.SystemNamespaces != nil {
		base.SystemNamespaces = c.SystemNamespaces
	}
	base.NamespaceIsolation = c.NamespaceIsolation != nil && *c.NamespaceIsolation
	base.GlobalNamespaces = c.Globals()
	if c.ConfDir != "" {
		base.CNIConfDir = c.ConfDir
	}
	base.DefaultNetworks = c.DefaultNetworks
	base.ReadinessFile = c.ReadinessFile
	base.AuxiliaryChain = c.AuxiliaryChain
	if c.ClusterNetwork != "" {
		base.ClusterNetwork = c.ClusterNetwork
	}
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
