package attack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A plugin is told in a GC which attachments are valid, and frees what the others have, their addresses first. What a
// record that can't be read accounts for is not to be missing there.
func TestPluginsAreNotToldOfAListThatMayLackARunningPod(t *testing.T) {
	n := newNode(t)
	told := n.log + ".told"
	plugin := `#!/bin/sh
[ $CNI_COMMAND = GC ] && cat >> ` + told + `
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}'
exit 0
`
	if err := os.WriteFile(filepath.Join(filepath.Dir(n.log), "lister"), []byte(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	n.nad("lister", `{"cniVersion": "1.1.0", "name": "lister", "type": "lister"}`)
	a, b := n.Run(t, "a", "lister"), n.Run(t, "b", "lister")
	gc := func() string {
		t.Helper()
		_ = os.Remove(told)
		if e := n.shim("patchbay", `{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "socket": "`+n.CNI+`", "cni.dev/valid-attachments":
 [{"containerID": "`+a.ContainerID+`", "ifname": "eth0"}, {"containerID": "`+b.ContainerID+`", "ifname": "eth0"}]}`, "CNI_COMMAND=GC"); e != nil {
			t.Error(e)
		}
		list, err := os.ReadFile(told)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(list)
	}
	if list := gc(); !strings.Contains(list, a.ContainerID) || !strings.Contains(list, b.ContainerID) {
		t.Fatalf("the plugin is told: %s", list)
	}
	n.Daemon.Stop()
	key := "/patchbay/v1/sandboxes/n1/" + a.ContainerID
	whole := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key))
	n.etcdctl("put", key, "{")
	n.Start(t)
	if list := gc(); list != "" && !strings.Contains(list, a.ContainerID) {
		t.Errorf("the plugin is told that a running pod is not valid: %s", list)
	}
	n.Daemon.Stop()
	n.etcdctl("put", key, whole)
	n.Start(t)
	if list := gc(); !strings.Contains(list, a.ContainerID) || !strings.Contains(list, b.ContainerID) {
		t.Errorf("the plugin is not told any more: %s", list)
	}
	for _, s := range []string{"a", "b"} {
		if err := n.Remove(s); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}

// A path may lead to what is opened only once somebody writes: it is no namespace.
func TestAPathThatNobodyOpensHoldsNoADD(t *testing.T) {
	n := newNode(t)
	s := n.pod("fifo", "data")
	s.Netns = filepath.Join(n.Dir, "fifo")
	testnode.Sh(t, "mkfifo", s.Netns)
	answered := make(chan error, 1)
	go func() {
		_, err := n.Runtime.Add(t.Context(), s)
		answered <- err
	}()
	testnode.Eventually(t, "the ADD is answered", func() bool { return len(answered) > 0 })
	if err := <-answered; err == nil {
		t.Error("it is a success")
	}
	if err := n.Runtime.Del(t.Context(), s); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
