package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/patchbay-cni/patchbay/meta"
)

// UsersOf returns the pods, namespace/name, that use a network, namespace/name: by what they ask for,
// and by what their network-status says they have.
func UsersOf(ctx context.Context, cfg *rest.Config, network string) ([]string, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	var users []string
	err = eachPod(ctx, client.Resource(Pods).List, func(o *metav1.PartialObjectMetadata) {
		if p := toPod(o); uses(p, network) {
			users = append(users, p.Namespace+"/"+p.Name)
		}
	})
	return users, err
}

// eachPod calls fn with every pod that list returns, a page at a time.
func eachPod[L, P runtime.Object](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), fn func(P)) error {
	pages := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) { return list(ctx, opts) })
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		fn(o.(P))
		return nil
	})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	return nil
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
