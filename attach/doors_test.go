package attach_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/api"
	"github.com/patchbay-cni/patchbay/attach/cni"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// TestEveryErrorComesOutOfEachDoorByItsClass tells each error at the CNI door, at the REST door and as an
// Event, wrapped as callers wrap it.
func TestEveryErrorComesOutOfEachDoorByItsClass(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		code   uint
		status int
		reason string
	}{
		"etcd is away":                {txn.ErrUnavailable, 11, 503, "AttachDelayed"},
		"a key has changed":           {txn.ErrConflict, 11, 503, "AttachDelayed"},
		"the API server is away":      {meta.ErrUnavailable, 11, 503, "AttachDelayed"},
		"the pod was re-created":      {meta.ErrReplaced, 11, 503, "AttachDelayed"},
		"Open vSwitch is away":        {types.NewError(types.ErrTryAgainLater, "Open vSwitch does not answer", "start it"), 11, 503, "AttachDelayed"},
		"a plugin is not available":   {types.NewError(cniwire.ErrPluginNotAvailable, "no device", ""), 50, 503, "AttachDelayed"},
		"a plugin's network is down":  {types.NewError(cniwire.ErrLimitedConnection, "no uplink", ""), 51, 503, "AttachDelayed"},
		"too slow":                    {context.DeadlineExceeded, 11, 504, "AttachDelayed"},
		"the daemon ends":             {context.Canceled, 11, 503, "AttachDelayed"},
		"no such network":             {meta.ErrNotFound, 7, 422, "FailedAttach"},
		"a forbidden network":         {meta.ErrForbidden, 100, 403, "FailedAttach"},
		"an invalid address":          {ipam.ErrInvalid, 100, 422, "FailedAttach"},
		"words on an address":         {ipam.Invalid("%q is no address", "x"), 100, 422, "FailedAttach"},
		"a taken address":             {ipam.ErrTaken, 100, 422, "FailedAttach"},
		"a full pool":                 {ipam.ErrExhausted, 100, 422, "FailedAttach"},
		"no such pool":                {ipam.ErrNoPool, 4, 404, "FailedAttach"},
		"a pool in use":               {ipam.ErrInUse, 100, 409, "FailedAttach"},
		"the namespace is gone":       {netns.ErrGone, 4, 404, "FailedAttach"},
		"another namespace":           {netns.ErrOther, 4, 404, "FailedAttach"},
		"the host's namespace":        {netns.ErrHost, 4, 404, "FailedAttach"},
		"no such pod":                 {attach.ErrNoPod, 4, 404, "FailedAttach"},
		"no such attachment":          {attach.ErrNoAttachment, 4, 404, "FailedAttach"},
		"no such leftover":            {attach.ErrNoLeftover, 4, 404, "FailedAttach"},
		"the pod's own interface":     {attach.ErrPodsOwn, 100, 403, "FailedAttach"},
		"another specification":       {attach.ErrConflict, 100, 409, "FailedAttach"},
		"a refused request":           {types.NewError(cniwire.ErrRefused, "no", ""), 100, 422, "FailedAttach"},
		"a configuration":             {types.NewError(types.ErrInvalidNetworkConfig, "no", ""), 7, 422, "FailedAttach"},
		"a plugin's own code":         {types.NewError(123, "no", ""), 123, 500, "FailedAttach"},
		"one that nobody classified":  {fmt.Errorf("odd"), 101, 500, "FailedAttach"},
		"etcd is away, as it is slow": {fmt.Errorf("%w: %w", txn.ErrUnavailable, context.DeadlineExceeded), 11, 503, "AttachDelayed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := fmt.Errorf("attach default/a net1: %w", c.err)
			if code := codeOf(t, err); code != c.code {
				t.Errorf("CNI code %d, want %d", code, c.code)
			}
			answer := answerOf(err)
			if answer.Code != c.status {
				t.Errorf("status %d, want %d", answer.Code, c.status)
			}
			if again := answer.Header().Get("Retry-After") != ""; again != (c.status == 503) {
				t.Errorf("status %d, and Retry-After is %q", answer.Code, answer.Header().Get("Retry-After"))
			}
			if reason := reasonOf(t, err); reason != c.reason {
				t.Errorf("the Event's reason is %s, want %s", reason, c.reason)
			}
		})
	}
}

// codeOf is the code with which the CNI door answers a STATUS that fails.
func codeOf(t *testing.T, err error) uint {
	door := cni.New(cni.Options{Probe: func(context.Context) error { return err }, Observe: func(string, string, time.Duration) {}})
	door.Ready()
	body, jsonErr := json.Marshal(cniwire.Request{Command: "STATUS", Path: "/opt/cni/bin", Config: json.RawMessage(`{"cniVersion": "1.1.0", "name": "n", "type": "patchbay"}`)})
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	w := httptest.NewRecorder()
	door.ServeHTTP(w, httptest.NewRequest(http.MethodPost, cniwire.PathPrefix+"patchbay", bytes.NewReader(body)))
	var answer types.Error
	if jsonErr := json.Unmarshal(w.Body.Bytes(), &answer); jsonErr != nil {
		t.Fatalf("%s: %v", w.Body, jsonErr)
	}
	return answer.Code
}

// answerOf is how the REST door answers a request that fails.
func answerOf(err error) *httptest.ResponseRecorder {
	door := api.New(api.Options{Log: slog.New(slog.DiscardHandler), Nodes: func(context.Context) ([]store.Node, error) { return nil, err }})
	w := httptest.NewRecorder()
	door.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/nodes", nil))
	return w
}

// reasonOf is the reason of the Event that tells an ADD's failure.
func reasonOf(t *testing.T, err error) string {
	e, bootErr := attach.New(attach.Options{})
	if bootErr != nil {
		t.Fatal(bootErr)
	}
	_, log := e.Follow()
	e.Failed(attach.ReasonFailedAttach, meta.Pod{Namespace: "default", Name: "a"}, err)
	entries, nextErr := log.Next(t.Context())
	if nextErr != nil || len(entries) != 1 {
		t.Fatal(entries, nextErr)
	}
	return entries[0].Notice.Reason
}
