package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// Add makes all attachments of a sandbox that starts, or none. Repeated for the same attachments it
// returns what is there; anything else of the sandbox is unmade first.
func (e *Engine) Add(ctx context.Context, s Sandbox, wanted []meta.Wanted) (made *Sandbox, err error) {
	err = e.enterSlot(ctx, &s, func(ctx context.Context, slot *slot, d delegates.Sandbox) error {
		defer func() { made = slot.record }()
		// What else the sandbox has, hot-attached and perhaps stuck in its DEL, is no reason to unmake it.
		if have := slot.record; have != nil && !have.Ending && have.sameNamespace(&s) && have.has(wanted...) {
			return e.again(ctx, slot, wanted...)
		}
		if err := e.endEarlier(ctx, &s); err != nil {
			return err
		}
		if slot.record != nil {
			if err := e.clear(ctx, slot, slot.record.ended(), slot.record.Attachments...); err != nil {
				return err
			}
		}
		if err := e.makeAll(ctx, "ADD", making{slot: slot, sandbox: d, before: &s, wanted: wanted}); err != nil {
			return err
		}
		e.routine(slot.record, ReasonAttached, slot.record.Attachments...)
		return nil
	})
	return made, err
}

// AddInterface makes one attachment of a sandbox, which need not be known: for a runtime that calls
// a delegate of ours directly.
func (e *Engine) AddInterface(ctx context.Context, s Sandbox, w meta.Wanted) (made *Attachment, err error) {
	err = e.enterSlot(ctx, &s, func(ctx context.Context, slot *slot, d delegates.Sandbox) error {
		defer func() { made = slot.record.Find(w.Interface) }()
		if have := slot.record; have != nil && !have.sameNamespace(&s) { // an earlier sandbox of that ID
			if err := e.clear(ctx, slot, have.ended(), have.Attachments...); err != nil {
				return err
			}
		}
		if a := slot.record.Find(w.Interface); a != nil {
			if slot.record.has(w) {
				return e.again(ctx, slot, w)
			}
			if err := e.clear(ctx, slot, slot.record, *a); err != nil {
				return err
			}
		}
		attempt := making{slot: slot, sandbox: d, before: cmp.Or(slot.record, &s), wanted: []meta.Wanted{w}}
		if err := e.makeAll(ctx, "ADD", attempt); err != nil {
			return e.Failed(ReasonFailedAttach, s.metaPod(), err)
		}
		e.routine(slot.record, ReasonAttached, *slot.record.Find(w.Interface))
		return nil
	})
	return made, err
}

// again makes sure of what an earlier ADD has made. That ADD may have been recorded although it was told
// that it was not, and have unmade a part.
func (e *Engine) again(ctx context.Context, slot *slot, wanted ...meta.Wanted) error {
	var names []string
	for _, w := range wanted {
		if slot.record.Find(w.Interface).tellsInterface() {
			names = append(names, w.Interface)
		}
	}
	if err := e.mend(ctx, slot, names...); err != nil {
		return fmt.Errorf("what an earlier ADD of sandbox %s has made is not there any more; DEL must come first: %w", slot.id, err)
	}
	return nil
}

