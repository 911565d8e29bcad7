package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/meta"
)

// networks is a catalog of networks by name, with their configurations.
type networks map[string]string

func (networks) Pod(context.Context, string, string, string) (*meta.Pod, error) {
	return nil, meta.ErrNotFound
}

func (c networks) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	config, has := c[name]
	if !has {
		return nil, meta.ErrNotFound
	}
	return &meta.Network{Namespace: namespace, Name: name, Config: config}, nil
}

// review is what the webhook answers to a pod that asks for networks.
func review(t *testing.T, j *admission.Judge, asks string) *admissionv1.AdmissionResponse {
	t.Helper()
	pod, err := json.Marshal(metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", Annotations: map[string]string{meta.NetworksAnnotation: asks}}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{UID: "u", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Namespace: "default", Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: pod}}})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	admission.Handler(j, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)))
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return answer.Response
}

// A network without a configuration has it on the nodes' disks, which the webhook does not see.
func TestTheWebhookLetsAPodHaveANetworkThatIsOnTheNodes(t *testing.T) {
	j := &admission.Judge{Planner: meta.NewPlanner(networks{"disk": ""}, meta.Config{NamespaceIsolation: true})}
	if answer := review(t, j, "disk"); !answer.Allowed {
		t.Errorf("it is refused: %s", answer.Result.Message)
	}
}
