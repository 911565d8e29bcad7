package meta

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// ErrNotFound says that the catalog has no such pod or network.
var ErrNotFound = error(types.NewError(types.ErrInvalidNetworkConfig, "not found", ""))

// ErrForbidden says that a pod may not use a network.
var ErrForbidden = fault.New(fault.Forbidden, "forbidden")

// ErrReplaced says that the pod of that name is another one by now.
var ErrReplaced = fault.New(fault.RetryLater, "the pod was re-created")

// ErrUnavailable says that the catalog can't be asked at the moment.
var ErrUnavailable = fault.New(fault.Unavailable, "the API server gives no answer")

// ErrOnNodes says that a network's configuration is on the nodes' disks, which can't be seen from here.
var ErrOnNodes = fault.New(fault.Invalid, "its configuration is on the nodes' disks")

// A Pod is what planning needs of a pod.
type Pod struct {
	Namespace, Name, UID string
	MirrorOf             string // the UID of the static pod that this is the API's copy of
	Version              string // of the object, if the catalog has versions
	Annotations          map[string]string
}

// Is reports whether the runtime's UID is this pod's; either may be unknown.
func (p *Pod) Is(uid string) bool {
	return uid == "" || p.UID == "" || p.UID == uid || p.MirrorOf == uid
}

// ResourceAnnotation of a NetworkAttachmentDefinition names the device plugin's resource that its
// interfaces are made of.
const ResourceAnnotation = "k8s.v1.cni.cncf.io/resourceName"

// A Network is a NetworkAttachmentDefinition.
type Network struct {
	Namespace, Name string
	Config          string // spec.config; empty: a configuration on disk of the same name
	Resource        string // the device plugin's resource, if it needs one
}

// ByName compares networks by namespace and name.
func ByName(a, b Network) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// A Catalog knows pods and networks. It returns ErrNotFound for what it does not have.
type Catalog interface {
	Networks
	// Pod returns the pod of that name and UID, any UID if it is empty, or ErrReplaced.
	Pod(ctx context.Context, namespace, name, uid string) (*Pod, error)
}

// Networks is the part of a Catalog that a Planner needs.
type Networks interface {
	Network(ctx context.Context, namespace, name string) (*Network, error)
}

// Devices knows the devices of pods.
type Devices interface {
	// Devices returns a pod's devices, by resource, in the order in which they are used.
	Devices(ctx context.Context, namespace, pod string) (map[string][]string, error)
	// Hands reports whether anybody hands devices of the resource to pods.
	Hands(ctx context.Context, resource string) (bool, error)
}

// Config is the daemon's "meta" section as far as planning needs it.
type Config struct {
	ClusterNetwork     string
	DefaultNetworks    []string
	SystemNamespaces   []string
	NamespaceIsolation bool
	GlobalNamespaces   []string
	// Overriding are the namespaces whose pods may choose their own cluster network, besides
	// SystemNamespaces; "*": all.
	Overriding []string
	CNIConfDir string // "": not on a node, and networks without a configuration are ErrOnNodes
	// Namespace is where networks named without one are; empty: the first of SystemNamespaces.
	Namespace string
	// Inline are the cluster network and further default networks by configuration, not by name.
	Inline []*cniconf.List
	// Devices knows what kubelet has given to pods; nil: networks that need a device are refused.
	Devices Devices
	// AnyDevice says that devices are not asked for: what is planned is judged, not made.
	AnyDevice bool
	// ReadinessFile is written by whoever makes the cluster network; until then ADDs wait.
	ReadinessFile string
	// AuxiliaryChain names a chain of plugins that runs for every pod after its networks: the
	// *.conf files of the directory of that name beside the cluster network's configuration.
	AuxiliaryChain string
	// Implied are the capabilities of plugin types that need no declaration: our own.
	Implied map[string][]string
	// Trusted are the namespaces whose networks may reach the node itself, besides SystemNamespaces; "*": all.
	Trusted []string
	// NeedsTrust returns the key of a configuration that reaches the node itself, "" if none does.
	NeedsTrust func(*cniconf.List) string
}

