// Package cni is the door for container runtimes: it translates one CNI call, as the shim sends it,
// into calls of the engine, and the outcome into a CNI result or error.
package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sync/semaphore"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// callTimeout bounds every call; kubelet gives a sandbox four minutes.
const callTimeout = 90 * time.Second

// readyWait bounds how long a call waits for the end of recovery.
const readyWait = 8 * time.Second

// ipamPlugin is the name of the IPAM alone. Plugins call it, those that recovery runs too.
const ipamPlugin = "patchbay-ipam"

// maxAdds is how many ADDs may be in flight: each holds a plan, and a thread in its pod's namespace at times.
const maxAdds = 256

// maxBody bounds a request: a configuration and 256 KiB of annotations.
const maxBody = 4 << 20

// Options are what a Server is made of.
type Options struct {
	Engine  *attach.Engine
	Planner *meta.Planner
	Catalog meta.Catalog
	IPAM    *ipam.Service
	// Probe reports what this node lacks to serve an ADD, as a CNI error 50 or 51.
	Probe func(ctx context.Context) error
	Log   *slog.Logger
	// Observe is told how long a command took.
	Observe func(command, stage string, d time.Duration)
	// Queue is the directory of DELs that wait.
	Queue string
	// Away reports whether etcd is known not to answer: a DEL waits for it in the queue.
	Away func() bool
}

// A Server answers CNI calls.
type Server struct {
	Options
	ready   chan struct{}       // closed when recovery is done
	adds    *semaphore.Weighted // bounds the ADDs in flight
	working context.Context     // of DELs that go on when their calls are answered
	end     context.CancelFunc
	dels    sync.WaitGroup

	finishing turnstile // of DELs that wait, by the names of their files
}

// New returns a server. Calls for patchbay-ipam are answered at once, as plugins that recovery runs
// make them; the others wait for Ready.
func New(o Options) *Server {
	s := &Server{Options: o, ready: make(chan struct{}), adds: semaphore.NewWeighted(maxAdds), finishing: turnstile{busy: map[string]chan struct{}{}}}
	s.working, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends what goes on behind answered calls; the queue has it.
func (s *Server) Close() {
	s.end()
	s.dels.Wait()
}

// Ready opens the door.
func (s *Server) Ready() { close(s.ready) }

// ServeHTTP implements the wire of package cniwire.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	plugin, ok := strings.CutPrefix(r.URL.Path, cniwire.PathPrefix)
	if !ok || r.Method != http.MethodPost {
		http.Error(w, "POST "+cniwire.PathPrefix+"{plugin}", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), callTimeout, fmt.Errorf("the call was not finished within %s", callTimeout))
	defer cancel()
	req := cniwire.Request{}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err != nil {
		fail(w, "", types.NewError(types.ErrDecodingFailure, "request of the shim", err.Error()))
		return
	}
	begin := time.Now()
	out, err := s.call(ctx, plugin, &req)
	s.Observe(req.Command, "total", time.Since(begin))
	if err != nil {
		fail(w, versionOf(req.Config), err)
		return
	}
	answer(w, http.StatusOK, out)
}

