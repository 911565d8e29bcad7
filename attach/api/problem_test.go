package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/api"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// door is the REST door of a node on which no pod runs, and whose etcd is away.
func door(t *testing.T) http.Handler {
	t.Helper()
	e, err := attach.New(attach.Options{Node: "n1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return api.New(api.Options{Engine: e, Log: slog.New(slog.DiscardHandler), Observe: func(string, string, time.Duration) {},
		Nodes: func(context.Context) ([]store.Node, error) { return nil, fmt.Errorf("nodes: %w", txn.ErrUnavailable) }})
}

// Whoever gets an error over REST gets a problem document (RFC 9457), whatever part of the door found the
// fault, and reads in it what is wrong with what, and what would do.
func TestEveryErrorIsAProblemDocument(t *testing.T) {
	const pod = "/v1/namespaces/default/pods/a/attachments"
	h := door(t)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     []string
	}{
		{"an unknown path", "GET", "/v1/nothing", "", 404, []string{"/v1/nothing is not there", "/openapi.json has what is"}},
		{"a path that is too short", "POST", "/v1/namespaces/default/pods/a", "{}", 404, []string{"/v1/namespaces/default/pods/a is not there"}},
		{"a wrong method", "PATCH", pod, "{}", 405, []string{"PATCH " + pod + " is not there", "it has GET, HEAD, POST"}},
		{"broken JSON", "POST", pod, `{"network": "data",}`, 400, []string{"it is not JSON", "character 20"}},
		{"no body", "POST", pod, "", 400, []string{"body"}},
		{"an unknown key", "POST", pod, `{"netwrok": "data"}`, 422, []string{`unknown key "netwrok"`, `"network"`}},
		{"an unknown key inside", "POST", pod, `{"network": "data", "bandwidth": {"rate": 1}}`, 422, []string{`unknown key "rate"`, "body.bandwidth"}},
		{"a wrong type", "POST", pod, `{"network": 7}`, 422, []string{"body.network", "it must be a text in double quotes"}},
		{"a wrong type inside", "POST", pod, `{"network": "data", "ips": "10.0.0.1"}`, 422, []string{"body.ips", "is not a list in square brackets"}},
		{"a missing key", "POST", pod, `{"network": "data", "portMappings": [{"hostPort": 80}]}`, 422, []string{"body.portMappings[0]", `"containerPort" is missing`}},
		{"no address", "POST", pod, `{"network": "data", "defaultRoute": ["here"]}`, 422, []string{"body.defaultRoute", "such as 10.12.0.1"}},
		{"two interfaces", "PUT", pod + "/net1", `{"network": "data", "interface": "net2"}`, 422, []string{"the path names another interface", "is net2, the path says net1"}},
		{"a query that is no boolean", "DELETE", pod + "/net1?force=perhaps", "", 422, []string{"query.force", "true or false"}},
		{"a body that is too large", "POST", pod, `{"network": "` + strings.Repeat("x", 1<<20) + `"}`, 413, []string{"body", "limit"}},
		{"a pod that is not there", "POST", pod, `{"network": "data"}`, 404, []string{"pod default/a", "no running pod of that name on this node"}},
		{"an attachment of a pod that is not there", "GET", pod + "/net1", "", 404, []string{"pod default/a", "no running pod of that name on this node"}},
		{"a list of a pod that is not there", "GET", pod, "", 404, []string{"pod default/a", "no running pod of that name on this node"}},
		{"a detach from a pod that is not there", "DELETE", pod + "/net1", "", 404, []string{"pod default/a", "no running pod of that name on this node"}},
		{"etcd is away", "GET", "/v1/nodes", "", 503, []string{"nodes: etcd is unavailable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", "application/json")
			h.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("status %d, want %d", w.Code, c.status)
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type %q", got)
			}
			var p struct {
				Title, Detail string
				Status        int
				Errors        []struct{ Message, Location string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if p.Status != c.status || p.Title != http.StatusText(c.status) || p.Detail == "" {
				t.Errorf("status %d, title %q, detail %q", p.Status, p.Title, p.Detail)
			}
			text := p.Detail
			for _, e := range p.Errors {
				text += "; " + e.Location + ": " + e.Message
			}
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("%q lacks %q", text, want)
				}
			}
			if allow := w.Header().Get("Allow"); (allow != "") != (c.status == http.StatusMethodNotAllowed) {
				t.Errorf("Allow is %q", allow)
			}
			if again := w.Header().Get("Retry-After"); (again != "") != (c.status == http.StatusServiceUnavailable) {
				t.Errorf("Retry-After is %q", again)
			}
		})
	}
}
