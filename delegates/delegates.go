// Package delegates defines what makes attachments, and chooses who makes which: a native delegate, such
// as the one for Open vSwitch (delegates/ovs), or CNI plugins that are executed (delegates/exec).
package delegates

import (
	"context"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// A Delegate makes and unmakes attachments of one sandbox. Del unmakes whatever of the attachments
// is there, without knowing how far Add came; it may be repeated.
type Delegate interface {
	// Add makes the attachments and sets the Result of each. When it fails some may be made: the
	// caller calls Del for all of them.
	Add(ctx context.Context, s Sandbox, as []*Attachment) error
	// Del returns an error, or nil, for each attachment: one that can't be unmade keeps no other.
	Del(ctx context.Context, s Sandbox, as []*Attachment) []error
	// Check compares what is with the attachments' Results.
	Check(ctx context.Context, s Sandbox, as []*Attachment) error
	// Status reports whether Add can be served for the configuration.
	Status(ctx context.Context, list *cniconf.List) error
}

// A Collector is a delegate that finds what it has made by itself, without a record: whatever it makes
// carries its owner's name.
type Collector interface {
	// Leftovers returns the names of what is there that no attachment accounts for. Both functions are
	// asked after what is there was looked up, so that what is made meanwhile is none. Without owners
	// only that is looked at which tells its owner itself.
	Leftovers(ctx context.Context, accounted func(Owner) bool, owners func() []Owner) ([]string, error)
	// RemoveLeftovers removes what Leftovers named.
	RemoveLeftovers(ctx context.Context, names []string) error
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
	// Recorded returns when it is recorded what Add is about to make, or why it can't be. What does not
	// bear its owner's name is made after that.
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
	// Tried says that Add has come to the attachment: anything of it may be there.
	Tried bool
}
