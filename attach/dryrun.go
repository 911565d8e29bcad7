package attach

import (
	"context"
	"fmt"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// DryRun does of Attach what makes nothing: it plans, and asks pod, pool and delegate whether it
// could be made.
func (e *Engine) DryRun(ctx context.Context, namespace, pod string, plan func(*Sandbox) (meta.Wanted, error)) (s *Sandbox, a *Attachment, created bool, err error) {
	if s, err = e.Pod(namespace, pod); err != nil {
		return nil, nil, false, err
	}
	w, err := planned(s, plan)
	if err == nil {
		err = e.possible(ctx, s, w)
	}
	return s, &Attachment{Spec: newSpec(w, s.ContainerID), Status: Status{Phase: Pending, Message: "dry run: nothing was made"}}, false, err
}

// possible says why an attachment could not be made.
func (e *Engine) possible(ctx context.Context, s *Sandbox, w meta.Wanted) error {
	d, err := e.enter(s)
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", s.Namespace, s.Pod, err)
	}
	defer d.Netns.Close()
	if p := w.Config.Plugins[0]; p.IPAMType == ipam.Type {
		if err := e.IPAM.Check(p.IPAM); err != nil {
			return err
		}
	}
	if err := e.Delegates.Installed(w.Config, s.CNIPath); err != nil {
		return err
	}
	return e.Delegates.Status(ctx, w.Config)
}
