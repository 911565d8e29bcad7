package attack

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// After an API server's etcd was restored from a backup, versions are given out a second time.
func TestANetworkIsReadAnewWhateverItsVersion(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("net", good)
	n := clusterNode(t, a)
	if _, err := n.runPod(a, "a", "net"); err != nil {
		t.Fatal(err)
	}
	version := a.Version(testnode.NetworksAt, "net")
	a.Put(testnode.NetworksAt, testnode.Object{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": map[string]any{"namespace": "default", "name": "net", "uid": "nad-net"},
		"spec": map[string]any{"config": `{"cniVersion": "1.0.0", "name": "net", "type": "patchbay-ovs", "network": "data"}`}}, version)
	testnode.Eventually(t, "the daemon has seen the change", func() bool {
		l, err := n.Client.Networks(context.Background())
		return err == nil && len(l) == 1 && l[0].Types[0] == "patchbay-ovs"
	})
	if _, err := n.runPod(a, "b", "net"); err != nil {
		t.Fatal(err)
	}
	l, err := n.Client.List(context.Background(), client.Filter{Pod: "b"})
	if err != nil || len(l) != 1 || l[0].Bridge != "br-data" {
		t.Errorf("the pod has the network as it was before: %+v, %v; plugins were called: %s", l, err, n.calls())
	}
}

// Networks of many keys, one after another: what is kept of them is bounded, however many there are.
func TestTheNetworksThatAreKeptParsedAreBounded(t *testing.T) {
	const count = 48
	all := networks{}
	for i := range count {
		var b strings.Builder
		fmt.Fprintf(&b, `{"cniVersion": "1.0.0", "name": "n%d", "type": "good"`, i)
		for k := 0; b.Len() < 255<<10; k++ {
			fmt.Fprintf(&b, `,"k%d":%d`, k, i)
		}
		b.WriteString("}")
		all[fmt.Sprintf("n%d", i)] = b.String()
	}
	p := meta.NewPlanner(all, meta.Config{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for name := range all {
		if _, err := p.One(context.Background(), "default", meta.Selection{Name: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; used > 48 {
		t.Errorf("%d networks of 255 KiB take %d MiB besides their text", count, used)
	}
	runtime.KeepAlive(p)
}
