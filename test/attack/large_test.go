package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// A record of etcd's ends at 1.5 MiB.
func TestARecordThatIsTooLarge(t *testing.T) {
	n := newNode(t)
	n.nad("big", `{"cniVersion": "1.0.0", "name": "big", "type": "good", "comment": "`+strings.Repeat("x", 600<<10)+`"}`)
	ctx := context.Background()
	s := n.pod("a", "big,big,big")
	if _, err := n.Runtime.Add(ctx, s); err == nil {
		t.Error("1.8 MB are recorded")
	} else {
		t.Logf("%.300v", err)
	}
	b := n.pod("b", "data,big,big")
	if _, err := n.Runtime.Add(ctx, b); err != nil {
		t.Errorf("%.300v", err)
	}
	if _, err := n.Client.Attach(ctx, "default", "b", client.Request{Network: "big"}); err == nil {
		t.Error("1.8 MB are recorded")
	} else {
		t.Logf("%.300v", err)
	}
	if _, err := n.Client.Attach(ctx, "default", "b", client.Request{Network: "data"}); err != nil {
		t.Errorf("%.300v", err)
	}
	n.AssertClean(t)
	n.Check(t, b)
	if err := n.Runtime.Del(ctx, b); err != nil {
		t.Error(err)
	}
	n.AssertEmpty(t)
}
