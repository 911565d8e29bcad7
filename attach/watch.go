package attach

import (
	"context"
	"sync"
)

// An Event is a change of one attachment.
type Event struct {
	Type       string // ADDED, MODIFIED or DELETED
	Sandbox    *Sandbox
	Attachment Attachment
}

// hub passes events on. A receiver that lets its buffer fill is cut off: it lists again.
type hub struct {
	mu   sync.Mutex
	subs map[chan Event]struct{}
}

const watchBuffer = 1024

func newHub() *hub { return &hub{subs: map[chan Event]struct{}{}} }

func (h *hub) subscribe(ctx context.Context) <-chan Event {
	ch := make(chan Event, watchBuffer)
	h.mu.Lock()
	h.subs[ch] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(ch)
	})
	return ch
}

func (h *hub) drop(ch chan Event) {
	if _, ok := h.subs[ch]; ok {
		delete(h.subs, ch)
		close(ch)
	}
}

func (h *hub) publish(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		for ch := range h.subs {
			select {
			case ch <- e:
			default:
				h.drop(ch)
			}
		}
	}
}

// diff is the difference between two records of a sandbox. Pending attachments are nobody's business
// yet.
func diff(before, after *Sandbox) []Event {
	var events []Event
	if after != nil && after.over() {
		after = nil
	}
	if after != nil {
		for _, a := range after.Attachments {
			if a.Status.Phase == Pending {
				continue
			}
			typ := "ADDED"
			if before != nil {
				if old := before.Find(a.Spec.Interface); old != nil && old.Status.Phase != Pending {
					if old.Status.Phase == a.Status.Phase && old.Status.Result == a.Status.Result {
						continue
					}
					typ = "MODIFIED"
				}
			}
			events = append(events, Event{typ, after, a})
		}
	}
	if before != nil && !before.over() {
		for _, a := range before.Attachments {
			if a.Status.Phase != Pending && (after == nil || after.Find(a.Spec.Interface) == nil) {
				events = append(events, Event{"DELETED", before, a})
			}
		}
	}
	return events
}
