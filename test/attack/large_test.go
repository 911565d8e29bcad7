package attack

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// A record of etcd's ends at 1.5 MiB: what would make it larger is refused, and undone.
func TestARecordThatIsTooLarge(t *testing.T) {
	n := newNode(t)
	n.nad("big", `{"cniVersion": "1.0.0", "name": "big", "type": "good", "comment": "`+strings.Repeat("x", 250<<10)+`"}`)
	ctx := context.Background()
	b := n.pod("b", "data,big,big")
	if _, err := n.Runtime.Add(ctx, b); err != nil {
		t.Errorf("%.300v", err)
	}
	var refused error
	for range 5 {
		if _, refused = n.Client.Attach(ctx, "default", "b", client.Request{Network: "big"}); refused != nil {
			break
		}
	}
	if refused == nil {
		t.Error("1.8 MB are recorded")
	} else {
		t.Logf("%.300v", refused)
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
