// Package kube tells Kubernetes what becomes of pods: the network-status annotation of each, and
// Events.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/meta"
	metakube "github.com/patchbay-cni/patchbay/meta/kube"
)

const (
	// patchTimeout bounds one request.
	patchTimeout = 10 * time.Second
	workers      = 4
)

// A Reporter is the sink that writes network-status and Events. The status is level-triggered: whenever
// the record or the pod changes the two are compared, so one that was lost, or could not be written, is
// written again.
type Reporter struct {
	log     *slog.Logger
	all     bool // Events for routine notices, too
	catalog *metakube.Catalog
	pods    metadata.Interface
	events  record.EventBroadcaster
	end     context.CancelFunc   // has events try no more
	to      record.EventRecorder // of events
	// sandbox finds the record of a running pod.
	sandbox func(namespace, pod string) (*attach.Sandbox, error)
	queue   workqueue.TypedRateLimitingInterface[key]

	// sent has a *sent for each key of a pod. A pod is with one worker at a time.
	sent sync.Map
}

type key struct{ namespace, name string }

// sent is what was last written to a pod; the cache may not have it yet.
type sent struct {
	uid, status, version string
	checked              string // the annotation that was looked at last
	refused              string // the status that was too long
}

// New returns a reporter. Run works off what it is told. With all, the interfaces of pods that start
// or end raise Events, too: one more request to the API server for each pod.
func New(cfg *rest.Config, catalog *metakube.Catalog, node string, all bool, log *slog.Logger) (*Reporter, error) {
	pods, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for network-status: %w", err)
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for events: %w", err)
	}
	b := record.NewBroadcaster(record.WithSleepDuration(time.Second), record.WithCorrelatorOptions(record.CorrelatorOptions{SpamKeyFunc: limited}))
	ctx, end := context.WithCancel(context.Background())
	b.StartRecordingToSink(&sink{EventSink: &typedcorev1.EventSinkImpl{Interface: clients.CoreV1().Events("")}, node: node, ctx: ctx, log: log})
	return &Reporter{log: log, all: all, catalog: catalog, pods: pods,
		events: b, end: end, to: b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "patchbay", Host: node}),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](100*time.Millisecond, time.Minute)),
	}, nil
}

// limited names the Events that are limited together: of one reason on one object. The many before must
// not cost a pod the last word.
func limited(e *corev1.Event) string {
	o := e.InvolvedObject
	return strings.Join([]string{o.Kind, o.Namespace, o.Name, string(o.UID), e.Reason}, "/")
}

// Run compares records and pods until the context ends; sandbox finds a running pod's record.
func (r *Reporter) Run(ctx context.Context, sandbox func(namespace, pod string) (*attach.Sandbox, error)) error {
	r.sandbox = sandbox
	if err := r.catalog.OnPod(func(p meta.Pod) { r.queue.Add(key{p.Namespace, p.Name}) }); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	<-ctx.Done()
	r.queue.ShutDown()
	r.end()
	r.events.Shutdown()
	wg.Wait()
	return nil
}

func (r *Reporter) work(ctx context.Context) {
	for {
		k, stop := r.queue.Get()
		if stop {
			return
		}
		if err := r.compare(ctx, k); err != nil && ctx.Err() == nil {
			r.log.Warn("network-status is not written, trying on", "pod", k.namespace+"/"+k.name, "error", err)
			r.queue.AddRateLimited(k)
		} else {
			r.queue.Forget(k)
		}
		r.queue.Done(k)
	}
}

// compare writes a pod's status if it is not what the record says.
func (r *Reporter) compare(ctx context.Context, k key) error {
	s, err := r.sandbox(k.namespace, k.name)
	if err != nil {
		r.sent.Delete(k)
		return nil // no pod of ours; what one had is gone with it
	}
	text, err := json.Marshal(meta.Status(s.Made()))
	if err != nil {
		return err
	}
	pod := r.catalog.Cached(k.namespace, k.name)
	if pod == nil || !pod.Is(s.UID) {
		return nil // the cache is behind: its next event leads here again
	}
	known, _ := r.sent.LoadOrStore(k, &sent{})
	last := known.(*sent)
	r.checkEdit(k, pod, last)
	status := string(text)
	if pod.Annotations[meta.StatusAnnotation] == status {
		return nil
	}
	if last.status == status && last.uid == pod.UID && older(pod.Version, last.version) {
		return nil // written, and not yet in the cache
	}
	return r.patch(ctx, k, pod.UID, status, last)
}

