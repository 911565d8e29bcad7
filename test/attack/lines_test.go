package attack

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Line 23: a reboot empties /tmp, and others may write there.
func TestLine23NothingIsInTmp(t *testing.T) {
	before, err := filepath.Glob("/tmp/*patchbay*")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.Run(t, "web", "data,bridge")
	if err := n.Runtime.Del(context.Background(), n.pod("unknown", "data")); err != nil {
		t.Fatal(err)
	}
	if after, err := filepath.Glob("/tmp/*patchbay*"); err != nil || len(after) > len(before) {
		t.Errorf("in /tmp: %v, and before: %v", after, before)
	}
}

// Line 25: ovs-vswitchd deletes transient ports at its start.
func TestLine25PortsAreNotTransient(t *testing.T) {
	n := newNode(t)
	n.Run(t, "web", "data,control")
	for _, port := range n.OVS.Ports(t) {
		if config := n.OVS.Vsctl(t, "get", "port", port, "other_config"); strings.Contains(config, "transient") {
			t.Errorf("port %s: %s", port, config)
		}
	}
}

// T5 of the threat model: nothing changes by a GET, whatever it carries.
func TestT5AGETChangesNothing(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "web", "data")
	for _, header := range []string{"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "Upgrade: websocket", "Connection: Upgrade"} {
		for _, query := range []string{"", "?_method=DELETE", "?method=DELETE&force=true"} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				args := []string{"-sS", "-o", "/dev/null", "--max-time", "5", "--unix-socket", n.API, "-H", header}
				if method == http.MethodHead {
					args = append(args, "--head")
				}
				_ = exec.Command("curl", append(args, "http://patchbay/v1/namespaces/default/pods/web/attachments/net1"+query)...).Run() // it may be refused
			}
		}
	}
	n.Check(t, s)
}
