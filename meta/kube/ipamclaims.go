package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/patchbay-cni/patchbay/ipam"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// ipamClaims is the resource of the multi-network specification, 8.2: its definition has this group,
// though its example has another.
var ipamClaims = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Resource: "ipamclaims"}

// IPAMClaims reads IPAMClaims and writes their status. It implements ipam.IPAMClaims.
type IPAMClaims struct{ client dynamic.Interface }

// NewIPAMClaims returns the IPAMClaims of a cluster.
func NewIPAMClaims(cfg *rest.Config) (*IPAMClaims, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for IPAMClaims: %w", err)
	}
	return &IPAMClaims{c}, nil
}

// IPAMClaim implements ipam.IPAMClaims.
func (c *IPAMClaims) IPAMClaim(ctx context.Context, namespace, name string) (*ipam.IPAMClaim, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	o, err := c.client.Resource(ipamClaims).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("IPAMClaim %s/%s: %w", namespace, name, ipam.ErrNoIPAMClaim)
	}
	if err != nil {
		return nil, classify("IPAMClaim "+namespace+"/"+name, err)
	}
	network, _, noNetwork := unstructured.NestedString(o.Object, "spec", "network")
	ifName, _, noInterface := unstructured.NestedString(o.Object, "spec", "interface")
	ips, _, noIPs := unstructured.NestedStringSlice(o.Object, "status", "ips")
	if err := errors.Join(noNetwork, noInterface, noIPs); err != nil {
		return nil, fmt.Errorf("IPAMClaim %s/%s: %w", namespace, name, err)
	}
	return &ipam.IPAMClaim{Network: network, Interface: ifName, IPs: ips, Version: o.GetResourceVersion()}, nil
}

// SetIPs implements ipam.IPAMClaims.
func (c *IPAMClaims) SetIPs(ctx context.Context, namespace, name, version string, ips []string) error {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	if err := failpoint.Hit("kube-ipamclaim-write"); err != nil {
		return err
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": version}, "status": map[string]any{"ips": ips}}) // texts always marshal
	_, err := c.client.Resource(ipamClaims).Namespace(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsConflict(err):
		return ipam.ErrIPAMClaimChanged
	case err != nil:
		return classify("IPAMClaim "+namespace+"/"+name, err)
	}
	return nil
}
