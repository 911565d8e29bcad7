package ovs

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

// keys are what a configuration may have; anything else is a mistake.
var keys = []string{
	"cniVersion", "cniVersions", "name", "type", "capabilities", "args", "ipam", "dns", "runtimeConfig", "prevResult",
	"disableCheck", "disableGC", "loadOnlyInlinedPlugins", "socket", "delQueue", "waitSeconds",
	"network", "bridge", "vlan", "trunk", "mtu", "mac", "qos", "ofport_request", "isGateway", "isDefaultGateway",
}

// foreignKeys are further keys of ovs-cni. How often it is to poll the port's state means nothing here, where
// an event tells.
var foreignKeys = []string{"interface_type", "socket_file", "link_state_check_retries", "link_state_check_interval"}

// refusedKeys are keys of ovs-cni, or of whoever hands devices to it, that we can't honour, and why.
var refusedKeys = map[string]string{
	"deviceID":           noDevice,
	"pciBusID":           noDevice,
	"configuration_path": "no file beside the configuration is read: write its keys here, and its socket_file into the daemon's ovs.db",
}

const noDevice = "hardware offload is not supported: the interface is one end of a veth pair, and the device would be lost on it"

// integrationBridge is OVN's. A port with an OvnPort is put there if the configuration names no bridge.
const integrationBridge = "br-int"

// checkKeys refuses keys that would have no effect: unknown ones, and those that can't be honoured.
func checkKeys(p cniconf.Plugin) error {
	for _, k := range slices.Sorted(maps.Keys(p.Raw)) {
		switch why, refused := refusedKeys[k]; {
		case refused && string(p.Raw[k]) != `""` && string(p.Raw[k]) != "null":
			return refuse("%s: %s", k, why)
		case refused, slices.Contains(keys, k), strings.HasPrefix(k, "cni.dev/"):
		case p.Type == ForeignType && slices.Contains(foreignKeys, k):
		default:
			return refuse("unknown key %s%s", explain.Key(k), explain.Hint(k, slices.Clone(keys)))
		}
	}
	return nil
}

// NeedsTrust returns the key of a network's configuration that reaches the node itself, "" if none does: bridge for
// one that names any bridge, or leaves it to the pod, instead of a role that the nodes offer; or what gives the node
// an address on the network.
func NeedsTrust(list *cniconf.List) string {
	p := list.Plugins[0]
	if p.Type != Type && p.Type != ForeignType {
		return ""
	}
	var c conf
	b, err := json.Marshal(p.Raw)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	switch {
	case err != nil: // it is refused for that
		return ""
	case c.Network == "" || c.Bridge != "":
		return "bridge"
	case c.IsGateway:
		return "isGateway"
	case c.IsDefaultGateway:
		return "isDefaultGateway"
	}
	return ""
}

// checkSocket refuses a configuration that means another Open vSwitch than the daemon's.
func (d *Delegate) checkSocket(c *conf) error {
	if c.SocketFile == "" || socketPath(c.SocketFile) == socketPath(d.db.Endpoint()) {
		return nil
	}
	return refuse("socket_file %q is not the daemon's connection, %s: leave the key out, or set ovs.db", c.SocketFile, d.db.Endpoint())
}

// socketPath makes names of the same socket equal: ovs-cni takes them with and without unix:, and /var/run is /run.
func socketPath(name string) string {
	p, ok := strings.CutPrefix(name, "unix:")
	if !ok && !strings.HasPrefix(name, "/") {
		return name // tcp:, ssl:
	}
	p = filepath.Clean(p)
	if rest, ok := strings.CutPrefix(p, "/var/run/"); ok {
		p = "/run/" + rest
	}
	return p
}
