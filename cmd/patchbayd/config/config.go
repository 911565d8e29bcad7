// Package config is the daemon's configuration file.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/cri"
	"github.com/patchbay-cni/patchbay/ipam"
)

// DefaultFile is read when no --config is given; it need not exist.
const DefaultFile = "/etc/patchbay/patchbayd.yaml"

// A Config is the whole configuration, with defaults filled in.
type Config struct {
	Node       string     `yaml:"node"`
	StateDir   string     `yaml:"stateDir"`
	Etcd       Etcd       `yaml:"etcd"`
	Kubernetes Kubernetes `yaml:"kubernetes"`
	Standalone struct {
		Manifests string `yaml:"manifests"` // a directory of pods and networks, for a node without Kubernetes
	} `yaml:"standalone"`
	Listen Listen `yaml:"listen"`
	Meta   Meta   `yaml:"meta"`
	OVS    OVS    `yaml:"ovs"`
	IPAM   struct {
		Pools map[string]ipam.Config `yaml:"pools"` // those that networks refer to by name
	} `yaml:"ipam"`
	GC      GC      `yaml:"gc"`
	CRI     CRI     `yaml:"cri"`
	Install Install `yaml:"install"`
	API     struct {
		InlineTypes []string `yaml:"inlineTypes"` // plugin types that an inline configuration may have; none: all
	} `yaml:"api"`
	Log Log `yaml:"log"`
}

// Etcd says where the records are.
type Etcd struct {
	Endpoints []string `yaml:"endpoints"`
	Prefix    string   `yaml:"prefix"`
	TLS       struct { // files
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
		CA   string `yaml:"ca"`
	} `yaml:"tls"`
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
}

// Kubernetes says whether pods and networks come from an API server.
type Kubernetes struct {
	Enabled    string `yaml:"enabled"`
	Kubeconfig string `yaml:"kubeconfig"`
	// PodResources is kubelet's socket that tells which devices a pod has.
	PodResources string `yaml:"podResources"`
	// Events are raised for changes of running pods and failures, or for all attachments.
	Events string `yaml:"events"`
}

// Listen says where the daemon listens.
type Listen struct {
	CNI     string `yaml:"cni"`
	API     string `yaml:"api"`
	Metrics string `yaml:"metrics"`
}

// Meta says how pods' networks are found.
type Meta struct {
	ClusterNetwork     string   `yaml:"clusterNetwork"`
	DefaultNetworks    []string `yaml:"defaultNetworks"`
	SystemNamespaces   []string `yaml:"systemNamespaces"`
	NamespaceIsolation bool     `yaml:"namespaceIsolation"`
	GlobalNamespaces   []string `yaml:"globalNamespaces"`
	ReadinessFile      string   `yaml:"readinessFile"`
	// Overriding are namespaces whose pods may choose their cluster network.
	Overriding      []string      `yaml:"allowDefaultNetworkOverride"`
	Multus          string        `yaml:"multus"` // file of a Multus configuration, read over this one
	CNIBinDirs      []string      `yaml:"cniBinDirs"`
	CNIConfDir      string        `yaml:"cniConfDir"`
	DelegateRoot    string        `yaml:"delegateRoot"` // where executed plugins see /; in a container, the host's
	DelegateTimeout time.Duration `yaml:"delegateTimeout"`
	DelegateLimit   int           `yaml:"delegateLimit"` // delegates in flight
}

// OVS is the switch and the bridges of this node, by role.
type OVS struct {
	DB      string            `yaml:"db"`
	Bridges map[string]Bridge `yaml:"bridges"`
	// TrustedNamespaces are those whose networks may name a bridge instead of a role, or make the node a gateway.
	TrustedNamespaces []string `yaml:"trustedNamespaces"`
	// Marker publishes each bridge as an extended resource of the node, as ovs-cni's marker does.
	Marker bool `yaml:"marker"`
}

