package store

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/patchbay-cni/patchbay/test/bound"
)

// F7: a sandbox's record, of this release, of another one, or damaged. What is read survives being written;
// what is not is told with a reason.
func FuzzF7Sandbox(f *testing.F) {
	for _, s := range []string{`{"containerID":"c","node":"n1"}`, `{"containerID":"c","attachments":[{"spec":{"interface":"net1","config":{"cniVersion":"1.1.0","name":"a","plugins":[{"type":"patchbay-ovs"}]}},"status":{"phase":"Ready","result":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]},"createdAt":"2026-11-01T00:00:00Z"}}]}`,
		`{"containerID":"c","attachments":[{"status":{"phase":"Later"}}],"newField":{}}`, `{"containerID":"c","attachments":null,"ending":true}`, "null", "", `{"containerID":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		bound.Check(t, func() {
			sb, err := decode("c", value)
			if err != nil {
				if err.Error() == "" {
					t.Errorf("%q is refused without a reason", value)
				}
				return
			}
			written, err := json.Marshal(sb)
			if err != nil {
				t.Fatalf("%q: %v", value, err)
			}
			again, err := decode("c", written)
			if err != nil {
				t.Fatalf("%q was written as %q: %v", value, written, err)
			}
			if rewritten, err := json.Marshal(again); err != nil || !reflect.DeepEqual(rewritten, written) {
				t.Errorf("%q was written as %q, and then as %q, %v", value, written, rewritten, err)
			}
		})
	})
}

// F7: the node's own record.
func FuzzF7Node(f *testing.F) {
	for _, s := range []string{`{"node":"n1","bridges":{"data":"br-data"},"recordsLost":true}`, `{"node":"n1","later":1}`, "[]", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		bound.Check(t, func() {
			var n, again Node
			if json.Unmarshal(value, &n) != nil {
				return
			}
			written, err := json.Marshal(n)
			if err == nil {
				err = json.Unmarshal(written, &again)
			}
			if err != nil || !reflect.DeepEqual(n.Node, again.Node) || n.RecordsLost != again.RecordsLost {
				t.Errorf("%q was written as %q, %v", value, written, err)
			}
		})
	})
}
