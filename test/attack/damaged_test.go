package attack

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Records that are JSON and say nothing, or of another sandbox, account for the pod as those do that are
// no JSON.
func TestARecordThatSaysNothingCostsThePodNothing(t *testing.T) {
	for _, value := range []string{"null", "{}", `{"node":"n1","containerID":"another","namespace":"default","pod":"a"}`} {
		t.Run(value, func(t *testing.T) {
			keepsPorts(t, func(n *node, id string) { n.etcdctl("put", "/patchbay/v1/sandboxes/n1/"+id, value) })
		})
	}
}

// What a newer release writes, or what is damaged in a part, may be JSON all the same. It ends no daemon, and
// is no reason to unmake a running pod's interface.
func TestARecordWithOddPartsCostsThePodNothing(t *testing.T) {
	n := newNode(t)
	s := n.Run(t, "a", "data,good")
	ports := fmt.Sprint(n.OVS.Ports(t))
	n.Daemon.Stop()
	key := "/patchbay/v1/sandboxes/n1/" + s.ContainerID
	whole := strings.TrimSpace(n.etcdctl("get", "--print-value-only", key))
	for _, status := range []string{
		`{"phase":"Ready","result":{"cniVersion":"1.0.0","interfaces":[null]}}`,
		`{"phase":"Ready","result":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[null]}}`,
		`{"phase":"Ready","result":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"ips":[{}]}}`,
		`{"phase":"Ready","result":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x"}],"routes":[null]}}`,
		`{"phase":"Ready","claims":[{}]}`,
		`{"phase":"Moving"}`,
		`null`,
	} {
		var record map[string]any
		if err := json.Unmarshal([]byte(whole), &record); err != nil {
			t.Fatal(err)
		}
		for _, a := range record["attachments"].([]any) {
			a.(map[string]any)["status"] = json.RawMessage(status)
		}
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		n.etcdctl("put", key, string(b))
		n.Launch(t)
		if !n.Alive(t) {
			t.Errorf("%s: it does not start any more", status)
			continue
		}
		_, _ = n.patchctl("get", "attachments", "-A")
		_, _ = n.patchctl("describe", "pod/a")
		if have := fmt.Sprint(n.OVS.Ports(t)); have != ports {
			t.Fatalf("%s: ports %s, there were %s: a running pod has lost its interface", status, have, ports)
		}
		n.Daemon.Stop()
	}
	n.noPanic()
	n.etcdctl("put", key, whole)
	n.Start(t)
}
