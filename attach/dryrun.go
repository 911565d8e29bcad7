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
	w, err := planned(s, plan)
	if err != nil {
		return nil, nil, err
	}
	d, err := e.enter(s)
	if err != nil {
		return nil, nil, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	defer d.Netns.Close()
	if p := w.Config.Plugins[0]; p.IPAMType == ipam.Type {
		if err := e.IPAM.Check(p.IPAM); err != nil {
			return nil, nil, err
		}
	}
	if err := e.Delegates.Installed(w.Config, s.CNIPath); err != nil {
		return nil, nil, err
	}
	if err := e.Delegates.Status(ctx, w.Config); err != nil {
		return nil, nil, err
	}
	return s, &Attachment{Spec: newSpec(w, s.ContainerID), Status: Status{Phase: Pending, Message: "dry run: nothing was made"}}, nil
}
