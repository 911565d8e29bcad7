package attach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// Add makes all attachments of a sandbox that starts, or none. Repeated with the same wishes it
// returns what is there; anything else of the sandbox is unmade first.
func (e *Engine) Add(ctx context.Context, s Sandbox, wanted []meta.Wanted) (*Sandbox, error) {
	slot, d, done, err := e.enterSlot(ctx, &s)
	if err != nil {
		return nil, err
	}
	defer done()
	if have := slot.record; have != nil {
		if sameWishes(have, &s, wanted) {
			return e.again(ctx, slot, wanted)
		}
		if err := e.remove(ctx, slot, have, nil); err != nil {
			return nil, fmt.Errorf("unmake what an earlier ADD of sandbox %s left: %w", s.ContainerID, err)
		}
		if left := slot.record; left != nil {
			return nil, givenUp(s.ContainerID, left.Interfaces()...)
		}
	}
	made, err := e.add(ctx, "ADD", slot, &s, d, wanted)
	if err == nil {
		e.routine(made, ReasonAttached, made.Attachments...)
	}
	return made, err
}

// again answers for what was made before. An earlier ADD may have been recorded without knowing it, and
// unmade in part.
func (e *Engine) again(ctx context.Context, slot *slot, wanted []meta.Wanted) (*Sandbox, error) {
	var names []string
	for _, w := range wanted {
		if slot.record.Find(w.Interface).tellsInterface() {
			names = append(names, w.Interface)
		}
	}
	if len(names) == 0 {
		return slot.record, nil
	}
	if err := e.repair(ctx, slot, slot.record, names...); err != nil {
		return nil, fmt.Errorf("what an earlier ADD of sandbox %s has made is not there any more; DEL must come first: %w", slot.record.ContainerID, err)
	}
	return slot.record, nil
}

// AddInterface makes one attachment of a sandbox, which need not be known: for a runtime that calls
// a delegate of ours directly.
func (e *Engine) AddInterface(ctx context.Context, s Sandbox, w meta.Wanted) (*Attachment, error) {
	slot, d, done, err := e.enterSlot(ctx, &s)
	if err != nil {
		return nil, err
	}
	defer done()
	if have := slot.record; have != nil {
		a, rest := have.Find(w.Interface), (*Sandbox)(nil)
		if same := have.NetnsCookie == s.NetnsCookie && have.BootID == s.BootID; same {
			if a != nil && a.Status.Phase == Ready && a.Spec.equal(newSpec(w, s.ContainerID)) {
				made, err := e.again(ctx, slot, []meta.Wanted{w})
				if err != nil {
					return nil, err
				}
				return made.Find(w.Interface), nil
			}
			rest = have.without(w.Interface)
		}
		if a != nil || rest == nil { // an earlier try, or an earlier sandbox of that ID
			if err := e.remove(ctx, slot, have, rest); err != nil {
				return nil, err
			}
		}
		if left := slot.record; left != nil && (rest == nil || left.Find(w.Interface) != nil) {
			return nil, givenUp(s.ContainerID, left.Interfaces()...)
		}
	}
	record := &s
	if slot.record != nil {
		record = slot.record
	}
	record, err = e.add(ctx, "ADD", slot, record, d, []meta.Wanted{w})
	if err != nil {
		e.Failed(ReasonFailedAttach, s.pod(), err)
		return nil, err
	}
	a := record.Find(w.Interface)
	e.routine(record, ReasonAttached, *a)
	return a, nil
}

// givenUp refuses an ADD where what an earlier one made could not be removed.
func givenUp(containerID string, interfaces ...string) error {
	return types.NewError(cniwire.ErrRefused, fmt.Sprintf("sandbox %s has interfaces that could not be removed and were given up: %s",
		containerID, strings.Join(interfaces, ", ")), "\"patchctl leftovers rm\" removes them")
}

// Attach makes one attachment of a running pod. plan is called with the names of the interfaces the
// pod has. created is false when the attachment was there already.
func (e *Engine) Attach(ctx context.Context, namespace, pod string, plan func(*Sandbox) (meta.Wanted, error)) (s *Sandbox, a *Attachment, created bool, err error) {
	s, a, created, err = e.attach(ctx, namespace, pod, plan)
	switch {
	case err != nil && s != nil:
		e.Failed(ReasonFailedAttach, s.pod(), err)
	case created:
		e.notify(s, ReasonAttached, a.describe())
	}
	return s, a, created, err
}

