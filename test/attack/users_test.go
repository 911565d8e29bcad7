package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// deletion is what the webhook answers to the deletion of a network in namespace default.
func deletion(t *testing.T, j *admission.Judge, name string, annotations map[string]string) *admissionv1.AdmissionResponse {
	t.Helper()
	old, err := json.Marshal(metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{UID: "u", Kind: metav1.GroupVersionKind{Kind: "NetworkAttachmentDefinition"},
		Namespace: "default", Name: name, Operation: admissionv1.Delete, OldObject: runtime.RawExtension{Raw: old}}})
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

// The webhook listed every pod of the cluster when a network was deleted, and let it be deleted when that took too
// long. It knows the users now; until it does, a network can't be deleted, but by force.
func TestTheWebhookKnowsWhoUsesANetworkThatIsDeleted(t *testing.T) {
	a := testnode.NewAPIServer(t)
	var lists atomic.Int32
	var away atomic.Bool
	away.Store(true)
	a.Refuse(func(r *http.Request) int {
		if r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("watch") == "" {
			lists.Add(1)
			if away.Load() {
				return http.StatusInternalServerError
			}
		}
		return 0
	})
	annotated := func(name, key, value string) {
		a.Put(testnode.PodsAt, testnode.Object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"namespace": "default", "name": name, "uid": name, "annotations": map[string]any{key: value}}}, "")
	}
	annotated("asks", meta.NetworksAnnotation, "blue,lab/red")
	annotated("has", meta.StatusAnnotation, `[{"name": "default/blue", "interface": "net1"}]`)
	annotated("other", meta.NetworksAnnotation, "bluer")
	annotated("none", "example.org/note", "blue")
	cfg, err := kube.Config(a.Kubeconfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	users, err := kube.NewUsers(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		users.Run(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	j := &admission.Judge{Users: users.Of}

	testnode.Eventually(t, "it tries to read the pods", func() bool { return lists.Load() > 0 })
	if answer := deletion(t, j, "blue", nil); answer.Allowed || answer.Result.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Result.Message, "try again") {
		t.Errorf("before it knows: %+v", answer.Result)
	}
	if answer := deletion(t, j, "blue", map[string]string{admission.ForceAnnotation: "true"}); !answer.Allowed {
		t.Errorf("by force: %+v", answer.Result)
	}
	away.Store(false)
	testnode.Eventually(t, "it has read the pods", users.Synced)
	before := lists.Load()
	if answer := deletion(t, j, "blue", nil); answer.Allowed || answer.Result.Code != http.StatusUnprocessableEntity || !strings.Contains(answer.Result.Message, "2 pods use network default/blue: default/asks, default/has") {
		t.Errorf("in use: %+v", answer.Result)
	}
	if answer := deletion(t, j, "red", nil); !answer.Allowed {
		t.Errorf("that of another namespace is in use: %+v", answer.Result)
	}
	annotated("asks", meta.NetworksAnnotation, "lab/red")
	annotated("has", meta.StatusAnnotation, `[]`)
	annotated("late", meta.NetworksAnnotation, "green")
	testnode.Eventually(t, "it follows", func() bool {
		return deletion(t, j, "blue", nil).Allowed && !deletion(t, j, "green", nil).Allowed && !deletion(t, j, "bluer", nil).Allowed
	})
	if now := lists.Load(); now != before {
		t.Errorf("it has listed all pods %d times for these", now-before)
	}
}
