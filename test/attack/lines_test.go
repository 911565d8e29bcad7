package attack

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// Lines 23, 46, 48 and 54 of the reliability plan: what the daemon writes is below its own directories, for root
// alone, and nothing of it is in /tmp.
func TestL54WhatIsWrittenIsForRootAlone(t *testing.T) {
	before, err := filepath.Glob("/tmp/*patchbay*")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.Run(t, "web", "data,control")
	if err := n.Runtime.Del(context.Background(), n.pod("unknown", "data")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(n.Dir+"/state", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		info, err := e.Info()
		if err == nil && info.Mode().Type() != os.ModeSymlink && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{n.CNI, n.API} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v", socket, info.Mode(), err)
		}
		out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "--unix-socket", socket, "http://patchbay/v1/version").CombinedOutput()
		if err == nil {
			t.Errorf("nobody reaches %s: %s", socket, out)
		}
	}
	if info, err := os.Stat(filepath.Join(testnode.Bin(), "patchbay")); err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 || info.Mode().Perm()&0o022 != 0 {
		t.Errorf("the plugin is %v, %v", info.Mode(), err)
	}
	if after, err := filepath.Glob("/tmp/*patchbay*"); err != nil || len(after) > len(before) {
		t.Errorf("in /tmp: %v, and before: %v", after, before)
	}
}

// Line 45: no abstract socket, which every pod of the node's network could reach.
func TestL45NoAbstractSocketIsOurs(t *testing.T) {
	n := newNode(t)
	n.Run(t, "web", "data")
	sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", n.Daemon.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.Daemon.Pid()))
	if err != nil || len(files) == 0 {
		t.Fatalf("the daemon's files: %v, %v", files, err)
	}
	ours := map[string]bool{}
	for _, f := range files {
		to, _ := os.Readlink(f) // it may be closed by now
		ours[to] = true
	}
	const inode = 6 // the column
	for line := range strings.Lines(string(sockets)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[len(fields)-1], "@") && ours["socket:["+fields[inode]+"]"] {
			t.Errorf("an abstract socket: %s", line)
		}
	}
}

// Line 25: ovs-vswitchd deletes transient ports at its start.
func TestL25PortsAreNotTransient(t *testing.T) {
	n := newNode(t)
	n.Run(t, "web", "data,control")
	for _, port := range n.OVS.Ports(t) {
		if config := n.OVS.Vsctl(t, "get", "port", port, "other_config"); strings.Contains(config, "transient") {
			t.Errorf("port %s: %s", port, config)
		}
	}
}

// Line 53: a secret in a plugin's configuration is in no log and no error.
func TestL53SecretsAreNotLogged(t *testing.T) {
	n := newNode(t)
	const secret = "hunter2-hunter2"
	n.nad("secret", `{"cniVersion": "1.0.0", "name": "secret", "type": "macvlan", "master": "nonexistent0", "password": "`+secret+`"}`)
	n.nad("secretive", `{"cniVersion": "1.1.0", "name": "secretive", "type": "patchbay-ovs", "network": "nowhere", "password": "`+secret+`"}`)
	for _, network := range []string{"secret", "secretive"} {
		if _, err := n.Runtime.Add(context.Background(), n.pod(network, network)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("the ADD of %s: %v", network, err)
		}
	}
	log, err := os.ReadFile(filepath.Join(n.Dir, "patchbayd.log"))
	if err != nil || bytes.Contains(log, []byte(secret)) {
		t.Errorf("the log has the secret, or can't be read: %v", err)
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