// A Bridge is how the bridge of a role is to be.
type Bridge struct {
	Name         string   `yaml:"name"`
	Uplinks      []string `yaml:"uplinks"`
	DatapathType string   `yaml:"datapathType"`
	Controllers  []string `yaml:"controllers"`
	Protocols    []string `yaml:"protocols"`
	FailMode     string   `yaml:"failMode"`
}

// GC is how leftovers are collected.
type GC struct {
	Interval time.Duration `yaml:"interval"`
	Grace    time.Duration `yaml:"grace"`
	// DryRun has everything kept that would be collected, and logged.
	DryRun bool `yaml:"dryRun"`
	// Mend says whether interfaces that lost their port, an address or a route are mended.
	Mend bool `yaml:"mend"`
	// GiveUp bounds how long a pod's end waits for a DEL that fails.
	GiveUp GiveUp `yaml:"giveUp"`
}

// CRI says where the container runtime is, which is asked before a sandbox is collected.
type CRI struct {
	Endpoint string `yaml:"endpoint"` // its socket; empty: containerd's or CRI-O's, if it is there; none: it is not asked
}

// GiveUp says how often, and for how long, a DEL must have failed to be given up.
type GiveUp struct {
	Attempts int           `yaml:"attempts"`
	After    time.Duration `yaml:"after"`
}

// Install says where the CNI plugin and its configuration go when the daemon starts; empty: nowhere.
type Install struct {
	BinDir   string `yaml:"binDir"`
	ConfFile string `yaml:"confFile"`
}

// Log is the daemon's log.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default returns the configuration of an empty file: a standalone node.
func Default() Config {
	host, _ := os.Hostname() // an empty name is refused
	return Config{
		Node: cmp.Or(os.Getenv("NODE_NAME"), host), StateDir: "/var/lib/patchbay",
		Etcd:       Etcd{Prefix: "/patchbay/v1"},
		Kubernetes: Kubernetes{Enabled: "auto", Events: "changes", PodResources: "/var/lib/kubelet/pod-resources/kubelet.sock"},
		Listen:     Listen{CNI: "/run/patchbay/cni.sock", API: "/run/patchbay/api.sock"},
		Meta: Meta{SystemNamespaces: []string{"kube-system"}, NamespaceIsolation: true, GlobalNamespaces: []string{"default"},
			CNIBinDirs: []string{"/opt/cni/bin"}, CNIConfDir: "/etc/cni/net.d",
			DelegateTimeout: 30 * time.Second, DelegateLimit: 16},
		OVS: OVS{DB: "unix:/var/run/openvswitch/db.sock"},
		GC:  GC{Interval: time.Minute, Grace: time.Minute, Mend: true, GiveUp: GiveUp{Attempts: 5, After: 5 * time.Minute}},
		Log: Log{Level: "info", Format: "text"},
	}
}

