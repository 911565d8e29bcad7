package kube

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// NodeGone returns a function that says whether a node is no longer in the cluster. Only the API server's word for
// that very node counts.
func NodeGone(clients kubernetes.Interface) func(ctx context.Context, name string) (bool, error) {
	return func(ctx context.Context, name string) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, liveTimeout)
		defer cancel()
		_, err := clients.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		var status apierrors.APIStatus
		if errors.As(err, &status) && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Name == name {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("node %s: %w", name, err)
		}
		return false, nil
	}
}
