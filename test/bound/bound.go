// Package bound holds what reads foreign input to its bounds.
package bound

import (
	"runtime/metrics"
	"syscall"
	"testing"
	"time"
)

const (
	maxTime   = time.Second
	maxWait   = time.Minute
	maxMemory = 64 << 20 // allocated in all, kept or not
)

// Check fails the test if read takes more than a second of the processors' time, which a busy machine does not
// change, twice, as other tests of this process may have taken it once, waits for a minute, or allocates more than
// 64 MiB.
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

// measure returns how long read has worked: not longer than it took, nor than the process did.
func measure(t testing.TB, read func()) time.Duration {
	t.Helper()
	before, begin, used := allocated(), time.Now(), processors(t)
	read()
	if n := allocated() - before; n > maxMemory {
		t.Errorf("%d MiB were allocated", n>>20)
	}
	took := time.Since(begin)
	if took > maxWait {
		t.Errorf("it took %s", took)
	}
	return min(took, processors(t)-used)
}

// processors is the time that the process has used of them.
func processors(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
