package attack

import (
	"fmt"
	"strings"
	"testing"
)

// A pool of many addresses with many exclusions: the search for one that is free must end, whoever wrote it.
func TestAnADDEndsThatSearchesAmongManyExclusions(t *testing.T) {
	n := newNode(t)
	var exclude []string
	for i := range 15000 {
		exclude = append(exclude, fmt.Sprintf(`"10.200.%d.%d"`, i/256, i%256))
	}
	exclude = append(exclude, `"10.0.0.0/8"`)
	n.nad("full", `{"cniVersion": "1.0.0", "name": "full", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/8", "subnetLen": 8, "exclude": [`+strings.Join(exclude, ", ")+`]}}`)
	if _, err := n.TryRun("a", "full"); err == nil || !strings.Contains(err.Error(), "resting after release") {
		t.Errorf("an ADD on a pool of which all is excluded: %v", err)
	}
}
