package attach

import (
	"context"
	"errors"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// record writes a sandbox's record, and notes one that somebody else has changed.
func (e *Engine) record(ctx context.Context, s *Sandbox, with txn.Txn) error {
	err := e.Records.Save(ctx, s, with)
	e.noteChanged(s, err)
	return err
}

// noteChanged reports whether a record could not be written, or removed, as somebody else has changed it. From then on it
// is as one that can't be read: it, and what it accounts for, is left alone, and costs the pod nothing.
func (e *Engine) noteChanged(s *Sandbox, err error) bool {
	if !errors.Is(err, ErrChanged) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.unreadable, s.ContainerID) {
		e.logger(s).Error("sandbox record was changed by somebody else: it and what it accounts for are left alone", "error", err)
		e.unreadable = append(slices.Clip(e.unreadable), s.ContainerID)
	}
	return true
}
