// Package attach owns the state: which sandboxes there are on this node, which attachments each
// one is to have and has. The Engine makes it so for all callers: the CNI door (attach/cni), the
// REST door (attach/api), and recovery.
package attach

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// A Sandbox is a pod's network namespace and its attachments, as recorded in etcd.
type Sandbox struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	UID         string `json:"uid,omitempty"`
	Netns       string `json:"netns"`
	NetnsCookie uint64 `json:"netnsCookie"`
	NetnsPlace  string `json:"netnsPlace,omitempty"` // see netns.Place; records of earlier releases have none
	BootID      string `json:"bootID"`
	// CNINetwork is the name of the configuration under which the runtime has added the pod; empty if it
	// added single interfaces. Records of the first release have none.
	CNINetwork  string       `json:"cniNetwork,omitempty"`
	CNIArgs     string       `json:"cniArgs,omitempty"`
	CNIPath     []string     `json:"cniPath,omitempty"`
	CreatedAt   time.Time    `json:"createdAt"`
	Attachments []Attachment `json:"attachments"`
	// Ending says that the record goes with its last attachment: the ADD has not been answered yet, or
	// failed, or the DEL was called.
	Ending bool `json:"ending,omitempty"`
}

// An Attachment is one interface of a sandbox: what was asked, and what was made.
type Attachment struct {
	Spec   Spec   `json:"spec"`
	Status Status `json:"status"`
}

// A Spec is what was asked, as it is recorded: with the exact configuration, so that it can be unmade when
// the network has changed or gone.
type Spec meta.Wanted

// A Phase tells how far an attachment is.
type Phase string

// The phases. Of a Pending attachment no caller was told: recovery unmakes it. A Failed one could
// not be unmade and is tried again, by its caller and by GC. An Abandoned one could not be unmade for so
// long that no caller waits for it any more; only GC goes on trying, now and then.
const (
	Pending   Phase = "Pending"
	Ready     Phase = "Ready"
	Failed    Phase = "Failed"
	Abandoned Phase = "Abandoned"
)

// Known reports whether it is one of the phases, not a newer release's, or none.
func (p Phase) Known() bool { return slices.Contains([]Phase{Pending, Ready, Failed, Abandoned}, p) }

// A Status is what was made.
type Status struct {
	Phase     Phase            `json:"phase"`
	Result    *types100.Result `json:"result,omitempty"`
	Bridge    string           `json:"bridge,omitempty"`
	Port      string           `json:"port,omitempty"`
	Claims    []ipam.Claim     `json:"claims,omitempty"`
	Device    *nad.DeviceInfo  `json:"device,omitempty"`
	Displaced []Route          `json:"displaced,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	Message   string           `json:"message,omitempty"`
	Deletion  *Deletion        `json:"deletion,omitempty"` // of a Failed or Abandoned attachment
	// Refused says that the plugin has refused the ADD itself: by its own word it made nothing.
	Refused bool `json:"refused,omitempty"`
}

// A Route is a default route that gave way to another attachment's.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw,omitzero"`
}

// equal reports whether both ask for the same: who asked does not matter.
func (s Spec) equal(o Spec) bool {
	s.Source, o.Source = "", ""
	return sameJSON(s, o)
}

