package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/api"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/bound"
)

// F3: requests to the REST API, with whatever path and body. Each has an answer of the API's: no failure of
// the server, and a problem document for what is refused.
func FuzzF3Request(f *testing.F) {
	for _, s := range []struct {
		method                 uint8
		pod, ifName, query, in string
	}{
		{0, "a", "", "", `{"network":"data"}`}, {0, "a", "", "", `{"config":{"cniVersion":"1.1.0","name":"x","type":"patchbay-ovs"},"interface":"net9"}`},
		{1, "a", "net2", "", `{"network":"lab/data","ips":["10.0.0.9"],"mac":"02:00:00:00:00:01"}`}, {1, "a", "..", "", `{}`}, {2, "b", "net1", "force=true", ""},
		{3, "a", "net1", "", ""}, {3, "a", "", "watch=maybe&namespace=x", ""}, {4, "../..", "%2F", "a=%zz", "null"}, {0, "a", "", "", `{"network":1}`}, {0, "a", "", "", "["},
	} {
		f.Add(s.method, s.pod, s.ifName, s.query, []byte(s.in))
	}
	e, err := attach.New(attach.Options{Records: records{}, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = e.Load(f.Context())
	}
	if err != nil {
		f.Fatal(err)
	}
	handler := api.New(api.Options{Engine: e, Planner: meta.NewPlanner(nothing{}, meta.Config{}), Log: slog.New(slog.DiscardHandler), Observe: func(string, string, time.Duration) {}})
	methods := []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodGet, http.MethodPatch}
	f.Fuzz(func(t *testing.T, method uint8, pod, ifName, query string, in []byte) {
		path := "/v1/namespaces/default/pods/" + url.PathEscape(pod) + "/attachments"
		if ifName != "" {
			path += "/" + url.PathEscape(ifName)
		}
		u, err := url.ParseRequestURI(path + "?" + query)
		if err != nil {
			return // the server of net/http answers that itself
		}
		r := httptest.NewRequest(methods[int(method)%len(methods)], "/", bytes.NewReader(in))
		r.URL, r.RequestURI = u, u.RequestURI()
		if r.Method == http.MethodDelete && pod == "a" {
			return // detaching is the engine's
		}
		bound.Check(t, func() {
			r.Body = http.NoBody
			if len(in) > 0 {
				r.Body = httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(in)).Body
			}
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, r)
			var document struct {
				Status int    `json:"status"`
				Title  string `json:"title"`
			}
			switch {
			case answer.Code == http.StatusInternalServerError:
				t.Errorf("%s %s %q: %d %s", r.Method, u, in, answer.Code, answer.Body)
			case answer.Code >= 400 && (json.Unmarshal(answer.Body.Bytes(), &document) != nil || document.Status != answer.Code || document.Title == ""):
				t.Errorf("%s %s %q: %d without a problem document: %s", r.Method, u, in, answer.Code, answer.Body)
			}
		})
	})
}

// nothing is a catalog without networks.
type nothing struct{}

func (nothing) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	return nil, fmt.Errorf("network %s/%s: %w", namespace, name, meta.ErrNotFound)
}
