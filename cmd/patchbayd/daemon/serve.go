package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-cni/patchbay/attach/api"
)

// servers are the daemon's HTTP servers.
type servers struct {
	all    []*http.Server
	cut    []context.CancelFunc // the contexts of their calls
	ending errgroup.Group
}

func (d *Daemon) listen(cniListener, apiListener net.Listener) (*servers, error) {
	s := &servers{}
	s.serve(cniListener, d.metrics.Inflight(d.cni))
	rest := api.New(api.Options{Engine: d.engine, Planner: d.planner, IPAM: d.ipam, Nodes: d.store.Nodes, Networks: d.pods.catalog.Networks,
		Doctor: d.examine, InlineTypes: d.cfg.API.InlineTypes, Version: d.version, Log: d.log, Observe: d.metrics.Observe, Ending: d.ending, Recovery: d.Recovery, Recover: d.Recover})
	s.serve(apiListener, d.withHealth(d.whenReady(d.metrics.Inflight(rest))))
	if d.cfg.Listen.Metrics != "" {
		l, err := net.Listen("tcp", d.cfg.Listen.Metrics)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen.metrics: %w", err), s.shutdown(0))
		}
		s.serve(l, d.withHealth(http.NotFoundHandler()))
	}
	return s, nil
}

func (s *servers) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	base, cancel := context.WithCancel(context.Background())
	srv.BaseContext = func(net.Listener) context.Context { return base }
	srv.RegisterOnShutdown(func() { time.AfterFunc(callGrace, cancel) })
	s.all, s.cut = append(s.all, srv), append(s.cut, cancel)
	s.ending.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// callGrace lets calls in flight finish before contexts are cut.
const callGrace = 15 * time.Second

// shutdown finishes the requests in flight, as long as the timeout, and waits for the servers.
func (s *servers) shutdown(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var errs []error
	for _, srv := range s.all {
		if err := srv.Shutdown(ctx); err != nil {
			errs = append(errs, srv.Close())
		}
	}
	for _, cut := range s.cut {
		cut()
	}
	return errors.Join(append(errs, s.ending.Wait())...)
}

// whenReady answers 503 until the daemon serves.
func (d *Daemon) whenReady(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.ready.Load() && !slices.Contains([]string{api.RecoveryPath, api.DoctorPath}, r.URL.Path) {
			detail := "patchbayd is starting or stopping"
			if why := d.guard.Suspended(); why != nil {
				detail = why.Error()
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(map[string]any{"status": http.StatusServiceUnavailable, "title": "Service Unavailable", "detail": detail}) // the client may have gone
			return
		}
		h.ServeHTTP(w, r)
	})
}

// withHealth adds /healthz (the process answers), /readyz (an ADD can be served) and /metrics.
func (d *Daemon) withHealth(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := d.probe(r.Context())
		if !d.ready.Load() {
			err = errors.New("recovery is not done")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", d.metrics.Handler())
	mux.Handle("/", h)
	return mux
}
