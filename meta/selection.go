// Package meta turns what a pod asks for, in annotations and network attachment definitions, into
// an ordered list of wanted attachments, and what was made of it into a CNI result and a network
// status (NPWG multi-network specification v1.3).
package meta

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/ipam"
)

// The annotations, multi-network specification sections 4 and 5.
const (
	NetworksAnnotation       = "k8s.v1.cni.cncf.io/networks"
	StatusAnnotation         = "k8s.v1.cni.cncf.io/network-status"
	DefaultNetworkAnnotation = "v1.multus-cni.io/default-network"
)

// A Selection is a network selection element, specification 4.1.2.1.
type Selection struct {
	Name           string                     `json:"name"`
	Namespace      string                     `json:"namespace,omitempty"`
	IPs            []string                   `json:"ips,omitempty"`
	MAC            string                     `json:"mac,omitempty"`
	InfinibandGUID string                     `json:"infiniband-guid,omitempty"`
	Interface      string                     `json:"interface,omitempty"`
	CNIArgs        map[string]json.RawMessage `json:"cni-args,omitempty"`
	PortMappings   []PortMapping              `json:"portMappings,omitempty"`
	Bandwidth      *delegates.Bandwidth       `json:"bandwidth,omitempty"`
	DeviceID       string                     `json:"deviceID,omitempty"`
	// DefaultRoute holds the gateways; nil when the element has no default-route key, which is
	// not the same as an empty list.
	DefaultRoute *[]netip.Addr `json:"default-route,omitempty"`
	IPAMClaim    string        `json:"ipam-claim-reference,omitempty"`
}

// A PortMapping is an entry of portMappings, 4.1.2.1.7.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// ParseNetworks reads the networks annotation of a pod in podNamespace, in either form. An
// annotation that breaks the specification is an error, never ignored: the pod asked for an
// interface and would start without it.
func ParseNetworks(annotation, podNamespace string) ([]Selection, error) {
	if strings.TrimSpace(annotation) == "" {
		return nil, nil
	}
	parse := parseShort
	if strings.ContainsAny(annotation, "[{\"") {
		parse = parseJSON
	}
	sels, err := parse(annotation)
	if err != nil {
		return nil, err
	}
	if len(sels) > maxNetworks {
		return nil, malformed("annotation %s asks for %d networks: %d are the most that one pod can have", NetworksAnnotation, len(sels), maxNetworks)
	}
	routes, interfaces := 0, map[string]int{}
	for i := range sels {
		s := &sels[i]
		s.Namespace = cmp.Or(s.Namespace, podNamespace)
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("annotation %s, element %d (%s): %w", NetworksAnnotation, i+1, s.Ref(), err)
		}
		if s.DefaultRoute != nil {
			routes++
		}
		if first := interfaces[s.Interface]; first > 0 && s.Interface != "" {
			return nil, malformed("annotation %s: elements %d and %d both ask for interface %q", NetworksAnnotation, first, i+1, s.Interface)
		}
		interfaces[s.Interface] = i + 1
	}
	if routes > 1 {
		return nil, malformed("annotation %s: %d elements have default-route: only one may", NetworksAnnotation, routes)
	}
	return sels, nil
}

// parseShort reads [namespace/]name[@interface], separated by commas.
func parseShort(annotation string) ([]Selection, error) {
	var sels []Selection
	at := 0
	for item := range strings.SplitSeq(annotation, ",") {
		character := at + len(item) - len(strings.TrimLeft(item, " \t\n")) + 1
		at += len(item) + 1
		s, err := parseShortItem(strings.TrimSpace(item))
		if err != nil {
			return nil, malformed("annotation %s, character %d: %s", NetworksAnnotation, character, err)
		}
		sels = append(sels, s)
	}
	return sels, nil
}

func parseShortItem(text string) (Selection, error) {
	network, ifName, hasInterface := strings.Cut(text, "@")
	namespace, name, hasNamespace := strings.Cut(network, "/")
	if !hasNamespace {
		namespace, name = "", network
	}
	switch {
	case text == "":
		return Selection{}, errors.New("a network's name is missing")
	case strings.Contains(ifName, "@"):
		return Selection{}, fmt.Errorf("%q: it has more than one @: write name@interface", text)
	case hasNamespace && namespace == "":
		return Selection{}, fmt.Errorf("%q: %s", text, notName("namespace", ""))
	case hasInterface && ifName == "":
		return Selection{}, fmt.Errorf("%q: %s", text, cniwire.CheckIfName(""))
	}
	return Selection{Name: name, Namespace: namespace, Interface: ifName}, nil
}

// elementKeys are the keys of a selection element; others must be reverse-DNS names, with a period.
var elementKeys = []string{"name", "namespace", "ips", "mac", "infiniband-guid", "interface", "interfaceRequest", "cni-args",
	"portMappings", "bandwidth", "deviceID", "default-route", "ipam-claim-reference"}

func parseJSON(annotation string) ([]Selection, error) {
	b := []byte(annotation)
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, malformed("annotation %s is not a JSON list: %s", NetworksAnnotation, explain.JSON(b, err))
	}
	sels := make([]Selection, len(raw))
	for i, r := range raw {
		if err := parseElement(r, &sels[i]); err != nil {
			return nil, malformed("annotation %s, element %d (character %d): %s", NetworksAnnotation, i+1, bytes.Index(b, r)+1, err)
		}
	}
	return sels, nil
}

