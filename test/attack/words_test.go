package attack

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/meta/kube"
)

// A network's configuration may have 1.5 MB, and the daemon 256 MiB.
func TestAHintCostsLittle(t *testing.T) {
	key := strings.Repeat("k", 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = explain.Hint(key, []string{"loadOnlyInlinedPlugins"})
	runtime.ReadMemStats(&after)
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 32 {
		t.Errorf("a key of 1 MiB costs %d MiB for each key that it may have meant", used)
	}
}

// The same from the outside: any tenant who may write a network can end the daemon, which may have 256 MiB.
func TestALongKeyDoesNotExhaustTheDaemon(t *testing.T) {
	n := newNode(t)
	n.nad("long", `{"cniVersion": "1.0.0", "name": "long", "type": "ovs", "bridge": "br-data", "`+strings.Repeat("k", 1400<<10)+`": 1}`)
	_, _ = n.TryRun("a", "long")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Daemon.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(b), "VmHWM:")
	peak, _, _ = strings.Cut(peak, "kB")
	if kb, err := strconv.Atoi(strings.TrimSpace(peak)); err != nil || kb > 256<<10 {
		t.Errorf("the daemon took %d MiB, %v", kb>>10, err)
	}
}

// Ranges of VLANs are as many as fit into 1.5 MB.
func TestManyTrunksCostLittle(t *testing.T) {
	list, err := cniconf.Parse([]byte(`{"cniVersion": "1.0.0", "name": "wide", "type": "ovs", "bridge": "br-data", "trunk": [`+
		strings.Repeat(`{"minID":0,"maxID":4095},`, 20000)+`{"id":1}]}`), "wide")
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = ovs.Validate(list)
	runtime.ReadMemStats(&after)
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 64 {
		t.Errorf("0.5 MB of trunks cost %d MiB", used)
	}
}

// What a pod requests is a number that its author chooses.
func TestASnapshotSurvivesALargeRequest(t *testing.T) {
	s := &kube.Snapshot{Requests: map[string]map[string]int{"default/a": {"example.org/memory": 20 << 20}}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = s.Devices(context.Background(), "default", "a")
	runtime.ReadMemStats(&after)
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 32 {
		t.Errorf("20Mi of a resource cost %d MiB", used)
	}
}
