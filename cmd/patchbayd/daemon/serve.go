package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/patchbay-cni/patchbay/attach/api"
)

// servers are the daemon's HTTP servers.
type servers struct {
	all  []*http.Server
	done chan error
}

func (d *Daemon) listen(cniListener, apiListener net.Listener) (*servers, error) {
	s := &servers{done: make(chan error, 3)}
	s.serve(cniListener, d.metrics.Inflight(d.cni))
	s.serve(apiListener, d.whenReady(d.metrics.Inflight(d.withHealth(api.New(d.apiOptions())))))
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
	// A watch lasts as long as its client: it is what must end when we stop.
	srv.RegisterOnShutdown(func() { time.AfterFunc(watchGrace, cancel) })
	s.all = append(s.all, srv)
	go func() {
		err := srv.Serve(l)
		cancel()
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.done <- err
	}()
}

// watchGrace lets calls in flight finish before contexts are cut.
const watchGrace = 15 * time.Second

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
	for range s.all {
		errs = append(errs, <-s.done)
	}
	return errors.Join(errs...)
}

// whenReady answers 503 until recovery is done; health is answered always.
func (d *Daemon) whenReady(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.ready.Load() && r.URL.Path != "/healthz" && r.URL.Path != "/readyz" && r.URL.Path != "/metrics" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":503,"title":"Service Unavailable","detail":"patchbayd is starting or stopping"}`))
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
