package kube

import (
	"fmt"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// A sink writes Events. A namespace that is being deleted takes none, and it is then that DELs fail: what
// is to be said of its pods is said of the node.
type sink struct {
	record.EventSink
	node string
}

// Create implements record.EventSink.
func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	if err := failpoint.Hit("kube-event-write"); err != nil {
		return nil, err
	}
	made, err := s.EventSink.Create(e)
	if e.InvolvedObject.Kind != "Pod" || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && !apierrors.IsNotFound(err) {
		return made, err
	}
	pod := e.InvolvedObject
	e = e.DeepCopy()
	e.Namespace = metav1.NamespaceDefault // where Events of what has no namespace are
	e.InvolvedObject = corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: s.node, UID: types.UID(s.node)}
	e.Name = fmt.Sprintf("%s.%x", s.node, time.Now().UnixNano()) // the pod's own may be told again, and again be refused
	e.Message = explain.Shortened(fmt.Sprintf("pod %s/%s: %s", pod.Namespace, pod.Name, e.Message))
	return s.EventSink.Create(e)
}
