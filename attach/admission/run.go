package admission

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
)

// Options of the webhook's server.
type Options struct {
	Listen  string      // host:port
	Host    string      // the service's name, as the API server calls it
	Webhook string      // the ValidatingWebhookConfiguration, which is told our certificate
	Meta    meta.Config // without the cluster network and the readiness file, which are the nodes' own
	Pools   map[string]ipam.Config
}

// Run serves reviews until the context ends.
func Run(ctx context.Context, cfg *rest.Config, o Options, log *slog.Logger) error {
	cache, err := kube.NewNetworkCache(cfg, log)
	if err != nil {
		return err
	}
	users, err := kube.NewUsers(cfg, log)
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	certificate, key, err := cert.GenerateSelfSignedCertKey(o.Host, nil, nil) // for a year, and anew at every start
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	o.Meta.AnyDevice = true
	o.Meta.Implied = map[string][]string{ovs.Type: ovs.Capabilities, ovs.ForeignType: ovs.Capabilities}
	o.Meta.NeedsTrust = ovs.NeedsTrust
	j := &Judge{Planner: meta.NewPlanner(cache, o.Meta), Pools: o.Pools, Users: users.Of}
	ctx, stop := context.WithCancel(ctx)
	var followed sync.WaitGroup
	followed.Go(func() { cache.Run(ctx) })
	followed.Go(func() { users.Run(ctx) })
	defer followed.Wait()
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !users.Synced() || !cache.Synced() {
			http.Error(w, "pods and networks are being read", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("POST /", Handler(j, log))
	srv := NewServer(mux)
	srv.Addr, srv.TLSConfig = o.Listen, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if err := publish(ctx, clients, o.Webhook, certificate); err != nil {
		return err
	}
	log.Info("reviewing", "listen", o.Listen, "webhook", o.Webhook)
	defer context.AfterFunc(ctx, func() { _ = srv.Shutdown(context.WithoutCancel(ctx)) })()
	if err := srv.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// publish tells the API server by which certificates it knows us: ours, and the authority that signed it.
func publish(ctx context.Context, clients kubernetes.Interface, name string, ca []byte) error {
	hooks := clients.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	have, err := hooks.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("ValidatingWebhookConfiguration %s: %w", name, err)
	}
	var patch []map[string]any
	for i := range have.Webhooks {
		patch = append(patch, map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": ca})
	}
	b, _ := json.Marshal(patch) // texts and bytes always marshal
	if _, err := hooks.Patch(ctx, name, types.JSONPatchType, b, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("ValidatingWebhookConfiguration %s: %w", name, err)
	}
	return nil
}
