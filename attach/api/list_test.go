package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/api"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// TestTheWatchIsAnsweredBeforeAnythingChanges reads the wire as a client that knows server-sent events only.
func TestTheWatchIsAnsweredBeforeAnythingChanges(t *testing.T) {
	server := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	answer := get(ctx, t, server.URL+"/v1/attachments?watch=true&namespace=default")
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", answer.Status, answer.Header)
	}
	lines := bufio.NewScanner(answer.Body)
	var have []string
	for len(have) < 2 && lines.Scan() {
		have = append(have, lines.Text())
	}
	if len(have) != 2 || have[0] != "event: ADDED" || !strings.HasPrefix(have[1], `data: {"type":"ADDED","attachment":{"namespace":"default","pod":"a","interface":"net1"`) {
		t.Errorf("%q", have)
	}
	cancel()
	if _, err := io.ReadAll(answer.Body); err == nil {
		t.Error("the stream ended before its reader left")
	}
}

func TestAListIsOneDocument(t *testing.T) {
	server := serve(t)
	for query, want := range map[string]int{"": 1, "?watch=false": 1, "?namespace=other": 0} {
		answer := get(t.Context(), t, server.URL+"/v1/attachments"+query)
		var all []map[string]any
		if err := json.NewDecoder(answer.Body).Decode(&all); err != nil || len(all) != want || all == nil {
			t.Errorf("%q: %v, %v", query, all, err)
		}
		if kind := answer.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("%q is %s", query, kind)
		}
	}
}

func TestTheListIsDescribedWithItsWatch(t *testing.T) {
	server := serve(t)
	var document struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct{ Content map[string]any }
		}
	}
	if err := json.NewDecoder(get(t.Context(), t, server.URL+"/openapi.json").Body).Decode(&document); err != nil {
		t.Fatal(err)
	}
	content := document.Paths["/v1/attachments"]["get"].Responses["200"].Content
	if content["application/json"] == nil || content["text/event-stream"] == nil {
		t.Errorf("the list is described as %v", content)
	}
}

func get(ctx context.Context, t *testing.T, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// records are those of one pod.
type records struct{}

func (records) Load(context.Context) ([]*attach.Sandbox, []string, error) {
	return []*attach.Sandbox{{ContainerID: "c", Namespace: "default", Pod: "a", CreatedAt: time.Now(),
		Attachments: []attach.Attachment{{Spec: attach.Spec{Interface: "net1"}, Status: attach.Status{Phase: attach.Ready}}}}}, nil, nil
}

func (records) Save(context.Context, *attach.Sandbox, txn.Txn) error   { return nil }
func (records) Remove(context.Context, *attach.Sandbox, txn.Txn) error { return nil }

// serve serves the API over an engine that knows one attachment.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	e, err := attach.New(attach.Options{Records: records{}})
	if err == nil {
		err = e.Load(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api.New(api.Options{Engine: e, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(server.Close)
	return server
}
