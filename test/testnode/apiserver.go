package testnode

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-cni/patchbay/meta"
)

// An APIServer is as much of one as a daemon needs: pods, NetworkAttachmentDefinitions and Events. It does
// as it is told, also what a real one does after a restore only.
type APIServer struct {
	Kubeconfig string

	mu       sync.Mutex
	version  int
	objects  map[string]map[string]Object // by collection, then namespace/name
	history  map[string][]change          // by collection
	watchers map[string][]chan string     // by collection
	patches  map[string]int               // of pods, by namespace/name
	refuse   func(r *http.Request) int    // the status with which a request is refused, 0 for none
}

// An Object is one as JSON has it.
type Object map[string]any

type change struct {
	version int
	event   string
}

// The collections that there are, as paths name them.
const (
	PodsAt     = "pods"
	NetworksAt = "network-attachment-definitions"
	EventsAt   = "events"
	ClaimsAt   = "ipamclaims"
	NodesAt    = "nodes"
)

// NewAPIServer starts one that has nothing yet.
func NewAPIServer(t testing.TB) *APIServer {
	t.Helper()
	a := &APIServer{objects: map[string]map[string]Object{PodsAt: {}, NetworksAt: {}, EventsAt: {}, ClaimsAt: {}, NodesAt: {}}, history: map[string][]change{}, watchers: map[string][]chan string{}, patches: map[string]int{}, version: 1}
	server := httptest.NewServer(a)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	a.Kubeconfig = ShortDir(t) + "/kubeconfig"
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: " + server.URL + "}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
	if err := os.WriteFile(a.Kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// NAD writes a network of namespace default.
func (a *APIServer) NAD(name, config string) {
	a.Put(NetworksAt, Object{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"namespace": "default", "name": name, "uid": "nad-" + name}, "spec": map[string]any{"config": config}}, "")
}

// Apply writes the networks of a manifest, those without a namespace in namespace default.
func (a *APIServer) Apply(t testing.TB, manifest string) {
	t.Helper()
	for _, text := range strings.Split(manifest, "\n---\n") {
		var o Object
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		m := o["metadata"].(map[string]any)
		if m["namespace"] == nil {
			m["namespace"] = "default"
		}
		m["uid"] = fmt.Sprint("nad-", m["name"])
		a.Put(NetworksAt, o, "")
	}
}

// Pod writes a pod of namespace default, without annotations.
func (a *APIServer) Pod(name, uid string) {
	a.Put(PodsAt, Object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"namespace": "default", "name": name, "uid": uid, "annotations": map[string]any{}}}, "")
}

// Put keeps an object, with the version, or if it is empty with the next one.
func (a *APIServer) Put(collection string, o Object, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep(collection, o, version)
}

// Merge patches an object of namespace default.
func (a *APIServer) Merge(collection, name string, patch Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep(collection, merged(a.objects[collection]["default/"+name], patch).(Object), "")
}

// Version is that of an object of namespace default.
func (a *APIServer) Version(collection, name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.objects[collection]["default/"+name]["metadata"].(map[string]any)["resourceVersion"].(string)
}

// Delete removes an object of namespace default, if it is there.
func (a *APIServer) Delete(collection, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[collection]["default/"+name]; o != nil {
		a.version++
		delete(a.objects[collection], "default/"+name)
		a.tell(collection, "DELETED", o)
	}
}

func (a *APIServer) keep(collection string, o Object, version string) {
	a.version++
	if version == "" {
		version = fmt.Sprint(a.version)
	}
	m := o["metadata"].(map[string]any)
	m["resourceVersion"] = version
	at := fmt.Sprint(m["namespace"], "/", m["name"])
	typ := "MODIFIED"
	if a.objects[collection][at] == nil {
		typ = "ADDED"
	}
	a.objects[collection][at] = o
	a.tell(collection, typ, o)
}

// tell tells those who watch of a change.
func (a *APIServer) tell(collection, typ string, o Object) {
	b, _ := json.Marshal(map[string]any{"type": typ, "object": a.shown(collection, o)})
	a.history[collection] = append(a.history[collection], change{a.version, string(b)})
	for _, w := range a.watchers[collection] {
		w <- string(b)
	}
}

// shown is an object as clients that want the metadata alone get it.
func (a *APIServer) shown(collection string, o Object) Object {
	if collection != PodsAt {
		return o
	}
	o = maps.Clone(o)
	o["apiVersion"], o["kind"] = "meta.k8s.io/v1", "PartialObjectMetadata"
	return o
}

// Status is a pod's network-status.
func (a *APIServer) Status(pod string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.objects[PodsAt]["default/"+pod]
	if have == nil {
		return ""
	}
	annotations := have["metadata"].(map[string]any)["annotations"].(map[string]any)
	s, _ := annotations[meta.StatusAnnotation].(string)
	return s
}

// Patches counts how often a pod of namespace default was patched.
func (a *APIServer) Patches(pod string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.patches["default/"+pod]
}

// Refuse has requests refused from now on for which the function returns a status other than 0.
func (a *APIServer) Refuse(refuse func(r *http.Request) int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = refuse
}

// Told are the reasons of a pod's Events, and what else is in them.
func (a *APIServer) Told(pod string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	reasons := map[string]string{}
	for _, e := range a.objects[EventsAt] {
		if e["involvedObject"].(map[string]any)["name"] == pod {
			reasons[fmt.Sprint(e["reason"])] = fmt.Sprint(e["count"], " ", e["message"])
		}
	}
	return reasons
}