// A Source says who asked for an attachment.
type Source string

// The sources, in the order in which attachments are made. Records hold these values.
const (
	SourceCluster    Source = "cluster"  // the pod's eth0
	SourceDefault    Source = "default"  // one of meta.defaultNetworks
	SourceAnnotation Source = "selected" // the pod's annotation
	SourceChain      Source = "chain"    // the auxiliary chain, which makes no interface
	SourceAPI        Source = "api"      // the REST API
	SourceDirect     Source = "direct"   // a runtime that calls our plugin with a network's own configuration
)

// Wanted is one attachment that a pod is to have.
type Wanted struct {
	Source       Source             `json:"role"`
	Network      string             `json:"network,omitempty"` // namespace/name; "" for an inline configuration or one on disk
	Interface    string             `json:"interface"`
	Config       *cniconf.List      `json:"config"`
	Requests     delegates.Requests `json:"runtimeConfig,omitzero"`
	DefaultRoute *[]netip.Addr      `json:"defaultRoute,omitempty"`
	Resource     string             `json:"resource,omitempty"`  // what the network's interfaces are made of
	DeviceID     string             `json:"deviceID,omitempty"`  // the one of them for this attachment
	IPAMClaim    string             `json:"ipamClaim,omitempty"` // namespace/name; keeps the addresses when the pod is gone
}

// A Planner works out what a pod is to have.
type Planner struct {
	networks Networks
	cfg      Config
	parsed   *parsed
}

// NewPlanner returns a planner.
func NewPlanner(networks Networks, cfg Config) *Planner {
	return &Planner{networks: networks, cfg: cfg, parsed: newParsed()}
}

// Config returns the planner's configuration.
func (p *Planner) Config() Config { return p.cfg }

// With returns a planner with another configuration.
func (p *Planner) With(cfg Config) *Planner { return &Planner{p.networks, cfg, p.parsed} }

// Plan returns the attachments of a pod that starts, in order: cluster network as ifName, default
// networks, the pod's own. runtime holds the capability arguments of the container runtime, which
// are for the cluster network alone (specification 7.5).
func (p *Planner) Plan(ctx context.Context, pod Pod, ifName string, runtime map[string]json.RawMessage) ([]Wanted, error) {
	if err := p.ready(); err != nil {
		return nil, err
	}
	own, err := ParseNetworks(pod.Annotations[NetworksAnnotation], pod.Namespace)
	if err != nil {
		return nil, err
	}
	all, err := p.cluster(ctx, pod, ifName, runtime)
	if err != nil {
		return nil, err
	}
	hasCluster := len(all) > 0
	taken := []string{ifName}
	for _, s := range own {
		taken = append(taken, s.Interface) // no attachment gets the name that another one asks for
	}
	for i, list := range p.cfg.Inline[min(1, len(p.cfg.Inline)):] { // the first is the cluster network
		w, err := p.want(list, Selection{}, SourceDefault, "default network "+list.Name)
		if err != nil {
			return nil, err
		}
		w.Interface = freeName(taken, i+1)
		all, taken = append(all, w), append(taken, w.Interface)
	}
	var sels []Selection
	if !slices.Contains(p.cfg.SystemNamespaces, pod.Namespace) {
		for _, n := range p.cfg.DefaultNetworks {
			sels = append(sels, p.reference(n))
		}
	}
	for i, s := range slices.Concat(sels, own) {
		source := SourceAnnotation
		if i < len(sels) {
			source = SourceDefault
		}
		w, err := p.selected(ctx, pod.Namespace, s, source)
		if err != nil {
			return nil, err
		}
		if s.IPAMClaim != "" {
			w.IPAMClaim = pod.Namespace + "/" + s.IPAMClaim
		}
		if hasCluster && s.Interface == ifName {
			return nil, fmt.Errorf("network %s: %w", s.Ref(), malformed("interface name %q is taken by the cluster network", ifName))
		}
		w.Interface = cmp.Or(s.Interface, freeName(taken, i+1))
		all, taken = append(all, w), append(taken, w.Interface)
		if err := checkSize(all); err != nil {
			return nil, fmt.Errorf("network %s: %w", s.Ref(), err)
		}
	}
	chain, err := p.auxiliary(freeName(taken, len(all)))
	if err != nil {
		return nil, err
	}
	all = append(all, chain...)
	return all, p.allot(ctx, pod, all)
}

