// Package api is the REST door: it translates requests into calls of the engine, and outcomes into
// attachments and problem documents (RFC 9457).
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sync/semaphore"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

const (
	callTimeout = 90 * time.Second
	maxBody     = 256 << 10
	// maxChanges is how many attaches and detaches may be in flight.
	maxChanges = 64
)

// Options are what the API is made of.
type Options struct {
	Engine  *attach.Engine
	Planner *meta.Planner
	IPAM    *ipam.Service
	Nodes   func(ctx context.Context) ([]store.Node, error)
	// Networks lists the networks the node knows.
	Networks func() []meta.Network
	// Doctor examines the node.
	Doctor func(ctx context.Context) []client.Finding
	// Recovery says what the node's etcd is; Recover decides what is right.
	Recovery func(ctx context.Context) (*client.Recovery, error)
	Recover  func(ctx context.Context, from string) (*client.Recovery, error)
	// InlineTypes are the plugin types an inline configuration may have; empty: all.
	InlineTypes []string
	Version     string
	Log         *slog.Logger
	Observe     func(command, stage string, d time.Duration)
	// Ending is closed when the daemon begins to end: watches, which last as long as their clients, end.
	Ending <-chan struct{}
}

type server struct {
	Options
	changes *semaphore.Weighted
}

// errBusy is the answer to one attach or detach too many: the pods that start and end need the node, too.
var errBusy = fault.New(fault.RetryLater, fmt.Sprintf("%d attaches and detaches are in flight already", maxChanges))

// New returns the API's handler.
func New(o Options) http.Handler {
	s := &server{o, semaphore.NewWeighted(maxChanges)}
	mux := http.NewServeMux()
	cfg := huma.DefaultConfig("Patchbay", o.Version)
	cfg.CreateHooks = nil // answers are what the documents say, without $schema
	cfg.DocsPath = ""     // the page would load its scripts from elsewhere
	cfg.Transformers = []huma.Transformer{inWords}
	s.register(humago.New(mux, cfg))
	return orMissing(mux)
}

const attachments = "/v1/namespaces/{namespace}/pods/{pod}/attachments"

// PodPath names a pod; exported, as huma reads embedded structs only then.
type PodPath struct {
	Namespace string `path:"namespace"`
	Pod       string `path:"pod"`
}

// IfPath names an attachment.
type IfPath struct {
	PodPath
	Interface string `path:"interface"`
}

type detachInput struct {
	IfPath
	Force bool `query:"force" doc:"discard what can't be unmade, and free its addresses"`
}

type body[T any] struct{ Body T }

type made struct {
	Status int
	Body   client.Attachment
}

// op describes an operation; the framework knows its status by what it answers.
func op(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: maxBody}
}

func (s *server) register(api huma.API) {
	create := op("attach", http.MethodPost, attachments, "Attach an interface to a running pod")
	create.DefaultStatus = http.StatusCreated
	huma.Register(api, create, func(ctx context.Context, in *struct {
		PodPath
		Body client.Request
	}) (*made, error) {
		return s.attach(ctx, in.PodPath, in.Body)
	})
	huma.Register(api, op("ensure", http.MethodPut, attachments+"/{interface}", "Attach an interface by its name; may be repeated"),
		func(ctx context.Context, in *struct {
			IfPath
			Body client.Request
		}) (*made, error) {
			if in.Body.Interface != "" && in.Body.Interface != in.Interface {
				return nil, huma.Error422UnprocessableEntity("the path names another interface", &huma.ErrorDetail{Location: "body.interface", Message: "is " + in.Body.Interface + ", the path says " + in.Interface})
			}
			in.Body.Interface = in.Interface
			return s.attach(ctx, in.PodPath, in.Body)
		})
	huma.Register(api, op("detach", http.MethodDelete, attachments+"/{interface}", "Detach an interface"),
		func(ctx context.Context, in *detachInput) (*struct{}, error) { return nil, s.detach(ctx, in) })
	huma.Register(api, op("get", http.MethodGet, attachments+"/{interface}", "One attachment of a pod"), s.get)
	huma.Register(api, op("listPod", http.MethodGet, attachments, "The attachments of a pod"),
		func(_ context.Context, in *PodPath) (*body[[]client.Attachment], error) {
			sb, err := s.Engine.Pod(in.Namespace, in.Pod)
			if err != nil {
				return nil, problem(err)
			}
			return &body[[]client.Attachment]{views(sb)}, nil
		})
	s.registerList(api, op("list", http.MethodGet, "/v1/attachments", "All attachments of the node; watch=true for server-sent events"))
	s.registerState(api)
}