func (e *Engine) attach(ctx context.Context, namespace, pod string, plan func(*Sandbox) (meta.Wanted, error)) (s *Sandbox, a *Attachment, created bool, err error) {
	have, err := e.Pod(namespace, pod)
	if err != nil {
		return nil, nil, false, err
	}
	slot, done, err := e.hold(ctx, have.ContainerID)
	if err != nil {
		return nil, nil, false, err
	}
	defer done()
	if slot.record == nil || slot.record.Ending {
		return nil, nil, false, fmt.Errorf("pod %s/%s: %w", namespace, pod, ErrNoPod)
	}
	have = slot.record
	w, err := plan(have)
	if err != nil {
		return have, nil, false, err
	}
	if a := have.Find(w.Interface); a != nil {
		if a.Spec.equal(newSpec(w, have.ContainerID)) && a.Status.Phase == Ready {
			return have, a, false, nil
		}
		return have, a, false, fmt.Errorf("interface %s of pod %s/%s: %w (network %s)", w.Interface, namespace, pod, ErrConflict, a.Spec.Network)
	}
	d, err := e.enter(have)
	if err != nil {
		return have, nil, false, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	defer d.Netns.Close()
	s, err = e.add(ctx, "ATTACH", slot, have, d, []meta.Wanted{w})
	if err != nil {
		return have, nil, false, err
	}
	return s, s.Find(w.Interface), true, nil
}

// enterSlot holds a sandbox's slot and opens its namespace; done undoes both.
func (e *Engine) enterSlot(ctx context.Context, s *Sandbox) (slot *slot, d delegates.Sandbox, done func(), err error) {
	slot, release, err := e.hold(ctx, s.ContainerID)
	if err != nil {
		return nil, d, nil, err
	}
	if d, err = e.open(s); err != nil {
		release()
		return nil, d, nil, err
	}
	return slot, d, func() {
		_ = d.Netns.Close()
		release()
	}, nil
}

// open opens the namespace that the runtime named, and notes its identity in the record to be.
func (e *Engine) open(s *Sandbox) (delegates.Sandbox, error) {
	h, err := netns.Open(s.Netns)
	if err != nil {
		return delegates.Sandbox{}, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS", err.Error())
	}
	s.Node, s.NetnsCookie, s.BootID, s.CreatedAt = e.Node, h.Cookie(), e.bootID, time.Now().UTC()
	return delegates.Sandbox{ContainerID: s.ContainerID, NetnsPath: s.Netns, Netns: h, Namespace: s.Namespace, Pod: s.Pod, UID: s.UID, Args: s.CNIArgs, Path: s.CNIPath}, nil
}

// sameWishes reports whether everything that is wanted is there. What else the sandbox has, hot-attached
// and perhaps stuck in its DEL, is no reason to unmake a running pod.
func sameWishes(have, s *Sandbox, wanted []meta.Wanted) bool {
	if have.Ending || have.NetnsCookie != s.NetnsCookie || have.BootID != s.BootID {
		return false
	}
	for _, w := range wanted {
		a := have.Find(w.Interface)
		if a == nil || a.Status.Phase != Ready || !a.Spec.equal(newSpec(w, s.ContainerID)) {
			return false
		}
	}
	return true
}

// A making is one attempt to make attachments for one sandbox.
type making struct {
	e         *Engine
	slot      *slot
	sandbox   delegates.Sandbox
	before    *Sandbox // the record without them
	parts     []*part
	intent    chan error
	intentErr error
	intended  bool // the intent is written, or may be
	undone    bool // nothing of the attempt is left, nor recorded
}

// A part is one of the attachments: as it is recorded, as the delegates make it, and its addresses.
type part struct {
	Attachment
	work        *delegates.Attachment
	reservation *ipam.Reservation // nil if our IPAM gives it none
}

// recorded returns the record with the attachments as they are now.
func (m *making) recorded() *Sandbox {
	as := make([]Attachment, len(m.parts))
	for i, p := range m.parts {
		as[i] = p.Attachment
	}
	return m.before.with(as...)
}

// maxConflicts is how often addresses are chosen again when they turn out to be taken.
const maxConflicts = 3

func (e *Engine) add(ctx context.Context, command string, slot *slot, record *Sandbox, d delegates.Sandbox, wanted []meta.Wanted) (*Sandbox, error) {
	for try := 0; ; try++ {
		m := &making{e: e, slot: slot, sandbox: d, before: record}
		s, err := m.run(ctx, command, wanted)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, txn.ErrConflict) || !m.undone || try == maxConflicts {
			return nil, err
		}
		for _, p := range m.parts {
			if p.reservation == nil {
				continue
			}
			if err := e.IPAM.Refresh(ctx, p.reservation); err != nil {
				return nil, err
			}
		}
	}
}

