package meta

import (
	"fmt"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

// What a pod can have. Each attachment keeps its configuration, in the daemon's memory and in the pod's record,
// and etcd takes no record of more than 1.5 MiB.
const (
	maxNetworks = 128
	maxConfig   = 256 << 10 // of one network, in bytes
	maxConfigs  = 512 << 10 // of all of a pod's
	maxPlugins  = 64        // of a list; each is given all that the pod says to its network's plugins
	keyCost     = 64        // what a key takes in memory besides its text
)

// checkSize refuses attachments whose configurations are too much together.
func checkSize(all []Wanted) error {
	size := 0
	for _, w := range all {
		for _, p := range w.Config.Plugins {
			for key, value := range p.Raw {
				size += len(key) + len(value) + keyCost
			}
		}
	}
	if size > maxConfigs {
		return malformed("with it, the configurations of the pod's networks are more than the %d KiB that a pod can have: select fewer or smaller networks", maxConfigs>>10)
	}
	return nil
}

// CheckChain refuses a list of too many plugins, and one that leads back to us: to the meta-plugin, or behind another
// plugin to a delegate of ours, which would wait for the very sandbox that is being made.
func (c Config) CheckChain(list *cniconf.List) error {
	if len(list.Plugins) > maxPlugins {
		return malformed("it has %d plugins, and can have %d", len(list.Plugins), maxPlugins)
	}
	for i, p := range list.Plugins {
		switch {
		case cniconf.IsMeta(p.Type):
			return malformed("plugin type %q is a meta-plugin: a network can't lead back to it", p.Type)
		case i > 0 && c.Implied[p.Type] != nil:
			return malformed("plugin %s must be the first of its list: make a network of its own of it", p.Type)
		}
	}
	return nil
}

// Trusts is the one place that decides whether networks of a namespace may reach the node itself, as one does that
// names any bridge or gives the node an address.
func (c Config) Trusts(namespace string, list *cniconf.List) error {
	if c.NeedsTrust == nil || slices.Contains(c.Trusted, "*") || slices.Contains(slices.Concat(c.SystemNamespaces, c.Trusted), namespace) {
		return nil
	}
	key := c.NeedsTrust(list)
	if key == "" {
		return nil
	}
	way := "leave it out"
	if key == "bridge" {
		way = "name a role of ovs.bridges with \"network\""
	}
	return fmt.Errorf("%w: %q reaches the node itself, and networks of namespace %s may not: %s, or add the namespace to ovs.trustedNamespaces",
		ErrForbidden, key, namespace, way)
}
