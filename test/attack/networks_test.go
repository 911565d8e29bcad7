package attack

import (
	"slices"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

func fails(config string) bool {
	judge := admission.Judge{Planner: meta.NewPlanner(nil, meta.Config{})}
	return slices.ContainsFunc(multus.CheckNetwork(meta.Network{Namespace: "default", Name: "n", Config: config}, judge.Network),
		func(f multus.Finding) bool { return f.Grade == multus.Fails })
}

// ovs-cni reads these keys into Go values whose zero means that nothing was asked.
func TestValuesThatMeanNothingToOvsCNIAreTaken(t *testing.T) {
	for _, c := range []string{
		`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "ofport_request": 0}`,
		`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "deviceID": null}`,
		`{"cniVersion": "0.4.0", "type": "ovs", "bridge": "br1", "configuration_path": null}`,
	} {
		if fails(c) {
			t.Errorf("refused: %s", c)
		}
	}
}

// No pod of these starts: migrate check must not call them good.
func TestMigrateCheckSeesAnIPAMThatIsNone(t *testing.T) {
	for _, c := range []string{
		`{"cniVersion": "0.4.0", "name": "n", "type": "bridge", "ipam": "static"}`,
		`{"cniVersion": "0.4.0", "name": "n", "type": "bridge", "ipam": []}`,
		`{"cniVersion": "0.4.0", "name": "n", "type": "ovs", "bridge": "br1", "ipam": {"type": 5}}`,
		`{"cniVersion": "0.4.0", "name": "n", "type": "ovs", "bridge": "br1", "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/33"}}`,
	} {
		if !fails(c) {
			t.Errorf("works, says migrate check: %s", c)
		}
	}
}
