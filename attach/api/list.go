package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/client"
)

type filter struct {
	Node      string `query:"node"`
	Namespace string `query:"namespace"`
	Pod       string `query:"pod"`
	Network   string `query:"network"`
	Watch     bool   `query:"watch"`
}

func (f filter) match(a client.Attachment) bool {
	return (f.Node == "" || f.Node == a.Node) && (f.Namespace == "" || f.Namespace == a.Namespace) &&
		(f.Pod == "" || f.Pod == a.Pod) && (f.Network == "" || f.Network == a.Network)
}

// registerList registers the list and the watch, which share a path. huma's package sse can't serve them:
// an operation of it answers with events only, and has a type in Go for each name of an event. So the one
// operation streams either answer, and describes both.
func (s *server) registerList(api huma.API, op huma.Operation) {
	schema := func(t reflect.Type) *huma.MediaType {
		return &huma.MediaType{Schema: api.OpenAPI().Components.Schemas.Schema(t, true, "")}
	}
	op.Responses = map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{
		"application/json":  schema(reflect.TypeFor[[]client.Attachment]()),
		"text/event-stream": schema(reflect.TypeFor[client.Event]()),
	}}}
	huma.Register(api, op, func(_ context.Context, f *filter) (*huma.StreamResponse, error) {
		if f.Watch {
			return &huma.StreamResponse{Body: func(c huma.Context) { s.watch(c, *f) }}, nil
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			now, _ := s.Engine.Follow()
			c.SetHeader("Content-Type", "application/json")
			_ = api.Marshal(c.BodyWriter(), "application/json", list(now, *f)) // the caller may have gone
		}}, nil
	})
}

// list returns those of the pods' attachments that the filter lets pass, in order.
func list(pods []*attach.Sandbox, f filter) []client.Attachment {
	all := []client.Attachment{}
	for _, sb := range pods {
		all = append(all, slices.DeleteFunc(views(sb), func(v client.Attachment) bool { return !f.match(v) })...)
	}
	slices.SortFunc(all, func(a, b client.Attachment) int {
		return slices.Compare([]string{a.Namespace, a.Pod, a.Interface}, []string{b.Namespace, b.Pod, b.Interface})
	})
	return all
}

// watch sends what there is, then every change, as server-sent events. It ends when the reader is so slow
// that changes are gone, or the daemon ends: then the caller lists again.
func (s *server) watch(c huma.Context, f filter) {
	now, changes := s.Engine.Follow()
	_, w := humago.Unwrap(c)
	flush := http.NewResponseController(w)
	ctx, end := context.WithCancel(c.Context())
	defer end()
	go func() {
		select {
		case <-s.Ending:
			_ = flush.SetWriteDeadline(time.Now()) // it may be writing to a client that does not read
			end()
		case <-ctx.Done():
		}
	}()
	c.SetHeader("Content-Type", "text/event-stream")
	c.SetHeader("Cache-Control", "no-store")
	send := func(typ string, v client.Attachment) error {
		b, err := json.Marshal(client.Event{Type: typ, Attachment: v})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", typ, b); err != nil {
			return err
		}
		return flush.Flush()
	}
	_ = flush.Flush()
	for _, v := range list(now, f) {
		if send("ADDED", v) != nil {
			return
		}
	}
	for {
		entries, err := changes.Next(ctx)
		if err != nil {
			return
		}
		for _, entry := range entries {
			for _, e := range entry.Events {
				v := view(e.Sandbox, e.Attachment)
				if f.match(v) && send(e.Type, v) != nil {
					return
				}
			}
		}
	}
}