func (m *making) run(ctx context.Context, command string, wanted []meta.Wanted) (*Sandbox, error) {
	if err := failpoint.Hit(failpoint.AddBegin); err != nil {
		return nil, err
	}
	for _, w := range wanted {
		defer m.e.begins(delegates.Owner{ContainerID: m.sandbox.ContainerID, Interface: w.Interface})()
	}
	now := time.Now().UTC()
	for _, w := range wanted {
		a := Attachment{Spec: newSpec(w, m.sandbox.ContainerID), Status: Status{Phase: Pending, CreatedAt: now}}
		m.parts = append(m.parts, &part{Attachment: a, work: a.work()})
	}
	clock := m.e.stages(command)
	for _, p := range m.parts {
		if err := m.e.Delegates.Installed(p.Spec.Config, m.sandbox.Path); err != nil {
			return nil, m.explain(fmt.Errorf("%s: %w", p.Spec.Interface, err))
		}
	}
	for _, p := range m.parts {
		if err := m.reserve(ctx, p); err != nil {
			m.cancel()
			return nil, m.explain(fmt.Errorf("%s: %w", p.Spec.Interface, err))
		}
	}
	if err := failpoint.Hit(failpoint.AddAddressesReady); err != nil {
		m.cancel()
		return nil, err
	}
	clock("ipam")
	m.writeIntent(ctx)
	m.sandbox.Recorded = m.awaitIntent
	var record *Sandbox
	err := m.prepareDevices()
	if err == nil {
		record, err = m.make(ctx)
	}
	clock("make")
	if err == nil {
		err = m.finish(ctx, record)
		clock("record")
	}
	if err != nil {
		return nil, m.undo(ctx, err)
	}
	return record, nil
}

// reserve chooses the addresses of an attachment that is to have them from our IPAM.
func (m *making) reserve(ctx context.Context, p *part) (err error) {
	if !m.e.Delegates.Asks(p.Spec.Config) {
		return nil
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
// native attachments are made.
func (m *making) writeIntent(ctx context.Context) {
	var claims txn.Txn
	for _, p := range m.parts {
		if p.reservation != nil {
			claims = txn.Join(claims, p.reservation.Txn())
		}
	}
	record := m.recorded()
	record.Ending = m.slot.record == nil || record.Ending // until the ADD is answered
	m.intent = make(chan error, 1)
	go func() { m.intent <- m.e.Records.Save(context.WithoutCancel(ctx), record, claims) }()
}

func (m *making) awaitIntent() error {
	if m.intent != nil {
		m.intentErr = <-m.intent
		m.intent = nil
		m.intended = m.intentErr == nil || errors.Is(m.intentErr, txn.ErrUnavailable)
		if m.intentErr == nil {
			m.intentErr = failpoint.Hit(failpoint.AddIntentWritten)
		}
	}
	return m.intentErr
}

// make has the delegates make the attachments, and returns the record of what came of it.
func (m *making) make(ctx context.Context) (*Sandbox, error) {
	work := make([]*delegates.Attachment, len(m.parts))
	for i, p := range m.parts {
		work[i] = p.work
	}
	if err := m.e.Delegates.Add(ctx, m.sandbox, work); err != nil {
		return nil, err
	}
	if err := m.awaitIntent(); err != nil {
		return nil, err
	}
	for _, p := range m.parts {
		if err := m.honoured(p); err != nil {
			return nil, err
		}
		if err := m.e.IPAM.Publish(ctx, p.reservation); err != nil {
			return nil, err
		}
	}
	if err := m.loadDevices(); err != nil {
		return nil, err
	}
	for _, p := range m.parts {
		p.Status.Phase, p.Status.Result, p.Status.Bridge, p.Status.Port = Ready, p.work.Result, p.work.Bridge, p.work.Port
	}
	whole := m.recorded()
	whole.Ending = false
	record, err := applyDefaultRoutes(m.sandbox, whole)
	return record, errors.Join(err, failpoint.Hit(failpoint.AddMade))
}

func (m *making) finish(ctx context.Context, record *Sandbox) error {
	if err := m.e.Records.Save(ctx, record, nil); err != nil {
		return fmt.Errorf("record sandbox %s: %w", record.ContainerID, err)
	}
	if err := failpoint.Hit(failpoint.AddRecorded); err != nil {
		return err
	}
	m.e.put(m.slot, record)
	for _, a := range m.parts {
		m.e.logger(record).Info("attached", "network", a.Spec.Network, "interface", a.Spec.Interface)
	}
	return nil
}

// explain names the pod and what it asked for.
func (m *making) explain(err error) error {
	what := ""
	for i, a := range m.parts {
		if i > 0 {
			what += ", "
		}
		what += a.Spec.Interface
		if a.Spec.Network != "" {
			what += " to " + a.Spec.Network
		}
	}
	if m.sandbox.Pod == "" {
		return fmt.Errorf("attach %s: %w", what, err)
	}
	return fmt.Errorf("attach %s/%s %s: %w", m.sandbox.Namespace, m.sandbox.Pod, what, err)
}

func (e *Engine) stages(command string) func(stage string) {
	last := time.Now()
	return func(stage string) {
		now := time.Now()
		e.Meter.Observe(command, stage, now.Sub(last))
		last = now
	}
}