func (s *server) attach(ctx context.Context, p PodPath, r client.Request) (*made, error) {
	if !s.changes.TryAcquire(1) {
		return nil, problem(errBusy)
	}
	defer s.changes.Release(1)
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("not finished within %s", callTimeout))
	defer cancel()
	if err := failpoint.Hit("rest-attach"); err != nil {
		return nil, problem(err)
	}
	plan := func(have *attach.Sandbox) (meta.Wanted, error) { return s.plan(ctx, p, r, have) }
	do := s.Engine.Attach
	if r.DryRun {
		do = s.Engine.DryRun
	}
	sb, a, created, err := do(ctx, p.Namespace, p.Pod, plan)
	if !r.DryRun {
		s.Observe("ATTACH", "total", time.Since(begin))
		s.audit("attach", p, r.Interface, r.Network, err)
	}
	if err != nil {
		return nil, problem(err)
	}
	if err := failpoint.Hit("rest-attached"); err != nil {
		return nil, problem(err)
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return &made{status, view(sb, *a)}, nil
}

// plan turns a request into what package meta plans.
func (s *server) plan(ctx context.Context, p PodPath, r client.Request, have *attach.Sandbox) (meta.Wanted, error) {
	if r.UID != "" && r.UID != have.UID {
		return meta.Wanted{}, huma.Error409Conflict(fmt.Sprintf("pod %s/%s has UID %s, not %s", p.Namespace, p.Pod, have.UID, r.UID))
	}
	if (r.Network == "") == (len(r.Config) == 0) {
		return meta.Wanted{}, huma.Error422UnprocessableEntity("give either network or config")
	}
	sel := meta.Selection{Interface: r.Interface, IPs: r.IPs, MAC: r.MAC, CNIArgs: r.CNIArgs, DefaultRoute: r.DefaultRoute, Bandwidth: (*delegates.Bandwidth)(r.Bandwidth)}
	if r.Interface == "eth0" {
		return meta.Wanted{}, huma.Error422UnprocessableEntity("interface eth0 is the cluster network's", &huma.ErrorDetail{Location: "body.interface", Message: "choose another name"})
	}
	for _, m := range r.PortMappings {
		sel.PortMappings = append(sel.PortMappings, meta.PortMapping(m))
	}
	if r.Network == "" {
		return s.inline(r.Config, sel, have)
	}
	sel.Name = r.Network
	if ns, name, ok := strings.Cut(r.Network, "/"); ok {
		sel.Namespace, sel.Name = ns, name
	}
	return s.Planner.One(ctx, p.Namespace, sel, have.Interfaces())
}

func (s *server) inline(config json.RawMessage, sel meta.Selection, have *attach.Sandbox) (meta.Wanted, error) {
	w, err := s.Planner.Inline(config, sel, have.Interfaces())
	if err != nil {
		return w, err
	}
	allowed := func(t string) bool { return len(s.InlineTypes) == 0 || slices.Contains(s.InlineTypes, t) }
	for _, plugin := range w.Config.Plugins {
		where, t := "body.config.type", plugin.Type
		if allowed(t) {
			if t = plugin.IPAMType; t == "" || t == ipam.Type || allowed(t) {
				continue
			}
			where = "body.config.ipam.type" // it is executed, too
		}
		return w, huma.Error422UnprocessableEntity("plugin type not allowed", &huma.ErrorDetail{Location: where, Message: fmt.Sprintf("%q is not in api.inlineTypes", t)})
	}
	return w, nil
}

func (s *server) detach(ctx context.Context, in *detachInput) error {
	if !s.changes.TryAcquire(1) {
		return problem(errBusy)
	}
	defer s.changes.Release(1)
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("not finished within %s", callTimeout))
	defer cancel()
	if err := failpoint.Hit("rest-detach"); err != nil {
		return problem(err)
	}
	verb := "detach"
	var unmade, err error
	if in.Force {
		verb = "detach --force"
		unmade, err = s.Engine.ForceDetach(ctx, in.Namespace, in.Pod, in.Interface)
	} else {
		err = s.Engine.Detach(ctx, in.Namespace, in.Pod, in.Interface)
	}
	s.Observe("DETACH", "total", time.Since(begin))
	s.audit(verb, in.PodPath, in.Interface, "", errors.Join(err, discarded(unmade)))
	return problem(err)
}

// discarded says for the audit that something was dropped from the record which may still be there.
func discarded(unmade error) error {
	if unmade == nil {
		return nil
	}
	return fmt.Errorf("discarded, as it can't be unmade: %w", unmade)
}

func (s *server) audit(verb string, p PodPath, ifName, network string, err error) {
	result := "ok"
	if err != nil {
		result = err.Error()
	}
	s.Log.Info("audit", "verb", verb, "pod", p.Namespace+"/"+p.Pod, "interface", ifName, "network", network, "by", "local root", "result", result)
}

func (s *server) get(_ context.Context, in *IfPath) (*body[client.Attachment], error) {
	sb, err := s.Engine.Pod(in.Namespace, in.Pod)
	a := sb.Find(in.Interface)
	if err == nil && a == nil {
		err = fmt.Errorf("interface %s of pod %s/%s: %w", in.Interface, in.Namespace, in.Pod, attach.ErrNoAttachment)
	}
	if err != nil {
		return nil, problem(err)
	}
	return &body[client.Attachment]{view(sb, *a)}, nil
}
