package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// ErrNone says that there is no API server to talk to: no kubeconfig and no service account.
var ErrNone = fault.New(fault.Invalid, "neither a kubeconfig (kubernetes.kubeconfig) nor a service account is there")

// Config returns how to reach the API server: by the kubeconfig, or as the pod that this process
// runs in. Tokens and certificates in files are read again as they are renewed.
func Config(kubeconfig, userAgent string) (*rest.Config, error) {
	cfg, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = userAgent
	cfg.QPS, cfg.Burst = 50, 100
	readToken(cfg)
	return cfg, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, ErrNone
		}
		return cfg, err
	}
	info, err := os.Stat(kubeconfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("kubernetes.kubeconfig %s does not exist", kubeconfig)
	case err != nil:
		return nil, fmt.Errorf("kubernetes.kubeconfig: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("kubernetes.kubeconfig %s can be read by others (mode %#o): chmod 600 it", kubeconfig, info.Mode().Perm())
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes.kubeconfig %s can't be used as one: kubectl config view --kubeconfig %s says what is wrong with it", kubeconfig, kubeconfig)
	}
	return cfg, nil
}

// liveTimeout bounds a GET when the cache does not have what is asked for.
const liveTimeout = 5 * time.Second
