package bridge

import (
	"runtime"
	"sync"
	"testing"
)

// The race detector once found the question to be two bytes longer than what it was made of: what lay behind that in
// memory was read, and sent, while its owner wrote it.
func TestTheKernelIsAskedForADatapathWithoutOthersMemory(t *testing.T) {
	type small = [16]byte // as large as the smallest block of memory under the race detector
	others := make([]*small, 1<<16)
	for i := range others {
		others[i] = new(small)
	}
	for i := 0; i < len(others); i += 2 {
		others[i] = nil // gaps for what the question is made of
	}
	runtime.GC()
	var writing sync.WaitGroup
	defer writing.Wait()
	done := make(chan struct{})
	defer close(done)
	writing.Go(func() {
		for {
			for i := 1; i < len(others); i += 2 {
				others[i][0]++
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 2000 {
		for family, want := range map[string]bool{"nlctrl": true, "patchbay": false} {
			if have, err := kernelHas(family); err != nil || have != want {
				t.Fatalf("family %s: %v, %v", family, have, err)
			}
		}
	}
}
