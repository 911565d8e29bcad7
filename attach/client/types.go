// Package client is the Go client of the REST API, and the API's types.
package client

import (
	"encoding/json"
	"net/netip"
	"time"
)

// A Request asks for one attachment: on a network by name, or by an inline CNI configuration.
type Request struct {
	Network      string                     `json:"network,omitempty" doc:"NetworkAttachmentDefinition: name, or namespace/name"`
	Config       json.RawMessage            `json:"config,omitempty" doc:"inline CNI configuration or configuration list, instead of network"`
	Interface    string                     `json:"interface,omitempty" doc:"interface name in the pod; default: the first free of net1, net2, ..."`
	IPs          []string                   `json:"ips,omitempty" doc:"requested addresses, such as 10.12.1.9/24"`
	MAC          string                     `json:"mac,omitempty" doc:"requested hardware address"`
	Bandwidth    *Bandwidth                 `json:"bandwidth,omitempty" doc:"limits in bit/s"`
	PortMappings []PortMapping              `json:"portMappings,omitempty"`
	CNIArgs      map[string]json.RawMessage `json:"cniArgs,omitempty" doc:"merged into args.cni of the configuration"`
	DefaultRoute *[]netip.Addr              `json:"defaultRoute,omitempty" doc:"gateways; gives the pod's default route to this attachment"`
	UID          string                     `json:"uid,omitempty" doc:"the pod's UID; a pod re-created since is refused"`
	DryRun       bool                       `json:"dryRun,omitempty" doc:"plan and validate only"`
}

// Bandwidth limits an attachment: rates in bit/s, bursts in bits, as seen from the pod.
type Bandwidth struct {
	IngressRate  int `json:"ingressRate,omitempty"`
	IngressBurst int `json:"ingressBurst,omitempty"`
	EgressRate   int `json:"egressRate,omitempty"`
	EgressBurst  int `json:"egressBurst,omitempty"`
}

// PortMapping maps a port of the host to one of the pod.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// An Attachment is one interface of one pod.
type Attachment struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Interface string    `json:"interface"`
	Network   string    `json:"network,omitempty"`
	Node      string    `json:"node"`
	Phase     string    `json:"phase"`
	MAC       string    `json:"mac,omitempty"`
	IPs       []string  `json:"ips,omitempty"`
	Gateway   []string  `json:"gateway,omitempty"`
	Routes    []Route   `json:"routes,omitempty"`
	Bridge    string    `json:"bridge,omitempty"`
	Port      string    `json:"port,omitempty"`
	Source    string    `json:"source"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
	Message   string    `json:"message,omitempty"`
}

// A Route is a route of an attachment.
type Route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw,omitempty"`
}

// A Sandbox is a pod's network namespace as recorded.
type Sandbox struct {
	Node          string          `json:"node"`
	ContainerID   string          `json:"containerID"`
	Namespace     string          `json:"namespace"`
	Pod           string          `json:"pod"`
	UID           string          `json:"uid,omitempty"`
	Netns         string          `json:"netns"`
	NetnsCookie   uint64          `json:"netnsCookie"`
	CreatedAt     time.Time       `json:"createdAt"`
	Ending        bool            `json:"ending,omitempty"` // its DEL was called
	Attachments   []Attachment    `json:"attachments"`
	NetworkStatus json.RawMessage `json:"networkStatus,omitempty"`
}

// A Node is a node that runs the daemon.
type Node struct {
	Node    string            `json:"node"`
	BootID  string            `json:"bootID"`
	Version string            `json:"version"`
	Bridges map[string]string `json:"bridges"`
}

// FromNode and FromEtcd say what is right after etcd has lost records: what this node has written, or what is there.
const (
	FromNode = "node"
	FromEtcd = "etcd"
)

// A Recovery tells of a node whose etcd is not what it was.
type Recovery struct {
	Node      string        `json:"node"`
	Suspended bool          `json:"suspended"`
	Reason    string        `json:"reason,omitempty"`
	Pods      []RecoveryPod `json:"pods"` // that run, by what the node has written
}

// A RecoveryPod is a pod whose record can be written back to etcd, or can't.
type RecoveryPod struct {
	Namespace   string   `json:"namespace"`
	Pod         string   `json:"pod"`
	ContainerID string   `json:"containerID"`
	IPs         []string `json:"ips"`
	Conflict    string   `json:"conflict,omitempty"` // why it can't
}

// A RecoverRequest says what is right: FromNode or FromEtcd.
type RecoverRequest struct {
	From string `json:"from" enum:"node,etcd"`
}

// A Pool is an address pool.
type Pool struct {
	Name    string            `json:"name"`
	Spec    json.RawMessage   `json:"spec"`
	Subnets map[string]string `json:"subnets"`
	Claims  []Claim           `json:"claims"`
	// Continue is empty if these are all claims of the pool. Else GET /v1/pools?pool=NAME&continue=THIS has more.
	Continue string `json:"continue,omitempty" doc:"not all claims are here: GET /v1/pools?pool=NAME&continue=THIS has more"`
}

// A Claim is one address and its owner.
type Claim struct {
	Pool        string `json:"pool"`
	IP          string `json:"ip"`
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Pod         string `json:"pod,omitempty"`
}

// A Network is a NetworkAttachmentDefinition.
type Network struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Types     []string `json:"types"`
	Message   string   `json:"message,omitempty"`
}

// A Finding is one result of the node's self-examination.
type Finding struct {
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

// A Leftover is something of ours that is there without a record, or was given up.
type Leftover struct {
	Kind    string `json:"kind"` // port, address or attachment
	ID      string `json:"id"`   // the port's name; pool/ip; containerID/interface
	Node    string `json:"node"`
	Pod     string `json:"pod,omitempty"` // namespace/name, where it is known
	Message string `json:"message"`
	// Kept says that a running pod may use it, as etcd has lost records.
	Kept bool `json:"kept,omitempty"`
}

// A Leak tells claims without an owner and owners without a claim.
type Leak struct {
	Claims    []Claim `json:"claims"`
	Unclaimed []Claim `json:"unclaimed"`
}

// Version is the daemon's.
type Version struct {
	Version     string   `json:"version"`
	CNIVersions []string `json:"cniVersions"`
}

// An Event is one change seen by Watch.
type Event struct {
	Type       string     `json:"type"`
	Attachment Attachment `json:"attachment"`
}

// A Filter restricts a list; empty fields match all.
type Filter struct {
	Node, Namespace, Pod, Network string
}

// A Problem is an error of the API, RFC 9457.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

// Error says what went wrong, with the field if there is one.
func (p *Problem) Error() string {
	text := p.Detail
	for _, e := range p.Errors {
		text += "; "
		if e.Location != "" {
			text += e.Location + ": "
		}
		text += e.Message
	}
	if text == "" {
		text = p.Title
	}
	return text
}