// clear unmakes what earlier ADDs have left, for a new one. It refuses that where something was given up.
func (e *Engine) clear(ctx context.Context, slot *slot, next *Sandbox, as ...Attachment) error {
	if err := e.remove(ctx, slot, next, where(as, isNotAbandoned)...); err != nil {
		return fmt.Errorf("unmake what an earlier ADD of sandbox %s left: %w", slot.id, err)
	}
	var left []string
	for _, a := range as {
		if slot.record.Find(a.Spec.Interface) != nil {
			left = append(left, a.Spec.Interface)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("sandbox %s has interfaces that could not be removed and were given up: %s",
		slot.id, strings.Join(left, ", ")), "\"patchctl leftovers rm\" removes them")
}

// endEarlier unmakes the sandboxes that were in a new one's namespace: the runtime has it for that one now.
func (e *Engine) endEarlier(ctx context.Context, s *Sandbox) error {
	for _, other := range e.Running() {
		if other.ContainerID == s.ContainerID || !other.sameNamespace(s) {
			continue
		}
		waiting, cancel := context.WithTimeout(ctx, busyWait) // that one's call may wait for us
		err := e.holdWithin(waiting, ctx, other.ContainerID, func(ctx context.Context, slot *slot) error {
			if slot.record == nil || !slot.record.sameNamespace(s) {
				return nil
			}
			e.logger(slot.record).Warn("its network namespace is another sandbox's now: unmade", "successor", s.ContainerID)
			return e.delLocked(ctx, slot)
		})
		cancel()
		if err != nil {
			return fmt.Errorf("unmake sandbox %s, which had the network namespace of sandbox %s: %w", other.ContainerID, s.ContainerID, err)
		}
	}
	return nil
}

// Attach makes one attachment of a running pod: the one that plan wants, which is called with the pod's
// record. created is false when the attachment was there already.
func (e *Engine) Attach(ctx context.Context, namespace, pod string, plan func(*Sandbox) (meta.Wanted, error)) (s *Sandbox, a *Attachment, created bool, err error) {
	have, err := e.Pod(namespace, pod)
	if err != nil {
		return nil, nil, false, err
	}
	err = e.hold(ctx, have.ContainerID, func(ctx context.Context, slot *slot) error {
		if slot.record == nil || slot.record.Ending {
			return fmt.Errorf("pod %s/%s: %w", namespace, pod, ErrNoPod)
		}
		if a, created, err = e.attachPlanned(ctx, slot, plan); err != nil {
			return e.Failed(ReasonFailedAttach, slot.record.metaPod(), err)
		}
		if s = slot.record; created {
			e.notify(s, ReasonAttached, a.describe())
		}
		return nil
	})
	return s, a, created, err
}

// attachPlanned makes what plan says, unless it is there already.
func (e *Engine) attachPlanned(ctx context.Context, slot *slot, plan func(*Sandbox) (meta.Wanted, error)) (a *Attachment, created bool, err error) {
	s := slot.record
	w, err := planned(s, plan)
	if err != nil || s.has(w) {
		return s.Find(w.Interface), false, err
	}
	if err := failpoint.Hit("attach-planned"); err != nil {
		return nil, false, err
	}
	d, err := e.enter(s)
	if err != nil {
		return nil, false, fmt.Errorf("pod %s/%s: %w", s.Namespace, s.Pod, err)
	}
	defer d.Netns.Close()
	err = e.makeAll(ctx, "ATTACH", making{slot: slot, sandbox: d, before: s, wanted: []meta.Wanted{w}})
	return slot.record.Find(w.Interface), err == nil, err
}

// planned returns what plan says. It is ErrConflict if there is another attachment of that interface.
func planned(s *Sandbox, plan func(*Sandbox) (meta.Wanted, error)) (meta.Wanted, error) {
	w, err := plan(s)
	if err != nil {
		return w, err
	}
	if a := s.Find(w.Interface); a != nil && !s.has(w) {
		return w, fmt.Errorf("interface %s of pod %s/%s: %w (network %s)", w.Interface, s.Namespace, s.Pod, ErrConflict, a.Spec.Network)
	}
	return w, nil
}

// enterSlot calls do as hold does, with the namespace open that the runtime named, and notes its identity
// in s, the record to be.
func (e *Engine) enterSlot(ctx context.Context, s *Sandbox, do func(context.Context, *slot, delegates.Sandbox) error) error {
	return e.hold(ctx, s.ContainerID, func(ctx context.Context, slot *slot) error {
		h, err := netns.Open(s.Netns)
		if fault.Of(err).Passes() {
			return err
		}
		if err != nil {
			return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS", err.Error())
		}
		defer h.Close()
		s.Node, s.NetnsCookie, s.BootID = e.Node, h.Cookie(), e.bootID
		s.CreatedAt = e.createdAt(slot, s)
		if s.NetnsPlace, err = netns.Place(s.Netns); err != nil {
			return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS", err.Error())
		}
		s.Ending = true // until the ADD is answered
		d := s.forDelegates()
		d.Netns = h
		return do(ctx, slot, d)
	})
}

// A making is one attempt to make attachments for one sandbox.
type making struct {
	slot    *slot
	sandbox delegates.Sandbox
	before  *Sandbox // the record without the attachments
	wanted  []meta.Wanted

	e        *Engine
	parts    []*part
	intended bool // the intent is written, or may be
	undone   bool // nothing of the attempt is left, nor recorded
}

// A part is one of the attachments: as it is recorded, as the delegates are given it, and its addresses.
type part struct {
	Attachment
	work        *delegates.Attachment
	reservation *ipam.Reservation // nil if our IPAM gives it none
}

// recorded returns the record with the attachments as they are now.
func (m *making) recorded() *Sandbox {
	record := m.before.with()
	for _, p := range m.parts {
		record = record.with(p.Attachment)
	}
	return record
}

// maxConflicts is how often addresses are chosen again when they turn out to be taken.
const maxConflicts = 3

// makeAll makes attachments, or none, and records them: they are in the slot's record then.
func (e *Engine) makeAll(ctx context.Context, command string, attempt making) error {
	lists := make([]*cniconf.List, len(attempt.wanted))
	for i, w := range attempt.wanted {
		lists[i] = w.Config
	}
	release, err := e.executing(ctx, lists)
	if err != nil {
		return err
	}
	defer release()
	for try := 0; ; try++ {
		m := attempt
		m.e = e
		err := m.run(ctx, command)
		if err == nil || !errors.Is(err, txn.ErrConflict) || !m.undone || try == maxConflicts {
			return err
		}
		for _, p := range m.parts {
			if p.reservation == nil {
				continue
			}
			if err := e.IPAM.Refresh(ctx, p.reservation); err != nil {
				return err
			}
		}
	}
}

func (m *making) run(ctx context.Context, command string) (err error) {
	if err := failpoint.Hit("add-begin"); err != nil {
		return err
	}
	now := time.Now().UTC()
	for _, w := range m.wanted {
		a := Attachment{Spec: newSpec(w, m.sandbox.ContainerID), Status: Status{Phase: Pending, CreatedAt: now}}
		m.parts = append(m.parts, &part{Attachment: a, work: a.work()})
	}
	if err := m.e.noteMaking(ctx, m.slot, m.recorded()); err != nil {
		return err
	}
	defer m.e.noteMade(m.slot)
	defer func() {
		if v := recover(); v != nil { // which the server survives: it would be made, and nobody would know
			m.e.logger(m.before).Error("panic", "value", v, "stack", string(debug.Stack()))
			err = m.undo(ctx, fmt.Errorf("internal error: %v", v))
		}
	}()
	clock := m.e.stages(command)
	if err := m.prepare(ctx); err != nil {
		return m.undo(ctx, err)
	}
	clock("ipam")
	m.writeIntent(ctx)
	record, err := m.make(ctx)
	clock("make")
	if err == nil {
		err = m.finish(ctx, record)
		clock("record")
	}
	if err != nil {
		return m.undo(ctx, err)
	}
	return nil
}

// prepare makes sure that the plugins are there, and chooses addresses.
func (m *making) prepare(ctx context.Context) error {
	for _, p := range m.parts {
		if err := m.e.Delegates.Installed(p.Spec.Config, m.sandbox.Path); err != nil {
			return fmt.Errorf("%s: %w", p.Spec.Interface, err)
		}
	}
	for _, p := range m.parts {
		if err := m.reserve(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.Spec.Interface, err)
		}
	}
	return failpoint.Hit("add-addresses-reserved")
}

