package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

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

// reviewOf is a review of a pod that asks for networks.
func reviewOf(t *testing.T, asks string) []byte {
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
	return body
}

// review is what the webhook answers to it.
func review(t *testing.T, j *admission.Judge, asks string) *admissionv1.AdmissionResponse {
	t.Helper()
	w := httptest.NewRecorder()
	admission.Handler(j, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(reviewOf(t, asks))))
	return answered(t, w.Body.Bytes())
}

func answered(t *testing.T, body []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &answer); err != nil || answer.Response == nil {
		t.Fatalf("%s: %v", body, err)
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

// Many connect to the webhook and send a part of a request, or a long one: they are cut off, what they have sent is bounded,
// and a review is answered meanwhile.
func TestTheWebhookWaitsForNobodyForLong(t *testing.T) {
	j := &admission.Judge{Planner: meta.NewPlanner(networks{"disk": ""}, meta.Config{NamespaceIsolation: true})}
	server := httptest.NewUnstartedServer(nil)
	server.Config = admission.NewServer(admission.Handler(j, slog.New(slog.DiscardHandler)))
	server.Start()
	defer server.Close()
	begin := func(text string, of int) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = fmt.Fprintf(c, text, of) // it may be cut off already
		return c
	}
	const request = "POST / HTTP/1.1\r\nHost: webhook\r\nContent-Length: %d\r\n\r\n{"
	var slow []net.Conn
	for range 100 {
		slow = append(slow, begin("POST / HTTP/1.1\r\nContent-Le%.d", 0), begin(request, 1000), begin(request, 4<<20))
	}
	answer, err := server.Client().Post(server.URL, "application/json", bytes.NewReader(reviewOf(t, "disk")))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || !answered(t, body).Allowed {
		t.Errorf("%s, %v", body, err)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection that sends nothing is kept")
		}
	}
	statuses := make(chan int, 40)
	for range cap(statuses) {
		go func() { // 3.9 MiB, all but the end of it at once
			c := begin(request, 4<<20)
			_, _ = io.CopyN(c, zeros{}, 4<<20-100<<10)
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				statuses <- 0 // cut off
				return
			}
			_ = r.Body.Close()
			statuses <- r.StatusCode
		}()
	}
	busy := 0
	for range cap(statuses) {
		if <-statuses == http.StatusServiceUnavailable {
			busy++
		}
	}
	if busy == 0 {
		t.Error("160 MiB were taken")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
