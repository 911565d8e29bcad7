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

// JSON is read to a depth of 10000, and a record puts a configuration some levels deeper: a pod with one just below that ran,
// and its record could not be read by the next start.
func TestWhatCouldNotBeReadAgainIsNotRecorded(t *testing.T) {
	n := newNode(t)
	nested := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	refused := 0
	for depth := 9984; depth < 9998; depth++ {
		name := fmt.Sprint("deep", depth)
		n.nad(name, `{"cniVersion": "1.0.0", "name": "deep", "type": "good", "x": `+nested(depth)+`}`)
		for pod, networks := range map[string]string{"config": "data," + name, "args": `[{"name": "data", "cni-args": {"x": ` + nested(depth) + `}}]`} {
			if _, err := n.TryRun(fmt.Sprint(pod, depth), networks); err != nil {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was too deep")
	}
	n.Daemon.Stop()
	n.Start(t)
	if ok, why := n.healthy("records"); !ok {
		t.Errorf("%.300s", why)
	}
	n.AssertClean(t)
	sandboxes, err := n.Client.Sandboxes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sandboxes {
		if err := n.Remove(s.Pod); err != nil {
			t.Error(err)
		}
	}
	n.AssertEmpty(t)
}
