package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// All pods of a node ended while the daemon was away, as at a drain of the node, and the switch is away as well when it
// starts: it serves, and ends them all once the switch is back.
func TestAFullQueueHoldsNoStart(t *testing.T) {
	n := newNode(t)
	pods := append(n.many(128, "a", "data"), n.many(128, "b", "control")...)
	if err := errors.Join(each(pods, n.add)...); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	if err := errors.Join(each(pods, n.Runtime.Del)...); err != nil {
		t.Fatalf("DELs without a daemon: %v", err)
	}
	n.OVS.StopServer()
	begin := time.Now()
	n.Start(t)
	t.Logf("ready after %s", time.Since(begin))
	if want := fmt.Sprintf("\npatchbay_del_queue %d\n", len(pods)); !strings.Contains(n.Metrics(t), want) {
		t.Errorf("not all %d wait", len(pods))
	}
	n.OVS.StartServer(t)
	begin = time.Now()
	n.quiet()
	n.AwaitQueue(t)
	t.Logf("%d DELs were done %s after the switch was back", len(pods), time.Since(begin))
}

// Files in the queue that nobody can ever do: each is set aside, doctor tells of them, and the calls beside them are done.
func TestAQueuedDELThatIsInvalidIsSetAside(t *testing.T) {
	n := newNode(t, "gc.interval=1s")
	pod := n.pod("a", "data")
	if err := n.add(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.Daemon.Stop()
	if err := n.Runtime.Del(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	queue := filepath.Join(n.Dir, "state", "del-queue")
	const conf = `"config":{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay"}`
	invalid := map[string]string{
		"no JSON":             `{"plugin":"patchbay","request":{`,
		"no container ID":     `{"plugin":"patchbay","request":{"command":"DEL","ifName":"eth0",` + conf + `}}`,
		"a path for an ID":    `{"plugin":"patchbay","request":{"command":"DEL","containerID":"../../etc","ifName":"eth0",` + conf + `}}`,
		"a netns that is odd": `{"plugin":"patchbay","request":{"command":"DEL","containerID":"x","ifName":"eth0","netns":7,` + conf + `}}`,
		"no configuration":    `{"plugin":"patchbay","request":{"command":"DEL","containerID":"x","ifName":"eth0"}}`,
		"no DEL":              `{"plugin":"patchbay","request":{"command":"CHECK","containerID":"x","ifName":"eth0","netns":"/run/netns/x",` + conf + `}}`,
		"an unknown plugin":   `{"plugin":"bridge","request":{"command":"DEL","containerID":"x","ifName":"eth0",` + conf + `}}`,
		"no IPAM":             `{"plugin":"patchbay-ipam","request":{"command":"DEL","containerID":"x","ifName":"eth0",` + conf + `}}`,
	}
	for name, text := range invalid {
		if err := os.WriteFile(filepath.Join(queue, "0"+name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.Start(t)
	n.AwaitQueue(t)
	for name := range invalid {
		if _, err := os.Stat(filepath.Join(queue, "0"+name+".json.bad")); err != nil {
			t.Error(err)
		}
	}
	if ok, why := n.healthy("del-queue"); ok || !strings.Contains(why, fmt.Sprintf("%d DELs in %s", len(invalid), queue)) {
		t.Errorf("doctor: %s", why)
	}
	for name := range invalid {
		remove(t, filepath.Join(queue, "0"+name+".json.bad"))
	}
	n.AssertEmpty(t)
}
