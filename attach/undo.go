package attach

import (
	"context"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// undoTimeout bounds a roll-back, which goes on when the caller has given up.
const undoTimeout = 30 * time.Second

// undo is the one roll-back. What can't be unmade stays in the record, as Failed, and is tried
// again by the next call for the sandbox, by GC, or by recovery.
func (m *making) undo(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	_ = m.awaitIntent() // known already, or not the cause
	if err := failpoint.Hit(failpoint.UndoBegin); err != nil {
		return err
	}
	names := make([]string, len(m.as))
	for i := range m.as {
		names[i] = m.as[i].Spec.Interface
	}
	gone, failed := m.unmake(ctx, cause)
	rest := m.slot.record // what was there before
	if len(failed) > 0 {
		rest = m.before.with(failed...)
		rest.Ending = m.slot.record == nil || m.slot.record.Ending
	}
	err := failpoint.Hit(failpoint.UndoUnmade)
	if err == nil {
		err = m.e.forget(ctx, m.slot, m.before, rest, releasable(gone))
	}
	switch {
	case err != nil:
		m.e.logger(m.before).Error("roll-back is not recorded; it will be tried again", "error", err)
		left := m.before.with(m.as...)
		left.Ending = m.slot.record == nil || m.slot.record.Ending
		m.e.put(m.slot, m.before.ContainerID, left)
	case len(failed) > 0:
		m.e.tellAbandoned(m.before, nil, failed)
		m.e.logger(m.before).Error("roll-back is incomplete; it will be tried again", "interface", names, "error", failed[0].Status.Message)
	default:
		m.e.logger(m.before).Warn("attach failed and was undone", "interface", names, "error", cause)
	}
	if err == nil && len(failed) == 0 || !m.intended {
		m.cancel()
	}
	return m.explain(cause)
}

// unmake takes back what was tried, and returns what is not there and what could not be unmade.
func (m *making) unmake(ctx context.Context, cause error) (gone, failed []Attachment) {
	var tried []Attachment
	for i, a := range m.work {
		st := &m.as[i].Status
		st.Phase, st.Result, st.Refused = Failed, a.Result, a.Tried && a.Result == nil && definite(cause)
		if a.Tried {
			tried = append(tried, m.as[i])
		} else {
			gone = append(gone, m.as[i])
		}
	}
	for i, err := range m.e.unmake(ctx, m.sandbox, tried) {
		if err != nil {
			f := m.e.failed(tried[i], err, time.Now().UTC())
			if !m.intended {
				f.Status.Claims = nil // never claimed
			}
			failed = append(failed, f)
		} else {
			gone = append(gone, tried[i])
		}
	}
	return gone, failed
}

// cancel gives back what was reserved and not claimed.
func (m *making) cancel() {
	for _, r := range m.reservations {
		if m.intended && r.Claims[0].Owner.Claim != "" {
			continue // an IPAMClaim's from now on
		}
		r.Cancel()
	}
}