// freeName returns the first of net1, net2, ... that is not taken, from a position on.
func freeName(taken []string, position int) string {
	for ; ; position++ {
		if name := fmt.Sprintf("net%d", position); !slices.Contains(taken, name) {
			return name
		}
	}
}

// auxiliary plans the auxiliary chain, if there is one and it has plugins, as Multus does for
// auxiliaryCNIChainName.
func (p *Planner) auxiliary(ifName string) ([]Wanted, error) {
	name := p.cfg.AuxiliaryChain
	if name == "" {
		return nil, nil
	}
	dir := p.cfg.ClusterNetwork
	if !strings.HasPrefix(dir, "/") {
		return nil, malformed("auxiliary chain %s: the cluster network must be a file or directory, beside which the chain's directory is; it is %q", name, dir)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		dir = filepath.Dir(dir)
	}
	list, err := cniconf.Chain(dir, name)
	if err != nil || list == nil {
		return nil, err
	}
	w, err := p.want(list, Selection{}, SourceChain, "auxiliary chain "+name)
	w.Interface = ifName
	return []Wanted{w}, err
}

// ready reports whether the cluster network is (multi-network specification 6.1).
func (p *Planner) ready() error {
	if p.cfg.ReadinessFile == "" {
		return nil
	}
	if _, err := os.Stat(p.cfg.ReadinessFile); err != nil {
		return types.NewError(types.ErrTryAgainLater, "the cluster network is not ready", err.Error()+"; its maker writes it (meta.readinessFile)")
	}
	return nil
}

// One plans a single attachment for a running pod that has the interfaces taken. One that the element
// asks for may be among them: whether it is this very attachment, the engine knows.
func (p *Planner) One(ctx context.Context, podNamespace string, s Selection, taken []string) (Wanted, error) {
	s.Namespace = cmp.Or(s.Namespace, podNamespace)
	if err := s.Validate(); err != nil {
		return Wanted{}, fmt.Errorf("network %s: %w", s.Ref(), err)
	}
	if len(taken) >= maxNetworks {
		return Wanted{}, malformed("network %s: the pod has %d interfaces, the most that one pod can have", s.Ref(), len(taken))
	}
	w, err := p.selected(ctx, podNamespace, s, SourceAPI)
	if err == nil {
		err = p.noDevice(ctx, &w)
	}
	w.Interface = cmp.Or(s.Interface, freeName(taken, 1))
	return w, err
}

// Inline plans an attachment whose configuration is given with the request.
func (p *Planner) Inline(config json.RawMessage, s Selection, taken []string) (Wanted, error) {
	s.Name = "inline"
	if err := s.Validate(); err != nil {
		return Wanted{}, fmt.Errorf("inline configuration: %w", err)
	}
	list, err := cniconf.Parse(config, s.Name)
	if err != nil {
		return Wanted{}, err
	}
	w, err := p.want(list, s, SourceAPI, "inline configuration "+list.Name)
	w.Interface = cmp.Or(s.Interface, freeName(taken, 1))
	return w, err
}

