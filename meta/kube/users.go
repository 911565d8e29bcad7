package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/patchbay-cni/patchbay/meta"
)

// UsersOf returns the pods, namespace/name, that use a network, namespace/name: by what they ask for,
// and by what their network-status says they have.
func UsersOf(ctx context.Context, cfg *rest.Config, network string) ([]string, error) {
	pods, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	var users []string
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		l, err := pods.Resource(Pods).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range l.Items {
			if p := toPod(&l.Items[i]); uses(p, network) {
				users = append(users, p.Namespace+"/"+p.Name)
			}
		}
		if opts.Continue = l.Continue; opts.Continue == "" {
			return users, nil
		}
	}
}

func uses(p *meta.Pod, network string) bool {
	sels, err := meta.ParseNetworks(p.Annotations[meta.NetworksAnnotation], p.Namespace)
	if err == nil && slices.ContainsFunc(sels, func(s meta.Selection) bool { return s.Ref() == network }) {
		return true
	}
	var status []meta.NetworkStatus
	return json.Unmarshal([]byte(p.Annotations[meta.StatusAnnotation]), &status) == nil &&
		slices.ContainsFunc(status, func(s meta.NetworkStatus) bool { return s.Name == network })
}