// Load reads the file, puts the settings (key=value, dotted keys) over it, and validates. A missing
// file is an error only if required.
func Load(path string, required bool, set []string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil && (required || !errors.Is(err, fs.ErrNotExist)) {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(b, set)
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse is Load of a file's content.
func Parse(b []byte, set []string) (Config, error) {
	c := Default()
	doc, err := document(b)
	if err != nil {
		return c, err
	}
	for _, s := range set {
		if err := put(doc, s); err != nil {
			return c, fmt.Errorf("--set %s: %w", s, err)
		}
	}
	if err := check(doc, reflect.TypeFor[Config](), ""); err != nil {
		return c, err
	}
	if err := doc.Decode(&c); err != nil {
		return c, errors.New(plain(err))
	}
	return c, c.validate()
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func (c *Config) validate() error {
	if c.Node == "" {
		return errors.New("node is missing: this node's name")
	}
	if !nodeName.MatchString(c.Node) {
		return fmt.Errorf("node %q is not a node name (lower-case letters, digits, dashes, dots)", c.Node)
	}
	if err := c.Etcd.validate(); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(c.Listen.Metrics); c.Listen.Metrics != "" && err != nil {
		return fmt.Errorf("listen.metrics %q must be host:port, such as 127.0.0.1:9464", c.Listen.Metrics)
	}
	if method, at, _ := strings.Cut(c.OVS.DB, ":"); !slices.Contains([]string{"unix", "tcp", "ssl"}, method) || at == "" {
		return fmt.Errorf("ovs.db %q must be unix:/path, tcp:host:port or ssl:host:port", c.OVS.DB)
	}
	if err := errors.Join(oneOf("kubernetes.enabled", c.Kubernetes.Enabled, "auto", "true", "false"), oneOf("kubernetes.events", c.Kubernetes.Events, "changes", "all"),
		oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error"), oneOf("log.format", c.Log.Format, "text", "json")); err != nil {
		return err
	}
	if c.OVS.Marker && c.Kubernetes.Enabled == "false" {
		return errors.New("ovs.marker publishes bridges as resources of a Kubernetes node, and kubernetes.enabled is false")
	}
	names := map[string]string{}
	for role, b := range c.OVS.Bridges {
		if err := b.validate(); err != nil {
			return fmt.Errorf("ovs.bridges.%s: %w", role, err)
		}
		if other := names[b.Name]; other != "" {
			return fmt.Errorf("ovs.bridges: %s and %s are both bridge %s", min(role, other), max(role, other), b.Name)
		}
		names[b.Name] = role
	}
	for name, p := range c.IPAM.Pools {
		p.Pool = name
		if _, err := p.Validate(); err != nil {
			return fmt.Errorf("ipam.pools.%s: %w", name, err)
		}
	}
	if socket := strings.TrimPrefix(c.CRI.Endpoint, "unix://"); socket != "" && socket != cri.None && !filepath.IsAbs(socket) {
		return fmt.Errorf("cri.endpoint %q must be the path of the container runtime's socket, or none", c.CRI.Endpoint)
	}
	switch gc := c.GC; {
	case c.Meta.DelegateTimeout < time.Second || c.Meta.DelegateLimit < 1:
		return errors.New("meta.delegateTimeout must be 1s or more, and meta.delegateLimit 1 or more")
	case gc.Interval < time.Second || gc.Grace < time.Second:
		return errors.New("gc.interval and gc.grace must be 1s or more")
	case gc.GiveUp.Attempts < 1 || gc.GiveUp.After < 0:
		return errors.New("gc.giveUp.attempts must be 1 or more, and gc.giveUp.after 0s or more")
	}
	return nil
}

func (e Etcd) validate() error {
	if !strings.HasPrefix(e.Prefix, "/") || strings.HasSuffix(e.Prefix, "/") {
		return fmt.Errorf("etcd.prefix %q must begin, and must not end, with a slash", e.Prefix)
	}
	if (e.Username == "") != (e.PasswordFile == "") {
		return errors.New("etcd.username and etcd.passwordFile belong together: give both, or neither for a user that is known by its certificate")
	}
	for _, at := range e.Endpoints {
		if strings.Contains(at, "$(") {
			return fmt.Errorf("etcd.endpoints %q holds a variable that the container was not given: a Service's, such as $(PATCHBAY_ETCD_SERVICE_HOST), is there "+
				"only if the Service is in the Pod's namespace before the Pod's container starts; create it, then delete this Pod", at)
		}
	}
	return nil
}

func (b Bridge) validate() error {
	if b.Name == "" {
		return errors.New("name is missing: the bridge's, such as br-data")
	}
	if len(b.Name) > 15 {
		return fmt.Errorf("name %q must have 1 to 15 characters", b.Name)
	}
	return cmp.Or(oneOf("datapathType", cmp.Or(b.DatapathType, "auto"), "auto", "system", "netdev"),
		oneOf("failMode", cmp.Or(b.FailMode, "secure"), "standalone", "secure"))
}

func oneOf(key, value string, allowed ...string) error {
	switch {
	case slices.Contains(allowed, value):
		return nil
	case len(allowed) == 2:
		return fmt.Errorf("%s %q is neither %s nor %s", key, value, allowed[0], allowed[1])
	}
	return fmt.Errorf("%s %q is none of %s", key, value, strings.Join(allowed, ", "))
}
