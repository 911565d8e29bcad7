package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
)

const (
	// commitTime is how long after it was noted that it ends a claim may still be freed.
	commitTime = 10 * time.Second
	// minRewrite is how many lines may be out of date before the file is written anew.
	minRewrite = 1000
)

// A journal is a file of the addresses that rest, so that they do after a restart, too. It goes by the time since
// the boot, which nobody sets. An address is noted before it is freed; it is not synced to the disk, as no pod
// outlives what takes the page cache away.
//
// The first line is the boot; the others are pool, address, and until when it is worth knowing.
type journal struct {
	path string
	boot string

	mu    sync.Mutex
	file  *os.File // nil while it can't be written
	until map[key]time.Duration
	freed map[key]time.Time // or when this daemon has started, whichever is later
	lines int
}

type key struct {
	pool string
	addr netip.Addr
}

// openJournal reads the file, and leaves out of it what has rested. Without a path there is none. On a disk that is
// full the file stays as it is until something is noted and can be written.
func openJournal(path string, log *slog.Logger) (*journal, error) {
	j := &journal{path: path, until: map[key]time.Duration{}, freed: map[key]time.Time{}}
	if path == "" {
		return j, nil
	}
	var err error
	if j.boot, err = netns.BootID(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	j.read(text, sinceBoot())
	if err := j.rewrite(); err != nil {
		log.Error("addresses that are freed may be given out again too early after a restart", "error", err)
	}
	return j, nil
}

// read takes over what may still rest. Of an earlier boot that is everything. A line that can't be read is the last
// one of a write that was cut off.
func (j *journal) read(text []byte, now time.Duration) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Scan()
	sameBoot := lines.Text() == j.boot
	for lines.Scan() {
		var pool, addr, until string
		if n, _ := fmt.Sscan(lines.Text(), &pool, &addr, &until); n != 3 {
			continue
		}
		a, err := netip.ParseAddr(addr)
		seconds, err2 := strconv.ParseInt(until, 10, 64)
		if err != nil || err2 != nil {
			continue
		}
		k, end := key{pool, a}, time.Duration(seconds)*time.Second
		if sameBoot && end < now {
			delete(j.until, k)
			delete(j.freed, k)
			continue
		}
		if !sameBoot {
			end = now + maxRest
		}
		j.until[k], j.freed[k] = end, time.Now()
	}
}

// maxRest is how long an address is kept in the file if it is of an earlier boot, or its pool's cooldown is not known.
const maxRest = time.Hour

// rests are the addresses of a pool that were freed not long ago, and when.
func (j *journal) rests(pool string) map[netip.Addr]time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := map[netip.Addr]time.Time{}
	for k, freed := range j.freed {
		if k.pool == pool {
			all[k.addr] = freed
		}
	}
	return all
}

// note writes down that claims end, whose addresses then rest for the cooldown.
func (j *journal) note(claims []ipam.Claim, cooldown func(pool string) time.Duration) error {
	if len(claims) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var text strings.Builder
	now := sinceBoot()
	for _, c := range claims {
		k, end := key{c.Pool, c.Addr}, now+cooldown(c.Pool)+commitTime
		j.until[k], j.freed[k] = end, time.Now()
		j.lines++
		text.WriteString(line(k, end))
	}
	if j.file == nil && j.path != "" || j.lines > minRewrite && j.lines > 2*j.live(now) {
		return j.rewrite()
	}
	if j.path == "" {
		return nil
	}
	if _, err := j.file.WriteString(text.String()); err != nil {
		_ = j.file.Close() // half a line may be in it: it is written anew
		j.file = nil
		return err
	}
	return nil
}

// live drops what has rested, and returns how many addresses are left.
func (j *journal) live(now time.Duration) int {
	for k, end := range j.until {
		if end < now {
			delete(j.until, k)
			delete(j.freed, k)
		}
	}
	return len(j.until)
}

// rewrite puts a file in place that has no more than it needs.
func (j *journal) rewrite() error {
	j.lines = j.live(sinceBoot())
	if j.path == "" {
		return nil
	}
	var text strings.Builder
	text.WriteString(j.boot + "\n")
	for k, end := range j.until {
		text.WriteString(line(k, end))
	}
	next, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := next.WriteString(text.String()); err != nil {
		return errors.Join(err, next.Close())
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return errors.Join(err, next.Close())
	}
	if j.file != nil {
		_ = j.file.Close() // it has been replaced
	}
	j.file = next
	return nil
}

func line(k key, end time.Duration) string {
	return fmt.Sprintf("%s %s %d\n", k.pool, k.addr, int64(end/time.Second)+1)
}

// sinceBoot is the time since the boot, with that of sleep.
func sinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every Linux has that clock
	return time.Duration(t.Nano())
}