// reserve chooses the addresses of an attachment that is to have them from our IPAM.
func (m *making) reserve(ctx context.Context, p *part) (err error) {
	if !m.e.Delegates.Asks(p.Spec.Config) {
		return nil
	}
	if err := failpoint.Hit("add-address"); err != nil {
		return err
	}
	owner := ipam.Owner{ContainerID: m.sandbox.ContainerID, IfName: p.Spec.Interface, Pod: m.sandbox.Namespace + "/" + m.sandbox.Pod}
	p.reservation, err = m.e.IPAM.Reserve(ctx, ipam.Ask{Config: p.Spec.Config.Plugins[0].IPAM, Network: p.Spec.networkName(), ConfigName: p.Spec.Config.Name,
		Owner: owner, Requested: p.Spec.Requests.IPs, IPAMClaim: p.Spec.IPAMClaim}, m.e)
	if err == nil && p.reservation != nil {
		p.Status.Claims, p.work.Addresses = p.reservation.Claims, p.reservation.Result
	}
	return err
}

// writeIntent records what is about to be made, with the claims of its addresses. It goes on while
// native attachments are made; m.sandbox.Recorded waits for it.
func (m *making) writeIntent(ctx context.Context) {
	var claims txn.Txn
	for _, p := range m.parts {
		if p.reservation != nil {
			claims = txn.Join(claims, p.reservation.Txn())
		}
	}
	record, written := m.recorded(), make(chan error, 1)
	go func() { written <- m.e.record(context.WithoutCancel(ctx), record, claims) }()
	outcome := sync.OnceValue(func() error {
		err := <-written
		m.intended = err == nil || errors.Is(err, txn.ErrUnavailable)
		return err
	})
	reached := false // once: undo asks for the outcome again, also after a panic here
	m.sandbox.Recorded = func() error {
		if err := outcome(); err != nil || reached {
			return err
		}
		reached = true
		return failpoint.Hit("add-intent-written")
	}
}