// sameJSON reports whether two values are written the same. An address, for one, has more than one form in
// memory.
func sameJSON(a, b any) bool {
	one, errOne := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

// Find returns the attachment of that interface, or nil. A sandbox without a record has none.
func (s *Sandbox) Find(ifName string) *Attachment {
	if s == nil {
		return nil
	}
	return find(s.Attachments, ifName)
}

func find(as []Attachment, ifName string) *Attachment {
	for i := range as {
		if as[i].Spec.Interface == ifName {
			return &as[i]
		}
	}
	return nil
}

// Interfaces returns the names of the sandbox's interfaces. A sandbox without a record has none.
func (s *Sandbox) Interfaces() []string {
	if s == nil {
		return nil
	}
	var names []string
	for _, a := range s.Attachments {
		names = append(names, a.Spec.Interface)
	}
	return names
}

// Made returns the attachments as package meta wants them for results and status, without those that could
// neither be made nor unmade.
func (s *Sandbox) Made() []meta.Made {
	var made []meta.Made
	for _, a := range s.Attachments {
		if a.Status.Phase != Ready && a.Status.Result == nil {
			continue
		}
		m := meta.Made{Network: a.Spec.Network, Config: a.Spec.Config.Name, Result: a.Status.Result, DefaultRoute: a.Spec.DefaultRoute, Device: a.Status.Device}
		if a.hasInterface() {
			m.Interface = a.Spec.Interface
		}
		made = append(made, m)
	}
	return made
}

// metaPod is the pod as package meta knows it, without its annotations.
func (s *Sandbox) metaPod() meta.Pod {
	return meta.Pod{Namespace: s.Namespace, Name: s.Pod, UID: s.UID}
}

// forDelegates is the sandbox as delegates want it, before its namespace is opened.
func (s *Sandbox) forDelegates() delegates.Sandbox {
	return delegates.Sandbox{ContainerID: s.ContainerID, NetnsPath: s.Netns, Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Args: s.CNIArgs, Path: s.CNIPath}
}

// sameNamespace reports whether both are of the same network namespace: a runtime can use an ID again.
func (s *Sandbox) sameNamespace(o *Sandbox) bool {
	return s.NetnsCookie == o.NetnsCookie && s.BootID == o.BootID
}

// has reports whether all that is wanted is there as it is wanted.
func (s *Sandbox) has(wanted ...meta.Wanted) bool {
	return !slices.ContainsFunc(wanted, func(w meta.Wanted) bool {
		a := s.Find(w.Interface)
		return a == nil || a.Status.Phase != Ready || !a.Spec.equal(newSpec(w, s.ContainerID))
	})
}

// hasInterface reports whether the attachment is an interface: a chain that begins with passthru, as
// the auxiliary one does, only works on those of others.
func (a *Attachment) hasInterface() bool { return a.Spec.Config.Plugins[0].Type != cniconf.Passthru }

// describe names an attachment for people: its interface, network and addresses.
func (a *Attachment) describe() string {
	text := a.Spec.Interface
	if a.Spec.Network != "" {
		text += " on network " + a.Spec.Network
	}
	if a.Status.Result != nil {
		before := ", address "
		for _, ip := range a.Status.Result.IPs {
			text += before + ip.Address.String()
			before = ", "
		}
	}
	return text
}

// with returns a copy of the record in which the attachments are added, or take the place of those of the
// same interface. A record is never changed once anybody else can see it.
func (s *Sandbox) with(as ...Attachment) *Sandbox {
	c := *s
	c.Attachments = slices.Clone(s.Attachments)
	for _, a := range as {
		if have := c.Find(a.Spec.Interface); have != nil {
			*have = a
		} else {
			c.Attachments = append(c.Attachments, a)
		}
	}
	return &c
}

// ended returns a copy of the record that is Ending.
func (s *Sandbox) ended() *Sandbox {
	c := *s
	c.Ending = true
	return &c
}

// over reports whether the sandbox has ended, but for attachments that were given up.
func (s *Sandbox) over() bool {
	return s.Ending && !slices.ContainsFunc(s.Attachments, isNotAbandoned)
}

// without returns a copy of the record without that interface.
func (s *Sandbox) without(ifName string) *Sandbox {
	c := *s
	c.Attachments = where(s.Attachments, func(a Attachment) bool { return a.Spec.Interface != ifName })
	return &c
}

// where returns the attachments for which is holds.
func where(as []Attachment, is func(Attachment) bool) []Attachment {
	return slices.DeleteFunc(slices.Clone(as), func(a Attachment) bool { return !is(a) })
}

func isAbandoned(a Attachment) bool    { return a.Status.Phase == Abandoned }
func isNotAbandoned(a Attachment) bool { return a.Status.Phase != Abandoned }
