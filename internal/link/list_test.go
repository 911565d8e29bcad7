package link

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAListThatWasInterruptedIsAskedForAgain(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		interrupted int   // so many times
		after       error // what comes then
		calls       int
		err         error
	}{
		"never interrupted":      {0, nil, 1, nil},
		"interrupted twice":      {2, nil, 3, nil},
		"interrupted all along":  {listTries, nil, listTries, netlink.ErrDumpInterrupted},
		"another error is final": {1, broken, 2, broken},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, err := whole("things", func() ([]int, error) {
				if calls++; calls <= c.interrupted {
					return []int{1}, netlink.ErrDumpInterrupted
				}
				return []int{1, 2}, c.after
			})
			if calls != c.calls || !errors.Is(err, c.err) {
				t.Errorf("%d calls, %v", calls, err)
			}
			if want := []int{1, 2}; err == nil && !slices.Equal(got, want) || err != nil && got != nil {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
