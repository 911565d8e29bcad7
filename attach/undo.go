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
	if m.sandbox.Recorded == nil { // nothing was to be made yet
		m.cancel()
		return m.explain(cause)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	_ = m.sandbox.Recorded() // known already, or not the cause
	if err := failpoint.Hit("undo-begin"); err != nil {
		return err
	}
	gone, stuck := m.takeBack(ctx, cause)
	m.restoreDefaultRoutes()
	rest := m.before
	for _, o := range stuck {
		rest = rest.with(o.Attachment)
	}
	err := failpoint.Hit("undo-unmade")
	if err == nil {
		err = m.e.forget(ctx, m.slot, rest, gone)
	}
	cause = m.explain(cause)
	switch log := m.e.logger(m.before); {
	case err != nil:
		log.Error("roll-back is not recorded; it will be tried again", "cause", cause, "error", err)
	case len(stuck) > 0:
		m.e.tellAbandoned(m.before, stuck)
		log.Error("roll-back is incomplete; it will be tried again", "cause", cause, "error", stuck[0].err)
	default:
		log.Warn("attach failed and was undone", "error", cause)
	}
	if m.undone = err == nil && len(stuck) == 0; m.undone || !m.intended {
		m.cancel()
	}
	return cause
}

// takeBack unmakes what was tried, and returns what is not there and what could not be unmade.
func (m *making) takeBack(ctx context.Context, cause error) (gone []Attachment, stuck []outcome) {
	var tried []Attachment
	for _, p := range m.parts {
		p.Status.Phase, p.Status.Result = Failed, p.work.Result
		leased := p.work.Addresses != nil && m.e.Delegates.OtherIPAM(p.Spec.Config) != ""
		if !m.intended {
			p.Status.Claims = nil // never claimed
		}
		p.Status.Refused = p.work.Tried && p.work.Result == nil && !leased && isRefusal(cause)
		if p.work.Tried {
			tried = append(tried, p.Attachment)
		} else {
			gone = append(gone, p.Attachment)
		}
	}
	for _, o := range m.e.unmake(ctx, m.sandbox, tried) {
		if o.err == nil {
			gone = append(gone, o.Attachment)
			continue
		}
		stuck = append(stuck, o)
	}
	return gone, stuck
}

// cancel gives back what was reserved and not claimed.
func (m *making) cancel() {
	for _, p := range m.parts {
		kept := m.intended && p.Spec.IPAMClaim != "" // the addresses are the IPAMClaim's from now on
		if p.reservation != nil && !kept {
			p.reservation.Cancel()
		}
	}
}
