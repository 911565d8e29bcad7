// Package bound holds what reads foreign input to its bounds.
package bound

import (
	"runtime/metrics"
	"testing"
	"time"
)

const (
	maxTime   = time.Second
	maxMemory = 64 << 20 // allocated in all, kept or not
)

// Check fails the test if read takes longer than a second, twice, as the machine may have been busy once, or
// allocates more than 64 MiB.
func Check(t testing.TB, read func()) {
	t.Helper()
	took, took2 := measure(t, read), time.Duration(0)
	if took > maxTime {
		took2 = measure(t, read)
	}
	if took2 > maxTime {
		t.Errorf("it took %s, and then %s", took, took2)
	}
}

func measure(t testing.TB, read func()) time.Duration {
	t.Helper()
	before, begin := allocated(), time.Now()
	read()
	if n := allocated() - before; n > maxMemory {
		t.Errorf("%d MiB were allocated", n>>20)
	}
	return time.Since(begin)
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
