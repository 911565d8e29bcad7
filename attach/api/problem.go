package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// statuses are the HTTP statuses of the classes of errors.
var statuses = map[fault.Class]int{
	fault.Internal:    http.StatusInternalServerError,
	fault.NotFound:    http.StatusNotFound,
	fault.Forbidden:   http.StatusForbidden,
	fault.Conflict:    http.StatusConflict,
	fault.Invalid:     http.StatusUnprocessableEntity,
	fault.RetryLater:  http.StatusServiceUnavailable,
	fault.Unavailable: http.StatusServiceUnavailable,
	fault.TimedOut:    http.StatusGatewayTimeout,
}

// problem is the problem document of an error. Whoever is to try again is told when.
func problem(err error) error {
	if err == nil {
		return nil
	}
	var already huma.StatusError
	if errors.As(err, &already) {
		return already
	}
	status := statuses[fault.Of(err)]
	p := &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: err.Error()}
	if status == http.StatusServiceUnavailable {
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"2"}})
	}
	return p
}

// inWords puts what the framework says of a request into ours.
func inWords(_ huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*huma.ErrorModel)
	if !ok || p.Detail != "validation failed" {
		return v, nil
	}
	p.Detail = "the request is not as it should be"
	for _, e := range p.Errors {
		e.Message = reword(e)
	}
	return p, nil
}

// expected are the framework's messages of types, and what belongs there.
var expected = map[string]string{
	validation.MsgExpectedString: "a text in double quotes", validation.MsgExpectedArray: "a list in square brackets",
	validation.MsgExpectedObject: "an object in braces", validation.MsgExpectedInteger: "a whole number",
	validation.MsgExpectedNumber: "a number", validation.MsgExpectedBoolean: "true or false", "invalid boolean": "true or false",
	validation.MsgExpectedRFCIPAddr: "an address, such as 10.12.0.1",
}

func reword(e *huma.ErrorDetail) string {
	if body, isText := e.Value.(string); isText && e.Location == "body" {
		var r client.Request
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			return "it is not JSON: " + explain.JSON([]byte(body), err)
		}
	}
	if want, ok := expected[e.Message]; ok {
		if text, isText := e.Value.(string); isText {
			return fmt.Sprintf("%q is not %s", text, want)
		}
		return "it must be " + want
	}
	if e.Message == validation.MsgUnexpectedProperty {
		at, key := path.Split(strings.ReplaceAll(e.Location, ".", "/"))
		hint := ""
		if at == "body/" {
			hint = explain.Hint(key, requestKeys())
		}
		return fmt.Sprintf("unknown key %q%s", key, hint)
	}
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	if key, ok := strings.CutPrefix(e.Message, before); ok {
		return fmt.Sprintf("%q is missing", strings.TrimSuffix(key, after))
	}
	return e.Message
}

func requestKeys() []string {
	var keys []string
	for f := range reflect.TypeFor[client.Request]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return keys
}

// orMissing serves what the mux has, and answers for the rest with a problem document: the mux
// would with a line of text.
func orMissing(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := &status{header: http.Header{}}
		h.ServeHTTP(answer, r)
		p := huma.ErrorModel{Status: answer.code, Title: http.StatusText(answer.code), Detail: r.URL.Path + " is not there; /openapi.json has what is"}
		if allow := answer.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			p.Detail = fmt.Sprintf("%s %s is not there; it has %s", r.Method, r.URL.Path, allow)
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(&p) // the caller may have gone
	})
}

// status takes an answer's code and header only.
type status struct {
	header http.Header
	code   int
}

func (s *status) Header() http.Header         { return s.header }
func (s *status) Write(b []byte) (int, error) { return len(b), nil }
func (s *status) WriteHeader(code int)        { s.code = code }
