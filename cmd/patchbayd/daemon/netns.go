package daemon

import (
	"context"
	"errors"

	"github.com/patchbay-cni/patchbay/internal/netns"
)

// namespaces is the task that says, at the start too, whether the namespaces of new pods can be seen.
func (d *Daemon) namespaces() Task {
	check := func(context.Context) (string, error) {
		var errs []error
		for _, dir := range netns.Dirs {
			errs = append(errs, netns.CheckShared(dir))
		}
		return "what the runtime mounts is seen here", errors.Join(errs...)
	}
	return Task{Name: "network-namespaces", Check: check, Ready: func(ctx context.Context) error {
		if _, err := check(ctx); err != nil {
			d.log.Error("network namespaces", "error", err)
		}
		return nil
	}}
}
