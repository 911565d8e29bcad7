package batch

import (
	"testing"
	"time"
)

// A commit that panics, in a goroutine that survives it, must not leave those waiting that come later.
func TestACommitThatPanicsLeavesNobodyWaiting(t *testing.T) {
	b := New(8, func(items []bool) []error {
		if items[0] {
			panic("at a row of a form that nobody knows")
		}
		return make([]error, len(items))
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not come through")
			}
		}()
		_ = b.Do(true)
	}()
	done := make(chan error, 1)
	go func() { done <- b.Do(false) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a later item waits for ever")
	}
}
