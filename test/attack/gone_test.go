package attack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// Callers go away at any moment: the shim of an ADD, of a DEL, and a client of REST.
func TestCallersGoAwayAtAnyMoment(t *testing.T) {
	n := newNode(t)
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(400))*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 25 {
				s := n.pod(fmt.Sprintf("g%dx%d", i, k), []string{"data,control", "headed", "chain,data", "hostlocal,good"}[k%4])
				if _, err := n.Runtime.Add(soon(), s); err == nil {
					_, _ = n.Client.Attach(soon(), "default", s.Pod, client.Request{Network: []string{"data", "chain"}[k%2], Interface: "hot0"})
					_ = n.Client.Detach(soon(), "default", s.Pod, "hot0")
				}
				if n.Runtime.Del(soon(), s) == nil {
					continue
				}
				if err := n.Runtime.Del(ctx, s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.AwaitCalls(t, 0)
	n.noPanic()
	n.AssertEmpty(t)
}
