package attack

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Whatever is away, who asks is told to come again, and does not wait for ever.
func TestWhatIsAwayIsSaidToBeAwayInTime(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	n.Run(t, "a", "data")
	httpc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.API)
	}}}
	ask := func(method, path, body string) {
		t.Helper()
		r, err := http.NewRequest(method, "http://patchbay"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := httpc.Do(r)
		if err != nil {
			t.Errorf("%s %s: %v", method, path, err)
			return
		}
		defer answer.Body.Close()
		b, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %s %.300s", method, path, answer.Status, b)
		}
	}
	all := func(requests ...[3]string) {
		t.Helper()
		var asking sync.WaitGroup
		for _, r := range requests {
			asking.Go(func() { ask(r[0], r[1], r[2]) })
		}
		asking.Wait()
	}
	const pod = "/v1/namespaces/default/pods/a/attachments"
	n.etcd.Stop()
	all([3]string{"GET", "/v1/nodes"}, [3]string{"GET", "/v1/pools"}, [3]string{"GET", "/v1/leaks"}, [3]string{"GET", "/v1/leftovers"},
		[3]string{"DELETE", "/v1/pools/10.12.0.0-16"}, [3]string{"DELETE", "/v1/pools/10.12.0.0-16/claims/10.12.0.2"},
		[3]string{"POST", pod, `{"network": "control"}`})
	n.etcd.Start(t)
	n.OVS.StopServer()
	testnode.Eventually(t, "the daemon has noticed that Open vSwitch is gone", func() bool { ok, _ := n.healthy("openvswitch"); return !ok })
	all([3]string{"GET", "/v1/leaks"}, [3]string{"GET", "/v1/leftovers"}, [3]string{"POST", pod, `{"network": "vlan", "dryRun": true}`}, [3]string{"POST", pod, `{"network": "vlan"}`})
	n.OVS.StartServer(t)
	testnode.Eventually(t, "Open vSwitch is back", func() bool { ok, _ := n.healthy("openvswitch"); return ok })
}
