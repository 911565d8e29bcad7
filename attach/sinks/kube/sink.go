package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
//
// While the API server is away an Event is tried on, and those after it wait in the broadcaster's queue, which holds a
// thousand: client-go alone would drop it after some seconds, or at the first answer that is an error.
type sink struct {
	record.EventSink
	node string
	ctx  context.Context // ends with the daemon
	log  *slog.Logger
}

// retryEvent is how often an Event is tried while the API server is away: nothing tells when it is back.
const retryEvent = 2 * time.Second

// Patch implements record.EventSink.
func (s *sink) Patch(e *corev1.Event, patch []byte) (*corev1.Event, error) {
	return s.persist(e, func() (*corev1.Event, error) { return s.EventSink.Patch(e, patch) })
}

// Create implements record.EventSink.
func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.persist(e, func() (*corev1.Event, error) { return s.create(e) })
}

// persist writes an Event until the API server has answered, or the daemon ends.
func (s *sink) persist(e *corev1.Event, write func() (*corev1.Event, error)) (*corev1.Event, error) {
	for told := false; ; told = true {
		made, err := write()
		if !away(err) {
			return made, err
		}
		if !told {
			s.log.Warn("an Event is not written, trying on", "pod", e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "reason", e.Reason, "error", err)
		}
		select {
		case <-time.After(retryEvent):
		case <-s.ctx.Done():
			return nil, err
		}
	}
}

// away reports whether the API server has not answered, or not for what was asked: it starts, is overloaded, or does not
// know a token that is being replaced.
func away(err error) bool {
	status := apierrors.APIStatus(nil)
	return err != nil && (!errors.As(err, &status) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsInternalError(err) || apierrors.IsUnauthorized(err))
}

func (s *sink) create(e *corev1.Event) (*corev1.Event, error) {
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
