package attack

import (
	"context"
	"strings"
	"testing"
)

// What a pod gives a network's plugins (cni-args) is written into each of them: a list of thousands took gigabytes.
func TestAListOfThousandsOfPluginsIsRefused(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.nad("long", `{"cniVersion": "1.0.0", "name": "long", "plugins": [`+strings.TrimSuffix(strings.Repeat(`{"type":"good"},`, 16000), ",")+`]}`)
	s := n.pod("a", `[{"name": "long", "cni-args": {"x": "`+strings.Repeat("x", 100<<10)+`"}}]`)
	_, err := n.Runtime.Add(ctx, s)
	if err == nil || !strings.Contains(err.Error(), "plugins") {
		t.Errorf("%.300v", err)
	}
	if err := n.Runtime.Del(ctx, s); err != nil {
		t.Error(err)
	}
	if peak := peakMemory(t, n.Daemon); peak > 512<<20 {
		t.Errorf("the daemon took %d MiB", peak>>20)
	} else {
		t.Logf("the daemon took %d MiB", peak>>20)
	}
	n.AssertEmpty(t)
}