func parseElement(raw json.RawMessage, s *Selection) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil || keys == nil {
		return errors.New("it must be an object, such as {\"name\": \"blue\"}")
	}
	for k := range keys {
		if !slices.Contains(elementKeys, k) && !strings.Contains(k, ".") {
			return fmt.Errorf("unknown key %s%s", explain.Key(k), explain.Hint(k, slices.Clone(elementKeys)))
		}
	}
	if err := checkGateways(keys["default-route"]); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return errors.New(explain.JSON(raw, err))
	}
	if old := keys["interfaceRequest"]; old != nil && s.Interface == "" {
		if err := json.Unmarshal(old, &s.Interface); err != nil {
			return fmt.Errorf("\"interfaceRequest\": %s", explain.JSON(old, err))
		}
	}
	switch {
	case s.Name == "":
		return errors.New("\"name\" is missing: the network's")
	case keys["ips"] != nil && len(s.IPs) == 0:
		return errors.New("\"ips\" is empty: give an address, or leave it out")
	case keys["portMappings"] != nil && len(s.PortMappings) == 0:
		return errors.New("\"portMappings\" is empty: give a mapping, or leave it out")
	case keys["interface"] != nil && s.Interface == "":
		return errors.New("\"interface\" is empty: give a name, or leave it out")
	}
	return nil
}

// checkGateways checks a default-route key, if there is one: a list of addresses, which may be empty.
func checkGateways(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var texts []string
	if err := json.Unmarshal(raw, &texts); err != nil || texts == nil {
		return errors.New("\"default-route\" must be a list of gateways, such as [\"10.12.0.1\"]")
	}
	for _, t := range texts {
		if _, err := netip.ParseAddr(t); err != nil {
			return fmt.Errorf("\"default-route\": %q is not a gateway's address, such as 10.12.0.1", t)
		}
	}
	return nil
}

func notName(what, text string) string {
	if text == "" {
		return "the " + what + " is missing"
	}
	return fmt.Sprintf("%q is not a %s: lower-case letters, digits, dashes and dots", text, what)
}

// Validate checks the element by itself, and gives a port mapping without a protocol TCP.
func (s *Selection) Validate() error {
	badInterface := cniwire.CheckIfName(s.Interface)
	_, badMAC := cniconf.HardwareAddr(s.MAC)
	guid, badGUID := net.ParseMAC(s.InfinibandGUID)
	switch {
	case !objectName.MatchString(s.Name):
		return malformed("%s", notName("network's name", s.Name))
	case s.Namespace != "" && !objectName.MatchString(s.Namespace):
		return malformed("%s", notName("namespace", s.Namespace))
	case s.Interface != "" && badInterface != "":
		return malformed("%s", badInterface)
	case s.Interface == "lo":
		return malformed("interface name \"lo\" is the loopback's: choose another")
	case s.MAC != "" && badMAC != nil:
		return malformed("mac: %s", badMAC)
	case s.InfinibandGUID != "" && (badGUID != nil || len(guid) != 8):
		return malformed("infiniband-guid: %q is not a GUID of eight bytes, such as 02:00:00:00:00:00:00:01", s.InfinibandGUID)
	}
	if err := s.validateIPs(); err != nil {
		return err
	}
	for i := range s.PortMappings {
		if err := s.PortMappings[i].validate(); err != nil {
			return err
		}
	}
	if s.Bandwidth != nil {
		return validBandwidth(s.Bandwidth)
	}
	return nil
}

func (s *Selection) validateIPs() error {
	if len(s.IPs) > 0 && s.IPAMClaim != "" {
		return malformed("ips and ipam-claim-reference exclude each other: the IPAMClaim has the addresses")
	}
	ips, err := ipam.ParseRequests(s.IPs)
	if err != nil {
		return malformed("ips: %s", err)
	}
	for _, ip := range ips {
		if ip.Addr.IsUnspecified() || ip.Addr.IsMulticast() {
			return malformed("ips: %s is not an address that an interface can have", ip.Addr)
		}
	}
	return nil
}

func (m *PortMapping) validate() error {
	if m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
		return malformed("portMappings: hostPort %d and containerPort %d must be between 1 and 65535", m.HostPort, m.ContainerPort)
	}
	if m.Protocol = strings.ToLower(cmp.Or(m.Protocol, "tcp")); !slices.Contains([]string{"tcp", "udp", "sctp"}, m.Protocol) {
		return malformed("portMappings: protocol %q is none of tcp, udp, sctp", m.Protocol)
	}
	return nil
}

func validBandwidth(b *delegates.Bandwidth) error {
	for _, v := range []struct {
		name  string
		value int
	}{{"ingressRate", b.IngressRate}, {"ingressBurst", b.IngressBurst}, {"egressRate", b.EgressRate}, {"egressBurst", b.EgressBurst}} {
		if v.value < 0 {
			return malformed("bandwidth: %s %d is negative", v.name, v.value)
		}
	}
	switch {
	case b.IngressRate == 0 && b.EgressRate == 0:
		return malformed("bandwidth: neither ingressRate nor egressRate is set")
	case b.IngressBurst > 0 && b.IngressRate == 0:
		return malformed("bandwidth: ingressBurst without ingressRate")
	case b.EgressBurst > 0 && b.EgressRate == 0:
		return malformed("bandwidth: egressBurst without egressRate")
	}
	return nil
}

// Ref is the network's name as users write it.
func (s *Selection) Ref() string { return s.Namespace + "/" + s.Name }

// malformed is CNI error 7: the request is wrong and stays wrong.
func malformed(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}
