package attach

import (
	"errors"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/ipam"
)

// R13: times in a record are of a clock that somebody sets. However far it jumps, an attachment keeps its addresses as long
// as it can't be unmade; set back, it is tried again, and given up, no later than if it had not been.
func TestR13AClockThatIsSetFreesNothing(t *testing.T) {
	list, err := cniconf.Parse([]byte(`{"cniVersion": "1.0.0", "name": "x", "type": "executed"}`), "x")
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{Options: Options{GiveUp: GiveUp{Attempts: 3, After: time.Minute}, Delegates: delegates.NewChain(nil)}}
	now := time.Now().UTC()
	for name, jump := range map[string]time.Duration{"not at all": 0, "a second back": -time.Second, "ten years back": -87600 * time.Hour, "ten years on": 87600 * time.Hour} {
		a := Attachment{Spec: Spec{Interface: "net1", Config: list}, Status: Status{Phase: Ready, Claims: []ipam.Claim{{Pool: "p"}}}}
		a = e.asFailed(a, errors.New("no"), now) // as it is recorded, and read again by the next daemon
		then := now.Add(jump)
		for try := 0; a.Status.Phase != Abandoned; try++ {
			if try > 4 {
				t.Fatalf("%s: it is not given up: %+v", name, a.Status.Deletion)
			}
			a = e.asFailed(a, errors.New("no"), then)
			then = then.Add(time.Minute)
		}
		if len(a.Status.Claims) != 1 {
			t.Errorf("%s: its address is free", name)
		}
		last := a.Status.Deletion.Last
		for at, want := range map[time.Time]bool{last.Add(time.Minute): false, last.Add(abandonedRetry): true, last.Add(-time.Minute): true} {
			if e.due(a, at) != want {
				t.Errorf("%s: due %s after it was tried last: %v", name, at.Sub(last), !want)
			}
		}
	}
}