// make has the delegates make the attachments, and returns the record of what came of it.
func (m *making) make(ctx context.Context) (*Sandbox, error) {
	work := make([]*delegates.Attachment, len(m.parts))
	for i, p := range m.parts {
		if err := p.Spec.prepareDevice(m.sandbox.ContainerID); err != nil {
			return nil, err
		}
		work[i] = p.work
	}
	if err := m.e.Delegates.Add(ctx, m.sandbox, work); err != nil {
		return nil, err
	}
	if err := failpoint.Hit("add-delegates-done"); err != nil {
		return nil, err
	}
	if err := m.sandbox.Recorded(); err != nil {
		return nil, err
	}
	for _, p := range m.parts {
		if err := m.accept(ctx, p); err != nil {
			return nil, err
		}
	}
	whole := m.recorded()
	whole.Ending = false
	record, err := applyDefaultRoutes(m.sandbox, whole)
	return record, errors.Join(err, failpoint.Hit("add-made"))
}

// accept takes over what the delegates have made, if it is what was asked for.
func (m *making) accept(ctx context.Context, p *part) (err error) {
	if err := m.honoured(p); err != nil {
		return err
	}
	if err := failpoint.Hit("add-accepted"); err != nil {
		return err
	}
	if err := m.e.IPAM.Publish(ctx, p.reservation); err != nil {
		return err
	}
	p.Status.Phase, p.Status.Result, p.Status.Bridge, p.Status.Port = Ready, p.work.Result, p.work.Bridge, p.work.Port
	p.Status.Device, err = p.Spec.loadDevice(m.sandbox.ContainerID)
	return err
}

func (m *making) finish(ctx context.Context, record *Sandbox) error {
	if err := failpoint.Hit("add-record"); err != nil {
		return err
	}
	if err := m.e.record(ctx, record, nil); err != nil {
		return fmt.Errorf("record sandbox %s: %w", record.ContainerID, err)
	}
	if err := failpoint.Hit("add-recorded"); err != nil {
		return err
	}
	m.e.put(m.slot, record)
	for _, p := range m.parts {
		m.e.logger(record).Info("attached", "network", p.Spec.Network, "interface", p.Spec.Interface)
	}
	return nil
}

// explain names the pod and what it asked for.
func (m *making) explain(err error) error {
	var what []string
	for _, p := range m.parts {
		text := p.Spec.Interface
		if p.Spec.Network != "" {
			text += " to " + p.Spec.Network
		}
		what = append(what, text)
	}
	pod := ""
	if m.sandbox.Pod != "" {
		pod = m.sandbox.Namespace + "/" + m.sandbox.Pod + " "
	}
	return fmt.Errorf("attach %s%s: %w", pod, strings.Join(what, ", "), err)
}

// stages returns what measures a command: it is called with the name of each stage when that is over.
func (e *Engine) stages(command string) func(stage string) {
	last := time.Now()
	return func(stage string) {
		now := time.Now()
		e.Meter.Observe(command, stage, now.Sub(last))
		last = now
	}
}
