package ledger

import (
	"encoding/json"
	"testing"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/test/bound"
)

// F7: the records of IPAM, of this release, of another one, or damaged. A claim that can't be read keeps its
// address, a subnet that can't be read has an owner, and a specification that is read says the same again.
func FuzzF7IPAM(f *testing.F) {
	for _, s := range []string{`{"node":"n1","containerID":"c","ifName":"net1","pod":"default/web"}`, `{"node":"n1","later":{"x":1}}`, `{"node":""}`, "null", "{", "",
		`{"networks":[{"prefix":"10.12.0.0/16","subnetBits":24}]}`, `{"network":"10.12.0.0/16","subnetLen":24,"cooldown":"60s"}`} {
		f.Add([]byte(s), "10.12.0.9")
	}
	f.Fuzz(func(t *testing.T, value []byte, addr string) {
		bound.Check(t, func() {
			r := record{pool: "p", id: addr, value: value}
			if c, err := r.claim(); err == nil && (!c.Addr.IsValid() || !c.Owner.Known()) {
				t.Errorf("%q: %+v", value, c)
			} else if err == nil {
				var again ipam.Owner
				if err := json.Unmarshal([]byte(c.Owner.Value()), &again); err != nil || !again.SameInterface(c.Owner) {
					t.Errorf("%q was written as %s, %v", value, c.Owner.Value(), err)
				}
			}
			if node, err := r.node(); node == "" || err != nil && node != UnknownNode {
				t.Errorf("the subnet of %q is %q's, %v", value, node, err)
			}
			spec, err := ipam.ParseSpec(value)
			if err != nil {
				return
			}
			again, err := ipam.ParseSpec([]byte(spec.Value()))
			if err != nil || again.Value() != spec.Value() {
				t.Errorf("%q was written as %s, and then as %s, %v", value, spec.Value(), again.Value(), err)
			}
		})
	})
}
