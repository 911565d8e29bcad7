// Package batch joins calls that arrive together into one commit (group commit). A call during which nothing is
// being committed goes at once and alone. Calls that arrive meanwhile go together next.
package batch

import (
	"errors"
	"slices"
	"sync"
)

// A Batcher commits items in groups of limited size, one group at a time, in order of arrival.
type Batcher[T any] struct {
	commit func([]T) []error
	max    int

	mu      sync.Mutex
	pending []*entry[T]
	busy    bool
}

type entry[T any] struct {
	item T
	err  error
	done chan struct{}
}

// New returns a Batcher. commit is called with 1 to max items and returns an error, or nil, for each.
func New[T any](max int, commit func([]T) []error) *Batcher[T] {
	return &Batcher[T]{commit: commit, max: max}
}

// Do hands in one item and returns once its group was committed.
func (b *Batcher[T]) Do(item T) error {
	e := &entry[T]{item: item, done: make(chan struct{})}
	b.mu.Lock()
	b.pending = append(b.pending, e)
	lead := !b.busy
	b.busy = true
	b.mu.Unlock()
	if lead {
		b.next()
	}
	<-e.done
	return e.err
}

// next commits one group and leaves what has arrived meanwhile to a goroutine, so that no caller works for
// others after its own item is done. The goroutine ends with the last item, for which a caller waits.
func (b *Batcher[T]) next() {
	b.mu.Lock()
	n := min(len(b.pending), b.max)
	group := b.pending[:n:n]
	b.pending = b.pending[n:]
	b.mu.Unlock()

	items := make([]T, n)
	for i, e := range group {
		items[i] = e.item
	}
	errs := slices.Repeat([]error{errPanic}, n)
	defer func() { // also when commit panics, which its caller may survive
		b.mu.Lock()
		more := len(b.pending) > 0
		b.busy = more
		b.mu.Unlock()
		if more {
			go b.next()
		}
		for i, e := range group {
			e.err = errs[i]
			close(e.done)
		}
	}()
	errs = b.commit(items)
}

// errPanic is what the others of a group are told whose commit has panicked.
var errPanic = errors.New("internal error: the commit that this was a part of has panicked")
