package attach

import (
	"context"
	"fmt"
	"sync"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// An Event is a change of one attachment.
type Event struct {
	Type       string // ADDED, MODIFIED or DELETED
	Sandbox    *Sandbox
	Attachment Attachment
}

// An Entry of the engine's log is a change of a record, or a Notice.
type Entry struct {
	Seq     uint64   // counts the entries, from 1
	Sandbox *Sandbox // the record that changed: as it is now, or as it was if it is gone; nil for a Notice
	Events  []Event  // what the change means for attachments; there may be none
	Notice  *Notice
}

// ErrBehind says that a reader of the log was so slow that entries are gone which it has not read. It
// calls Follow again, which begins with a list.
var ErrBehind = fault.New(fault.RetryLater, "the reader has fallen behind, and changes are gone: list again")

// logSize is how many entries are kept for readers that are behind. An ADD or DEL makes two, and a reader
// queues what takes long: hundreds of calls would have to end while it is not scheduled once. Each entry
// keeps a record in memory.
const logSize = 1024

// A log keeps the last entries in their order. Readers wait for it, and it waits for none of them.
type log struct {
	mu      sync.Mutex
	ring    [logSize]Entry
	last    uint64        // the number of the newest entry
	changed chan struct{} // closed with the next entry
}

func (l *log) append(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	l.ring[e.Seq%logSize] = e
	close(l.changed)
	l.changed = make(chan struct{})
}

// cursor returns a reader of the entries from now on.
func (l *log) cursor() *Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Cursor{log: l, read: l.last}
}

// A Cursor is one reader's place in the log.
type Cursor struct {
	log  *log
	read uint64 // the number of the entry that was read last
}

// Next waits for entries that were not read yet, and returns them in their order. It fails when the
// context ends, or with ErrBehind.
func (c *Cursor) Next(ctx context.Context) ([]Entry, error) {
	for {
		entries, changed, err := c.take()
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what was not read yet and, when there is nothing, what is closed once there is.
func (c *Cursor) take() ([]Entry, <-chan struct{}, error) {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if unread := l.last - c.read; unread > logSize {
		return nil, nil, fmt.Errorf("%w (%d entries were not read)", ErrBehind, unread)
	}
	var entries []Entry
	for ; c.read < l.last; c.read++ {
		entries = append(entries, l.ring[(c.read+1)%logSize])
	}
	return entries, l.changed, nil
}

// diff is the difference between two records of a sandbox.
func diff(before, after *Sandbox) []Event {
	var events []Event
	had, has := shown(before), shown(after)
	for _, a := range has {
		switch old := find(had, a.Spec.Interface); {
		case old == nil:
			events = append(events, Event{"ADDED", after, a})
		case old.Status.Phase != a.Status.Phase || old.Status.Result != a.Status.Result && !sameJSON(old.Status.Result, a.Status.Result):
			events = append(events, Event{"MODIFIED", after, a})
		}
	}
	for _, a := range had {
		if find(has, a.Spec.Interface) == nil {
			events = append(events, Event{"DELETED", before, a})
		}
	}
	return events
}

// shown are the attachments that watchers know of, as lists show them.
func shown(s *Sandbox) []Attachment {
	if s == nil || s.over() {
		return nil
	}
	return s.Attachments
}
