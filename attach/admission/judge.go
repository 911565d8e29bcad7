// Package admission refuses NetworkAttachmentDefinitions and annotations that can't work when they
// are written, rather than when a pod starts.
package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// ForceAnnotation on a NetworkAttachmentDefinition, "true", lets it be deleted while pods use it.
const ForceAnnotation = "patchbay.io/force-delete"

// A Judge decides what is let in.
type Judge struct {
	Planner *meta.Planner
	Pools   map[string]ipam.Config
	// Users returns the pods that use a network, namespace/name.
	Users func(network string) ([]string, error)
}

// Network reports why a network can't work.
func (j *Judge) Network(n meta.Network) error {
	if strings.TrimSpace(n.Config) == "" {
		return nil // on the nodes' disks
	}
	list, err := cniconf.Parse([]byte(n.Config), n.Name)
	if err != nil {
		return fmt.Errorf("spec.config: %w", err)
	}
	cfg := j.Planner.Config()
	if err := cfg.CheckChain(list); err != nil {
		return fmt.Errorf("spec.config: %w", err)
	}
	if err := cfg.Trusts(n.Namespace, list); err != nil {
		return fmt.Errorf("spec.config: %w", err)
	}
	for _, p := range list.Plugins {
		if p.Type == ovs.Type || p.Type == ovs.ForeignType {
			if err := ovs.Validate(list); err != nil {
				return fmt.Errorf("spec.config: %w", err)
			}
		}
		if p.IPAMType == ipam.Type {
			if _, err := ipam.ParseConfig(p.IPAM, j.Pools); err != nil {
				return fmt.Errorf("spec.config: %w", err)
			}
		}
	}
	return nil
}

// Deletion reports why a network, namespace/name, can't be deleted. As long as it is not known who uses it, it
// can't.
func (j *Judge) Deletion(network string) error {
	users, err := j.Users(network)
	if err != nil {
		return fmt.Errorf("which pods use network %s is not known: %w; try again in a moment, or annotate it with %s=true", network, err, ForceAnnotation)
	}
	if len(users) == 0 {
		return nil
	}
	shown := users[:min(len(users), 5)]
	return fmt.Errorf("%d pods use network %s: %s; delete them first, or annotate it with %s=true", len(users), network, strings.Join(shown, ", "), ForceAnnotation)
}

// Pod reports why a pod's annotations can't work. What may yet come is a warning.
func (j *Judge) Pod(ctx context.Context, p meta.Pod) (warnings []string, err error) {
	_, err = j.Planner.Plan(ctx, p, "eth0", nil)
	if errors.Is(err, meta.ErrOnNodes) {
		return nil, nil // as a network of this kind is let in itself
	}
	if errors.Is(err, meta.ErrNotFound) || errors.Is(err, meta.ErrUnavailable) {
		return []string{err.Error() + "; the pod waits for it"}, nil
	}
	return nil, err
}