// answer writes v, nothing for nil, with its length. The shim may have gone by then: it is not told.
func answer(w http.ResponseWriter, status int, v any) {
	var b []byte
	if v != nil {
		var err error
		if b, err = json.Marshal(v); err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"code":999,"msg":"result can't be encoded"}`)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func fail(w http.ResponseWriter, version string, err error) {
	answer(w, http.StatusInternalServerError, struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		*types.Error
	}{version, toCNI(err)})
}

// call answers one call. The result is nil for commands that have none.
func (s *Server) call(ctx context.Context, plugin string, req *cniwire.Request) (any, error) {
	if req.Command == "VERSION" {
		return map[string]any{"cniVersion": cmp.Or(versionOf(req.Config), cniversion.Current()), "supportedVersions": cniwire.SupportedVersions}, nil
	}
	c, err := newCall(req)
	if err != nil {
		return nil, err
	}
	if err := checkPlugin(plugin); err != nil {
		return nil, err
	}
	switch c.Command {
	case "DEL":
		return nil, s.del(plugin, c)
	case "STATUS": // of the node, whoever is called
		if !s.isReady() {
			return nil, s.starting(ctx)
		}
		if err := failpoint.Hit("cni-status"); err != nil {
			return nil, err
		}
		return nil, s.Probe(ctx)
	}
	if plugin != ipamPlugin {
		end, err := s.begin(ctx, c)
		if err != nil {
			return nil, err
		}
		defer end()
	}
	if c.Command == "ADD" {
		if err := s.delFirst(ctx, plugin, c); err != nil {
			return nil, err
		}
	}
	return s.dispatch(ctx, plugin, c)
}

// checkPlugin refuses names that we are not installed under.
func checkPlugin(name string) error {
	if slices.Contains([]string{"patchbay", "patchbay-ovs", ipamPlugin}, name) {
		return nil
	}
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("called as %q", name), "install the shim as patchbay, patchbay-ovs or patchbay-ipam")
}

// begin waits until calls are served, and lets so many ADDs in; end lets the next one in.
func (s *Server) begin(ctx context.Context, c *call) (end func(), err error) {
	end = func() {}
	if c.Command == "ADD" {
		if !s.adds.TryAcquire(1) {
			return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("patchbayd is making %d pods at once already", maxAdds), "")
		}
		end = func() { s.adds.Release(1) }
	}
	select {
	case <-s.ready:
		return end, nil
	case <-time.After(readyWait):
	case <-ctx.Done():
	}
	end()
	e := s.starting(ctx)
	return nil, types.NewError(types.ErrTryAgainLater, e.Msg, e.Details)
}

func (s *Server) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// starting says what the start waits for.
func (s *Server) starting(ctx context.Context) *types.Error {
	e := types.NewError(cniwire.ErrPluginNotAvailable, "patchbayd is still starting", "")
	if err := s.Probe(ctx); err != nil {
		e.Msg += ": " + err.Error()
	}
	return e
}

// dispatch chooses who answers a call.
func (s *Server) dispatch(ctx context.Context, plugin string, c *call) (any, error) {
	switch plugin {
	case ipamPlugin:
		return s.ipamCall(ctx, c)
	case "patchbay-ovs":
		return s.interfaceCall(ctx, c)
	}
	return s.podCall(ctx, c)
}

// A call is a request with its configuration and CNI_ARGS read.
type call struct {
	*cniwire.Request
	conf netconf
	args map[string]string
	pod  meta.Pod // as the arguments name it; no name: the call is for none
}

// valid are the attachments that the runtime has, of a GC.
func (c *call) valid() []types.GCAttachment {
	return slices.Concat(c.conf.ValidAttachments.list, c.conf.Attachments.list)
}

// netconf is what every plugin of ours reads of its configuration.
type netconf struct {
	CNIVersion       string                     `json:"cniVersion"`
	Name             string                     `json:"name"`
	RuntimeConfig    map[string]json.RawMessage `json:"runtimeConfig"`
	PrevResult       json.RawMessage            `json:"prevResult"`
	IPAM             json.RawMessage            `json:"ipam"`
	ValidAttachments validAttachments           `json:"cni.dev/valid-attachments"`
	Attachments      validAttachments           `json:"cni.dev/attachments"` // the key of libcni before 1.1.0
	Args             struct {
		CNI map[string]json.RawMessage `json:"cni"`
	} `json:"args"`
}

// validAttachments are those of a GC that the runtime still has. A list that is null is empty, as libcni
// writes it; one that is missing says nothing.
type validAttachments struct {
	given bool
	list  []types.GCAttachment
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *validAttachments) UnmarshalJSON(b []byte) error {
	v.given = true
	return json.Unmarshal(b, &v.list)
}

func newCall(req *cniwire.Request) (*call, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if len(req.Config) == 0 || string(req.Config) == "null" {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration on standard input is missing", "")
	}
	c := &call{Request: req, args: map[string]string{}}
	if err := json.Unmarshal(req.Config, &c.conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration", explain.JSON(req.Config, err))
	}
	if !slices.Contains(cniwire.SupportedVersions, c.conf.CNIVersion) && req.Command != "DEL" {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %q is not supported", c.conf.CNIVersion),
			"supported: "+strings.Join(cniwire.SupportedVersions, ", "))
	}
	if req.Command == "GC" && !c.conf.ValidAttachments.given && !c.conf.Attachments.given {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "GC without the list \"cni.dev/valid-attachments\"",
			"a list that is missing could mean that nothing is valid: nothing is removed")
	}
	for pair := range strings.FieldsFuncSeq(req.Args, func(r rune) bool { return r == ';' }) {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_ARGS: %q is not key=value", pair), "")
		}
		c.args[k] = v
	}
	c.pod = meta.Pod{Namespace: c.args["K8S_POD_NAMESPACE"], Name: c.args["K8S_POD_NAME"], UID: c.args["K8S_POD_UID"]}
	return c, nil
}

func (c *call) sandbox() attach.Sandbox {
	return attach.Sandbox{ContainerID: c.ContainerID, Netns: c.Netns, Namespace: c.pod.Namespace, Pod: c.pod.Name, UID: c.pod.UID,
		CNIArgs: c.Args, CNIPath: filepath.SplitList(c.Path)}
}

func versionOf(config []byte) string {
	var c struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(config, &c) // an unreadable configuration has no version
	return c.CNIVersion
}
