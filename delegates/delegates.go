// Package delegates defines what makes attachments, and chooses who makes which: a native delegate, such
// as the one for Open vSwitch (delegates/ovs), or CNI plugins that are executed (delegates/exec).
package delegates

import (
	"context"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// A Delegate makes and unmakes attachments of one sandbox. Del unmakes whatever exists of the attachments,
// without knowing how far Add came. It may be repeated.
type Delegate interface {
	// Add makes the attachments and sets the Result of each. When it fails some may have been made: the
	// caller then calls Del for all of them.
	Add(ctx context.Context, s Sandbox, as []*Attachment) error
	// Del returns an error, or nil, for each attachment. It goes on after one that can't be unmade.
	Del(ctx context.Context, s Sandbox, as []*Attachment) []error
	// Check compares what exists with the attachments' Results.
	Check(ctx context.Context, s Sandbox, as []*Attachment) error
	// Status reports whether Add can be served for the configuration.
	Status(ctx context.Context, list *cniconf.List) error
}

// A Collector is a delegate that finds what it has made without a record, as that bears its owner's name.
type Collector interface {
	// Leftovers returns the names of leftovers. It lists what exists before it calls the functions, so that
	// what is made meanwhile is no leftover. accounted tells whether an owner has an attachment; owners lists
	// all that have. If owners is nil, what tells its owner by its name alone is left out.
	Leftovers(ctx context.Context, accounted func(Owner) bool, owners func() []Owner) ([]string, error)
	// RemoveLeftovers removes what Leftovers named.
	RemoveLeftovers(ctx context.Context, names []string) error
}

// ErrNothingLeft says that nothing is left of an attachment: it can be made again.
var ErrNothingLeft = fault.New(fault.NotFound, "nothing is left of the interface")

// A Mender makes again what the host's side of an attachment has lost, and leaves alone what the workload has
// changed in the pod. It returns what was lost, nil if nothing was, and why that can't be mended: ErrNothingLeft
// if the attachment is to be made again.
type Mender interface {
	Mend(ctx context.Context, s Sandbox, a *Attachment) (lost, err error)
}

// An Owner is one interface of one sandbox.
type Owner struct {
	ContainerID string
	Interface   string
}

// A Sandbox is a pod's network namespace as the runtime made it.
type Sandbox struct {
	ContainerID string
	NetnsPath   string
	Netns       *netns.Handle // nil when the namespace is gone (Del only)
	Namespace   string        // of the pod
	Pod         string
	UID         string
	// Args is CNI_ARGS as the runtime gave it.
	Args string
	// Path is CNI_PATH for delegates that are executed.
	Path []string
	// Recorded waits until a record says what Add is about to make, and returns why there can't be one. What
	// does not bear its owner's name is made after that only.
	Recorded func() error
}

// An Attachment is one interface that a delegate is asked for.
type Attachment struct {
	Interface string
	Network   string // the NetworkAttachmentDefinition, namespace/name; "" for an inline configuration
	Config    *cniconf.List
	Requests  Requests
	// Addresses are what IPAM gave, for delegates that don't ask it themselves.
	Addresses *types100.Result
	// Result is what Add made; Bridge and Port where, on Open vSwitch.
	Result       *types100.Result
	Bridge, Port string
	// Tried says that Add has begun with the attachment: parts of it may exist.
	Tried bool
}