// checkEdit says, once, that a running pod's annotation was edited to something invalid. The pod
// keeps what it has.
func (r *Reporter) checkEdit(k key, pod *meta.Pod, last *sent) {
	annotation := pod.Annotations[meta.NetworksAnnotation]
	if annotation == last.checked {
		return
	}
	last.checked = annotation
	if _, err := meta.ParseNetworks(annotation, k.namespace); err != nil {
		r.Notify(attach.Notice{Namespace: k.namespace, Pod: k.name, UID: pod.UID, Warning: true, Reason: attach.ReasonInvalid,
			Message: err.Error() + "; the pod keeps the interfaces it has"})
	}
}

// older reports whether an object's version is known to be before another.
func older(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order < 0
}

// Listed implements sinks.Sink. A pod that was written to may be gone unseen: it is compared as well.
func (r *Reporter) Listed(all []*attach.Sandbox) {
	r.sent.Range(func(k, _ any) bool {
		r.queue.Add(k.(key))
		return true
	})
	for _, s := range all {
		r.Changed(s)
	}
}

// Changed implements sinks.Sink.
func (r *Reporter) Changed(s *attach.Sandbox) {
	if s.Pod != "" {
		r.queue.Add(key{s.Namespace, s.Pod})
	}
}

// patch sets the one annotation and nothing else, on the pod of that UID and no other: whatever
// others write to the pod at the same time stays.
func (r *Reporter) patch(ctx context.Context, k key, uid, status string, last *sent) error {
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "annotations": map[string]string{meta.StatusAnnotation: status}}})
	if err != nil {
		return err
	}
	if err := failpoint.Hit("kube-status-write"); err != nil {
		return err
	}
	o, err := r.pods.Resource(metakube.Pods).Namespace(k.namespace).Patch(ctx, k.name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	if tooLong(err) {
		if last.refused != status {
			r.log.Error("network-status is not written", "pod", k.namespace+"/"+k.name, "error", err)
			r.Notify(attach.Notice{Namespace: k.namespace, Pod: k.name, UID: uid, Warning: true, Reason: attach.ReasonStatusRefused,
				Message: fmt.Sprintf("%s of %d bytes can't be written: the pod's annotations may have 256 KiB in all; it is written when others are shorter", meta.StatusAnnotation, len(status))})
		}
		last.refused = status
		return nil // the pod's next change leads here again
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil // the pod is gone, or another one of its name is there
	}
	if err != nil {
		return err
	}
	if err := failpoint.Hit("kube-status-written"); err != nil {
		return err
	}
	last.uid, last.status, last.version, last.refused = uid, status, o.ResourceVersion, ""
	return nil
}

// tooLong reports whether the API server refuses annotations for their length.
func tooLong(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsInvalid(err) && status.ErrStatus.Details != nil &&
		slices.ContainsFunc(status.ErrStatus.Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.annotations" })
}

// Notify implements sinks.Sink: an Event on the pod.
func (r *Reporter) Notify(n attach.Notice) {
	if n.Pod == "" || n.Routine && !r.all {
		return
	}
	uid := n.UID
	if pod := r.catalog.Cached(n.Namespace, n.Pod); pod != nil && pod.Is(uid) {
		uid = pod.UID
	}
	kind := corev1.EventTypeNormal
	if n.Warning {
		kind = corev1.EventTypeWarning
	}
	r.to.Event(&corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: n.Namespace, Name: n.Pod, UID: types.UID(uid)}, kind, n.Reason, explain.Shortened(n.Message))
}
