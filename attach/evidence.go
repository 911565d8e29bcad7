package attach

import (
	"context"
	"errors"
	"time"

	"github.com/patchbay-cni/patchbay/internal/netns"
)

// provenGone reports whether a sandbox's namespace is gone, and was gone a grace ago.
func (e *Engine) provenGone(ctx context.Context, s *Sandbox) bool {
	d, err := e.enter(s)
	if err == nil {
		_ = d.Netns.Close()
	}
	gone := errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrOther)
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[s.ContainerID]
	switch {
	case slot == nil:
		return false
	case slot.record != s || !gone:
		slot.goneAt = time.Time{}
		return false
	case slot.goneAt.IsZero():
		slot.goneAt = time.Now()
		return false
	}
	return time.Since(slot.goneAt) >= e.GCGrace
}