// cluster plans the pod's eth0, if it has one: the network that the pod's default-network annotation
// names, or else the configured one.
func (p *Planner) cluster(ctx context.Context, pod Pod, ifName string, runtime map[string]json.RawMessage) ([]Wanted, error) {
	var w Wanted
	var err error
	switch override := strings.TrimSpace(pod.Annotations[DefaultNetworkAnnotation]); {
	case override != "":
		w, err = p.override(ctx, pod, override)
	case len(p.cfg.Inline) > 0:
		w, err = p.want(p.cfg.Inline[0], Selection{}, SourceCluster, "cluster network "+p.cfg.Inline[0].Name)
	case p.cfg.ClusterNetwork != "":
		w, err = p.configured(ctx, p.cfg.ClusterNetwork)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w.Source, w.Interface = SourceCluster, ifName
	declared := maps.Clone(runtime)
	maps.DeleteFunc(declared, func(name string, _ json.RawMessage) bool { return !w.Config.Declares(name) })
	if w.Requests, err = w.Requests.With(declared); err != nil {
		return nil, fmt.Errorf("runtime's arguments for the cluster network: %w", err)
	}
	return []Wanted{w}, nil
}

// override plans the cluster network that a pod has chosen. With it the pod sheds the cluster's, and the
// policies that hold there: not every namespace's pods may.
func (p *Planner) override(ctx context.Context, pod Pod, annotation string) (Wanted, error) {
	sels, err := ParseNetworks(annotation, p.systemNamespace())
	if err != nil {
		return Wanted{}, fmt.Errorf("annotation %s: %w", DefaultNetworkAnnotation, err)
	}
	if len(sels) != 1 {
		return Wanted{}, malformed("annotation %s must name exactly one network, not %d", DefaultNetworkAnnotation, len(sels))
	}
	may := slices.Concat(p.cfg.SystemNamespaces, p.cfg.Overriding)
	if !slices.Contains(may, pod.Namespace) && !slices.Contains(may, "*") {
		return Wanted{}, fmt.Errorf("annotation %s: network %s: %w: pods of namespace %s may not choose their cluster network (meta.allowDefaultNetworkOverride)",
			DefaultNetworkAnnotation, sels[0].Ref(), ErrForbidden, pod.Namespace)
	}
	if slices.Contains(p.cfg.SystemNamespaces, sels[0].Namespace) {
		return p.lookUp(ctx, sels[0], SourceCluster)
	}
	return p.selected(ctx, pod.Namespace, sels[0], SourceCluster)
}

// configured finds a network that the daemon's configuration names: a NAD, or a file on disk.
func (p *Planner) configured(ctx context.Context, name string) (Wanted, error) {
	if !strings.HasPrefix(name, "/") {
		w, err := p.lookUp(ctx, p.reference(name), SourceCluster)
		if !errors.Is(err, ErrNotFound) || strings.Contains(name, "/") {
			return w, err
		}
	}
	list, err := cniconf.Find(p.cfg.CNIConfDir, name)
	if err != nil {
		return Wanted{}, fmt.Errorf("cluster network %s: %w", name, err)
	}
	return p.want(list, Selection{}, SourceCluster, name)
}

func (p *Planner) reference(name string) Selection {
	if ns, n, ok := strings.Cut(name, "/"); ok {
		return Selection{Namespace: ns, Name: n}
	}
	return Selection{Namespace: p.systemNamespace(), Name: name}
}

func (p *Planner) systemNamespace() string {
	return cmp.Or(slices.Concat([]string{p.cfg.Namespace}, p.cfg.SystemNamespaces, []string{"kube-system"})...)
}

// selected looks up a network for a pod, if the pod may use it.
func (p *Planner) selected(ctx context.Context, podNamespace string, s Selection, source Source) (Wanted, error) {
	if source != SourceDefault {
		if err := p.Allowed(podNamespace, s.Namespace); err != nil {
			return Wanted{}, fmt.Errorf("network %s: %w", s.Ref(), err)
		}
	}
	return p.lookUp(ctx, s, source)
}

// Allowed is the one place that decides which namespaces' networks a pod may use.
func (p *Planner) Allowed(podNamespace, networkNamespace string) error {
	if !p.cfg.NamespaceIsolation || podNamespace == networkNamespace || slices.Contains(p.cfg.GlobalNamespaces, networkNamespace) {
		return nil
	}
	return fmt.Errorf("%w: pods of namespace %s may use networks of their own namespace and of %s only (meta.namespaceIsolation)",
		ErrForbidden, podNamespace, strings.Join(p.cfg.GlobalNamespaces, ", "))
}

// Could fails with ErrForbidden if a pod can't have been given networks of a namespace by that source. All pods are
// given those that the configuration names, and may choose their cluster network in the system namespaces.
func (p *Planner) Could(podNamespace string, source Source, networkNamespace string) error {
	if source == SourceDefault || source == SourceCluster {
		named := slices.ContainsFunc(append([]string{p.cfg.ClusterNetwork}, p.cfg.DefaultNetworks...), func(n string) bool {
			return p.reference(n).Namespace == networkNamespace
		})
		if named || slices.Contains(p.cfg.SystemNamespaces, networkNamespace) {
			return nil
		}
	}
	return p.Allowed(podNamespace, networkNamespace)
}

func (p *Planner) lookUp(ctx context.Context, s Selection, source Source) (Wanted, error) {
	n, err := p.networks.Network(ctx, s.Namespace, s.Name)
	if err != nil {
		return Wanted{}, fmt.Errorf("network %s: %w", s.Ref(), err)
	}
	var list *cniconf.List
	switch {
	case strings.TrimSpace(n.Config) != "":
		if list, err = p.parsed.list(n); err == nil {
			err = p.cfg.Trusts(s.Namespace, list)
		}
	case p.cfg.CNIConfDir == "":
		err = ErrOnNodes
	default:
		list, err = cniconf.Find(p.cfg.CNIConfDir, n.Name)
	}
	if err != nil {
		return Wanted{}, fmt.Errorf("network %s: %w", s.Ref(), err)
	}
	w, err := p.want(list, s, source, "network "+s.Ref())
	w.Network, w.Resource, w.DeviceID = s.Ref(), n.Resource, s.DeviceID
	return w, err
}

// want joins a configuration and what the pod asked of it. A request that no plugin of the
// configuration can honour is refused, never dropped.
func (p *Planner) want(list *cniconf.List, s Selection, source Source, what string) (Wanted, error) {
	w := Wanted{Source: source, Config: list, DefaultRoute: s.DefaultRoute, Requests: s.requests()}
	if err := p.cfg.CheckChain(list); err != nil {
		return w, fmt.Errorf("%s: %w", what, err)
	}
	if s.IPAMClaim != "" && !p.persists(list, source) {
		return w, types.NewError(cniwire.ErrRefused, fmt.Sprintf("%s can't honour \"ipam-claim-reference\": only further networks of type patchbay-ovs with addresses from patchbay-ipam keep them", what), "drop it from the request")
	}
	if len(s.CNIArgs) > 0 {
		if err := list.MergeArgs(s.CNIArgs); err != nil {
			return w, fmt.Errorf("%s: %w", what, err)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(w.Requests.Arguments())) {
		// Addresses and the hardware address reach every plugin in CNI_ARGS, too; the engine compares
		// what comes of it with the request.
		if !inArgs(c) && !list.Declares(c) && !slices.Contains(p.cfg.Implied[list.Plugins[0].Type], c) {
			key := strings.Replace(c, "infinibandGUID", "infiniband-guid", 1) // the others' keys are their names
			return w, types.NewError(cniwire.ErrRefused, fmt.Sprintf("%s can't honour %q: no plugin of it declares the capability %q", what, key, c),
				fmt.Sprintf("add \"capabilities\": {%q: true} to a plugin that has it, or drop %q from the request", c, key))
		}
	}
	return w, nil
}

// persists reports whether a network's addresses can be an IPAMClaim's (specification 8: not those of
// the cluster network).
func (p *Planner) persists(list *cniconf.List, source Source) bool {
	head := list.Plugins[0]
	return source != SourceCluster && p.cfg.Implied[head.Type] != nil && head.IPAMType == "patchbay-ipam"
}
