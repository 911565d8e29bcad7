package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/ipam"
)

// Of five addresses four are in use, and the fifth was freed by a daemon that was killed then.
func TestAFreedAddressRestsOverARestart(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		after func(t *testing.T, file string)
		rests bool
	}{
		"at once":                        {func(*testing.T, string) {}, true},
		"after a boot":                   {replaceLine(0, "another-boot"), true},
		"with a file that was cut off":   {func(t *testing.T, file string) { appendTo(t, file, "10.12.0.0-29 10.1") }, true},
		"long after":                     {replaceLine(1, "10.12.0.0-29 10.12.0.6 1"), false},
		"with a file that nobody wrote":  {func(t *testing.T, file string) { write(t, file, "\x00\xff\n rubbish") }, false},
		"after one more restart at once": {func(t *testing.T, file string) { openFile(t, file) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			kv := startEtcd(t)
			file := filepath.Join(t.TempDir(), "state", "resting")
			p := newPool(t, `{"network": "10.12.0.0/29", "subnetLen": 29}`)
			a := openAt(kv, "n1", file)
			var last *reserved
			for i := range 5 {
				var err error
				if last, err = a.Claim(ctx, p, owner(i), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.Release(ctx, last.Claims); err != nil {
				t.Fatal(err)
			}
			c.after(t, file)
			b := openAt(kv, "n1", file)
			r, err := b.Claim(ctx, p, owner(9), nil)
			if rests := errors.Is(err, ipam.ErrExhausted) && strings.Contains(err.Error(), "resting after release 1"); rests != c.rests || !c.rests && err != nil {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func TestTheFileOfWhatRestsDoesNotGrow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resting")
	j := openFile(t, file)
	claim := []ipam.Claim{{Pool: "x", Addr: netip.MustParseAddr("10.12.0.2")}}
	for range 5 * minRewrite {
		if err := j.note(claim, func(string) time.Duration { return time.Minute }); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if n := strings.Count(string(text), "\n"); err != nil || n > minRewrite+2 || len(openFile(t, file).rests("x")) != 1 {
		t.Errorf("%d lines, %v", n, err)
	}
}

func openFile(t *testing.T, file string) *journal {
	t.Helper()
	j, err := openJournal(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func replaceLine(i int, with string) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		lines[i] = with
		write(t, file, strings.Join(lines, "\n"))
	}
}

func appendTo(t *testing.T, file, more string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(text)+more)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A daemon frees an address before the first pod of its time asks for one of the pool: the address rests as any other,
// also if the daemon is started once more, before it can know how long that is.
func TestWhatIsFreedBeforeAPoolIsUsedRests(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		ctx, kv := context.Background(), startEtcd(t)
		file := filepath.Join(t.TempDir(), "resting")
		p := newPool(t, `{"network": "10.12.0.0/24", "subnetLen": 24, "cooldown": "30m"}`)
		a := openAt(kv, "n1", file)
		if _, err := a.Claim(ctx, p, owner(1), nil); err != nil {
			t.Fatal(err)
		}
		last, err := a.Claim(ctx, p, owner(2), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := openAt(kv, "n1", file)
		if err := b.Release(ctx, last.Claims); err != nil {
			t.Fatal(err)
		}
		if restarted {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fields := strings.Fields(string(text))
			if until, _ := strconv.Atoi(fields[len(fields)-1]); time.Duration(until)*time.Second-sinceBoot() < 30*time.Minute {
				t.Errorf("it is forgotten after %s", time.Duration(until)*time.Second-sinceBoot())
			}
			b = openAt(kv, "n1", file)
		}
		next, err := b.Claim(ctx, p, owner(3), nil)
		if err != nil || next.Addrs[0] == last.Addrs[0] {
			t.Errorf("restarted %v: %s is given out again at once: %v", restarted, last.Addrs[0], err)
		}
	}
}
