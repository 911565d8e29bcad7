package attach

import (
	"cmp"
	"fmt"
	"time"
)

// podKey is a pod's name. More than one sandbox may bear it: a pod that was made again has a new one before the
// end of the old is told, or done. The name leads to the youngest that has not ended.
type podKey struct{ namespace, name string }

func (s *Sandbox) key() podKey { return podKey{s.Namespace, s.Pod} }

// leads reports whether the pod's name leads to a sandbox rather than to another, which may be nil.
func (s *Sandbox) leads(o *Sandbox) bool {
	switch {
	case o == nil:
		return true
	case s.Ending != o.Ending:
		return o.Ending
	case !s.CreatedAt.Equal(o.CreatedAt):
		return s.CreatedAt.After(o.CreatedAt)
	}
	return s.ContainerID > o.ContainerID
}

// ofPod returns the record that lists and watchers know under a pod's name, nil if there is none. Call it with
// the mutex held.
func (e *Engine) ofPod(key podKey) (first *Sandbox) {
	for _, slot := range e.sandboxes {
		if s := slot.record; s != nil && s.key() == key && !s.over() && s.leads(first) {
			first = s
		}
	}
	return first
}

// shownFor is ofPod for a sandbox that may be for no pod: then it is shown itself.
func (e *Engine) shownFor(s *slot, key podKey) *Sandbox {
	if key.name == "" {
		return s.record
	}
	return e.ofPod(key)
}

// put makes a record, nil for none, the sandbox's, and enters into the log what that changes under the pod's
// name: interfaces are known by pod and name, whichever sandbox has them.
func (e *Engine) put(s *slot, record *Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := s.record
	about := cmp.Or(record, old)
	if about == nil {
		return
	}
	if old != nil && record != nil && old.key() != record.key() {
		e.change(s, old.key(), old, nil)
		old = nil
	}
	e.change(s, about.key(), about, record)
}

// change makes a record the sandbox's and enters what that changes under one name; about is the record of which
// the log tells.
func (e *Engine) change(s *slot, key podKey, about, record *Sandbox) {
	before := e.shownFor(s, key)
	s.record = record
	after := e.shownFor(s, key)
	var events []Event
	if before != nil && after != nil && before.ContainerID != after.ContainerID {
		events, before = diff(before, nil), nil
	}
	e.entries.append(Entry{Sandbox: about, Events: append(events, diff(before, after)...)})
}

// createdAt is when a sandbox was made: now, and after the others of its pod, whatever the clock says, or when the
// same one's earlier ADD was called.
func (e *Engine) createdAt(slot *slot, s *Sandbox) time.Time {
	if have := slot.record; have != nil && have.sameNamespace(s) {
		return have.CreatedAt
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now().UTC()
	if other := e.ofPod(s.key()); s.Pod != "" && other != nil && !now.After(other.CreatedAt) {
		now = other.CreatedAt.Add(1)
	}
	return now
}

// Follow returns the records of running pods, of each that of the sandbox which has its name, and a reader
// of everything that happens after them.
func (e *Engine) Follow() (now []*Sandbox, changes *Cursor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	pods := map[podKey]*Sandbox{}
	for _, slot := range e.sandboxes {
		s := slot.record
		switch {
		case s == nil || s.over():
		case s.Pod == "":
			now = append(now, s)
		case s.leads(pods[s.key()]):
			pods[s.key()] = s
		}
	}
	for _, s := range pods {
		now = append(now, s)
	}
	return now, e.entries.cursor()
}

// Pod returns the record of a running pod, or ErrNoPod.
func (e *Engine) Pod(namespace, name string) (*Sandbox, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.ofPod(podKey{namespace, name}); name != "" && s != nil && !s.Ending {
		return s, nil
	}
	return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNoPod)
}
