package attach

import (
	"context"
	"errors"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/internal/netns"
)

// A Runtime is asked what has become of a sandbox. asked is false if there is nobody to ask; an error says
// nothing of the sandbox.
type Runtime interface {
	Ended(ctx context.Context, containerID string) (ended, asked bool, err error)
}

// provenGone reports whether a sandbox has ended: its namespace is gone, and was gone a grace ago, and the
// runtime says so, too. If nobody can be asked, the grace is the longer one, and nothing on the host's side may
// speak for the namespace.
func (e *Engine) provenGone(ctx context.Context, s *Sandbox) bool {
	gone := e.noteGone(s, e.isGone(s))
	if gone < e.GCGrace {
		return false
	}
	ended, asked, err := e.Runtime.Ended(ctx, s.ContainerID)
	switch {
	case err != nil:
		e.logger(s).Warn("the sandbox's namespace is gone, and the runtime does not say whether the sandbox has ended: it is kept", "error", err)
		return false
	case asked:
		return ended
	}
	return gone >= e.UnaskedGrace && !s.hasHostEnd()
}

// isGone reports whether there is no namespace of the sandbox any more where it was, and that place can be seen:
// a directory that is unmounted, hidden or another says nothing.
func (e *Engine) isGone(s *Sandbox) bool {
	d, err := e.enter(s)
	if err == nil {
		_ = d.Netns.Close()
		return false
	}
	if s.BootID != e.bootID {
		return true
	}
	return (errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrOther)) && netns.Visible(s.Netns, s.NetnsPlace, err)
}

// noteGone notes an observation, and returns how long the sandbox's namespace is known to be gone: less than
// nothing if it is not, or was not before.
func (e *Engine) noteGone(s *Sandbox, gone bool) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	slot := e.sandboxes[s.ContainerID]
	switch {
	case slot == nil:
		return -1
	case slot.record != s || !gone:
		slot.goneAt = time.Time{}
		return -1
	case slot.goneAt.IsZero():
		slot.goneAt = time.Now()
		return -1
	}
	return time.Since(slot.goneAt)
}

// hasHostEnd reports whether the host may have the other end of one of the sandbox's interfaces, which goes with
// the namespace: processes can keep one that no path leads to.
func (s *Sandbox) hasHostEnd() bool {
	for _, a := range s.Attachments {
		if a.Status.Port == "" {
			continue
		}
		l, err := netlink.LinkByName(a.Status.Port)
		if err == nil && l.Type() == "veth" || err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
			return true
		}
	}
	return false
}