func (a *APIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	refuse := a.refuse
	a.mu.Unlock()
	if refuse != nil {
		if code := refuse(r); code != 0 {
			failure(w, code)
			return
		}
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	i := slices.IndexFunc(parts, func(p string) bool {
		return p == PodsAt || p == NetworksAt || p == EventsAt || p == ClaimsAt || p == NodesAt
	})
	if i < 0 {
		failure(w, http.StatusNotFound)
		return
	}
	collection, query := parts[i], r.URL.Query()
	switch {
	case r.Method == http.MethodGet && query.Get("sendInitialEvents") != "":
		failure(w, http.StatusBadRequest) // the client lists
	case r.Method == http.MethodGet && query.Get("watch") != "":
		a.watch(w, r, collection)
	case r.Method == http.MethodGet && len(parts) == i+1:
		a.list(w, collection)
	case len(parts) > i+1 || r.Method == http.MethodPost:
		a.one(w, r, collection, parts[i-1], slices.Concat(parts[i+1:], []string{""})[0])
	default:
		failure(w, http.StatusMethodNotAllowed)
	}
}

func failure(w http.ResponseWriter, code int) {
	reason := map[int]string{401: "Unauthorized", 404: "NotFound", 409: "Conflict", 422: "Invalid", 400: "BadRequest", 500: "InternalError", 503: "ServiceUnavailable"}[code]
	answer(w, code, map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "no"})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *APIServer) list(w http.ResponseWriter, collection string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := Object{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": fmt.Sprint(a.version)}, "items": []any{}}
	switch collection {
	case PodsAt:
		list["apiVersion"], list["kind"] = "meta.k8s.io/v1", "PartialObjectMetadataList"
	case NetworksAt:
		list["apiVersion"], list["kind"] = "k8s.cni.cncf.io/v1", "NetworkAttachmentDefinitionList"
	}
	items := []any{}
	for _, at := range slices.Sorted(maps.Keys(a.objects[collection])) {
		items = append(items, a.shown(collection, a.objects[collection][at]))
	}
	list["items"] = items
	answer(w, http.StatusOK, list)
}

func (a *APIServer) watch(w http.ResponseWriter, r *http.Request, collection string) {
	events := make(chan string, 10000)
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	a.mu.Lock()
	for _, c := range a.history[collection] {
		if c.version > since {
			events <- c.event
		}
	}
	a.watchers[collection] = append(a.watchers[collection], events)
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case e := <-events:
			_, _ = io.WriteString(w, e+"\n")
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.watchers[collection] = slices.DeleteFunc(a.watchers[collection], func(w chan string) bool { return w == events })
			return
		}
	}
}

// one gets, creates or merges into one object.
func (a *APIServer) one(w http.ResponseWriter, r *http.Request, collection, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var body Object
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			failure(w, http.StatusBadRequest)
			return
		}
	}
	if r.Method == http.MethodPost {
		a.keep(collection, body, "")
		answer(w, http.StatusCreated, a.shown(collection, body))
		return
	}
	have := a.objects[collection][namespace+"/"+name]
	if have == nil {
		answer(w, http.StatusNotFound, map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": http.StatusNotFound,
			"message": collection + " " + name + " not found", "details": map[string]any{"name": name, "kind": collection}})
		return
	}
	if r.Method == http.MethodPatch {
		m, _ := body["metadata"].(map[string]any)
		if version, given := m["resourceVersion"]; given && version != have["metadata"].(map[string]any)["resourceVersion"] {
			failure(w, http.StatusConflict)
			return
		}
		if uid, given := m["uid"]; given && uid != have["metadata"].(map[string]any)["uid"] {
			failure(w, http.StatusConflict)
			return
		}
		if collection == PodsAt {
			a.patches[namespace+"/"+name]++
		}
		next := merged(have, body).(Object)
		if annotations, _ := next["metadata"].(map[string]any)["annotations"].(map[string]any); size(annotations) > 256<<10 {
			answer(w, http.StatusUnprocessableEntity, map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Invalid", "code": http.StatusUnprocessableEntity,
				"message": "metadata.annotations: Too long: may not be more than 262144 bytes",
				"details": map[string]any{"causes": []any{map[string]any{"reason": "FieldValueTooLong", "message": "Too long: may not be more than 262144 bytes", "field": "metadata.annotations"}}}})
			return
		}
		have = next
		a.keep(collection, have, "")
	}
	answer(w, http.StatusOK, a.shown(collection, have))
}

func size(annotations map[string]any) (n int) {
	for k, v := range annotations {
		n += len(k) + len(fmt.Sprint(v))
	}
	return n
}

// merged is a merge patch of an object.
func merged(have, patch any) any {
	p, ok := patch.(Object)
	if !ok {
		if m, isMap := patch.(map[string]any); isMap {
			p = m
		} else {
			return patch
		}
	}
	out := Object{}
	switch h := have.(type) {
	case Object:
		out = maps.Clone(h)
	case map[string]any:
		out = maps.Clone(Object(h))
	}
	for k, v := range p {
		if v = merged(out[k], v); v == nil {
			delete(out, k)
			continue
		}
		if o, isObject := v.(Object); isObject {
			v = map[string]any(o)
		}
		out[k] = v
	}
	return out
}
