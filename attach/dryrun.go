package attach

import (
	"context"
	"fmt"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// DryRun does of Attach what makes nothing: it plans, and asks pod, pool and delegate whether it
// could be made.
func (e *Engine) DryRun(ctx context.Context, namespace, pod string, plan func(*Sandbox) (meta.Wanted, error)) (*Sandbox, *Attachment, error) {
	s, err := e.Pod(namespace, pod)
	if err != nil {
		return nil, nil, err
	}
	w, err := plan(s)
	if err != nil {
		return s, nil, err
	}
	if a := s.Find(w.Interface); a != nil && !a.Spec.equal(newSpec(w, s.ContainerID)) {
		return s, nil, fmt.Errorf("interface %s of pod %s/%s: %w (network %s)", w.Interface, namespace, pod, ErrConflict, a.Spec.Network)
	}
	d, err := e.enter(s)
	if err != nil {
		return s, nil, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	defer d.Netns.Close()
	if p := w.Config.Plugins[0]; p.IPAMType == ipam.Type {
		if err := e.IPAM.Check(p.IPAM); err != nil {
			return s, nil, err
		}
	}
	if err := e.Delegates.Installed(w.Config, s.CNIPath); err != nil {
		return s, nil, err
	}
	if err := e.Delegates.Status(ctx, w.Config); err != nil {
		return s, nil, err
	}
	return s, &Attachment{Spec: newSpec(w, s.ContainerID), Status: Status{Phase: Pending, Message: "dry run: nothing was made"}}, nil
}
