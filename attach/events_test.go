package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/meta"
)

func TestWatchersAreToldOfChangesByValue(t *testing.T) {
	result := func(ip net.IP) *types100.Result {
		return &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}}}
	}
	record := func(r *types100.Result, phase Phase) *Sandbox {
		return &Sandbox{ContainerID: "c", Namespace: "default", Pod: "a", Attachments: []Attachment{{Spec: Spec{Interface: "net1"}, Status: Status{Phase: phase, Result: r}}}}
	}
	nine := net.IPv4(10, 12, 0, 9)
	var told *Sandbox
	for _, c := range []struct {
		name string
		next *Sandbox
		want []string
	}{
		{"the first", record(result(nine), Ready), []string{"ADDED"}},
		{"an equal result", record(result(nine), Ready), nil},
		{"an equal result, the address in its short form", record(result(nine.To4()), Ready), nil},
		{"another address", record(result(net.IPv4(10, 12, 0, 10)), Ready), []string{"MODIFIED"}},
		{"another phase", record(result(net.IPv4(10, 12, 0, 10)), Failed), []string{"MODIFIED"}},
		{"no result", record(nil, Failed), []string{"MODIFIED"}},
		{"none", nil, []string{"DELETED"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := told
			told = c.next
			var types []string
			for _, e := range diff(before, c.next) {
				types = append(types, e.Type)
			}
			if !slices.Equal(types, c.want) {
				t.Errorf("told %v, want %v", types, c.want)
			}
		})
	}
}

func TestEveryReaderOfTheLogReadsItInOrder(t *testing.T) {
	e := engineOf(t)
	const writers, each = 8, logSize / 16
	var readers, calls sync.WaitGroup
	for range 4 {
		_, changes := e.Follow()
		readers.Go(func() {
			for last := uint64(0); last < writers*each; {
				entries, err := changes.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, entry := range entries {
					if entry.Seq != last+1 || entry.Notice == nil {
						t.Errorf("entry %d follows %d: %+v", entry.Seq, last, entry)
					}
					last = entry.Seq
				}
			}
		})
	}
	for range writers {
		calls.Go(func() {
			for range each {
				e.Failed(ReasonFailedAttach, meta.Pod{Namespace: "default", Name: "a"}, errors.New("no"))
			}
		})
	}
	calls.Wait()
	readers.Wait()
}

func TestAReaderThatFellBehindListsAgain(t *testing.T) {
	e := engineOf(t)
	_, slow := e.Follow()
	put := func(i int) {
		id := fmt.Sprintf("c%d", i)
		e.put(&slot{id: id}, &Sandbox{ContainerID: id, Namespace: "default", Pod: id})
	}
	for i := range logSize {
		put(i)
	}
	_, late := e.Follow()
	put(logSize)
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrBehind) {
		t.Errorf("what was overwritten is not missed: %v", err)
	}
	if entries, err := late.Next(t.Context()); err != nil || len(entries) != 1 || entries[0].Sandbox.ContainerID != fmt.Sprintf("c%d", logSize) {
		t.Errorf("%v, %v", entries, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := late.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a reader outlives its caller: %v", err)
	}
}

func engineOf(t *testing.T) *Engine {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}
