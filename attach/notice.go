package attach

import (
	"strings"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/meta"
)

// A Notice is something that the owner of a pod should know.
type Notice struct {
	Namespace, Pod, UID string
	Warning             bool
	Routine             bool   // of a pod that starts or ends, as its network-status tells too
	Reason              string // one CamelCase word
	Message             string
}

// The reasons.
const (
	ReasonFailedAttach  = "FailedAttach"
	ReasonFailedDetach  = "FailedDetach"
	ReasonAttachDelayed = "AttachDelayed" // it is tried again, and time alone mends it
	ReasonDetachDelayed = "DetachDelayed"
	ReasonAbandoned     = "DetachAbandoned"
	ReasonAttached      = "Attached"
	ReasonDetached      = "Detached"
	ReasonRepaired      = "InterfaceRepaired"
	ReasonUpdated       = "InterfaceUpdated"
	ReasonDamaged       = "InterfaceDamaged"
	ReasonInvalid       = "InvalidAnnotation"
	ReasonStatusRefused = "NetworkStatusRefused"
)

// delayed are the reasons of failures that pass by themselves: nobody has to mend anything.
var delayed = map[string]string{ReasonFailedAttach: ReasonAttachDelayed, ReasonFailedDetach: ReasonDetachDelayed}

// Failed tells a pod's owner of a failure, and returns it. The reason is that of failures which somebody
// must mend.
func (e *Engine) Failed(reason string, pod meta.Pod, err error) error {
	if later, known := delayed[reason]; known && fault.Of(err).Passes() {
		reason = later
	}
	e.tell(pod, Notice{Warning: true, Reason: reason, Message: err.Error()})
	return err
}

// tell tells a pod's owner something. The log keeps it: a plugin, or a pod's author, may have said much.
func (e *Engine) tell(pod meta.Pod, n Notice) {
	n.Namespace, n.Pod, n.UID = pod.Namespace, pod.Name, pod.UID
	n.Message = explain.Shortened(n.Message)
	e.entries.append(Entry{Notice: &n})
}

func (e *Engine) notify(s *Sandbox, reason, message string) {
	e.tell(s.metaPod(), Notice{Reason: reason, Message: message})
}

// routine tells of the interfaces of a pod that starts or ends, in one notice.
func (e *Engine) routine(s *Sandbox, reason string, as ...Attachment) {
	text := make([]string, len(as))
	for i, a := range as {
		text[i] = a.describe()
	}
	e.tell(s.metaPod(), Notice{Routine: true, Reason: reason, Message: strings.Join(text, "; ")})
}
