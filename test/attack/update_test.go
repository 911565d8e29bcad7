package attack

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// recorded are the records of one sandbox.
type recorded struct{ sandbox *attach.Sandbox }

func (r *recorded) Load(context.Context) ([]*attach.Sandbox, []string, error) {
	return []*attach.Sandbox{r.sandbox}, nil, nil
}
func (r *recorded) Save(_ context.Context, s *attach.Sandbox, _ txn.Txn) error {
	r.sandbox = s
	return nil
}
func (r *recorded) Remove(context.Context, *attach.Sandbox, txn.Txn) error { return nil }

// leased is an engine of one pod, whose interface net1 has what the commands of ip made and whose
// attachments are recorded as text.
func leased(t *testing.T, name, attachments string, commands ...string) (e *attach.Engine, in func(args string) string) {
	t.Helper()
	path := testnode.Netns(t, name)
	in = func(args string) string {
		t.Helper()
		return testnode.Sh(t, "ip", append([]string{"-n", name}, strings.Fields(args)...)...)
	}
	for _, c := range append([]string{"link add net1 type veth peer name peer1", "link set peer1 up", "link set net1 up"}, commands...) {
		in(c)
	}
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	boot, err := netns.BootID()
	if err != nil {
		t.Fatal(err)
	}
	s := &attach.Sandbox{ContainerID: "c", Namespace: "default", Pod: "a", Netns: path, NetnsCookie: h.Cookie(), BootID: boot}
	if err := json.Unmarshal([]byte(attachments), &s.Attachments); err != nil {
		t.Fatal(err)
	}
	e, err = attach.New(attach.Options{Node: "n1", Records: &recorded{s}, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = e.Load(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return e, in
}

func lease(t *testing.T, text string) *types100.Result {
	t.Helper()
	res := &types100.Result{}
	if err := json.Unmarshal([]byte(text), res); err != nil {
		t.Fatal(err)
	}
	return res
}

const conf = `"config": {"cniVersion": "1.1.0", "name": "n", "type": "native"}`

// The kernel takes the other addresses of a subnet away with the first: a virtual address of the workload's,
// for instance.
func TestAnUpdateLeavesTheWorkloadsAddressesInTheSubnet(t *testing.T) {
	e, in := leased(t, "vip", `[{"spec": {"interface": "net1", `+conf+`}, "status": {"phase": "Ready", "result": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "net1", "sandbox": "x"}], "ips": [{"address": "10.1.0.5/24", "interface": 0}]}}}]`,
		"address add 10.1.0.5/24 dev net1", "address add 10.1.0.99/24 dev net1")
	if err := e.Update(t.Context(), delegates.Owner{ContainerID: "c", Interface: "net1"}, lease(t, `{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.6/24"}]}`)); err != nil {
		t.Fatal(err)
	}
	if have := in("-4 -br address show net1"); !strings.Contains(have, "10.1.0.6/24") || !strings.Contains(have, "10.1.0.99/24") || strings.Contains(have, "10.1.0.5") {
		t.Errorf("the interface has %s", have)
	}
}

// A lease is renewed: the pod's default route stays where the pod wants it.
func TestAnUpdateLeavesTheDefaultRouteWhereThePodWantsIt(t *testing.T) {
	e, in := leased(t, "wanted", `[{"spec": {"interface": "net1", `+conf+`, "defaultRoute": ["10.1.0.1"]}, "status": {"phase": "Ready", "result": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "net1", "sandbox": "x"}], "ips": [{"address": "10.1.0.5/24", "interface": 0}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]}}}]`,
		"address add 10.1.0.5/24 dev net1", "route add default via 10.1.0.1")
	if err := e.Update(t.Context(), delegates.Owner{ContainerID: "c", Interface: "net1"}, lease(t, `{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.6/24"}]}`)); err != nil {
		t.Fatal(err)
	}
	if have := in("route show default"); !strings.Contains(have, "via 10.1.0.1 dev net1") {
		t.Errorf("the default route is %q", have)
	}
}

// The lease of an interface whose default route has given way to another's names its router again.
func TestAnUpdateDoesNotTakeTheDefaultRouteBack(t *testing.T) {
	e, in := leased(t, "displaced", `[{"spec": {"interface": "net1", `+conf+`}, "status": {"phase": "Ready", "displaced": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "result": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "net1", "sandbox": "x"}], "ips": [{"address": "10.1.0.5/24", "interface": 0}]}}},
		{"spec": {"interface": "net2", `+conf+`, "defaultRoute": ["10.2.0.1"]}, "status": {"phase": "Ready", "result": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "net2", "sandbox": "x"}], "ips": [{"address": "10.2.0.5/24", "interface": 0}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.2.0.1"}]}}}]`,
		"address add 10.1.0.5/24 dev net1", "link add net2 type veth peer name peer2", "link set peer2 up", "link set net2 up", "address add 10.2.0.5/24 dev net2", "route add default via 10.2.0.1")
	if err := e.Update(t.Context(), delegates.Owner{ContainerID: "c", Interface: "net1"},
		lease(t, `{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.6/24", "gateway": "10.1.0.1"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]}`)); err != nil {
		t.Error(err)
	}
	if have := in("route show default"); strings.TrimSpace(have) != "default via 10.2.0.1 dev net2" {
		t.Errorf("the default route is %q", have)
	}
	for _, a := range e.Sandboxes()[0].Attachments {
		if a.Spec.Interface == "net1" && (len(a.Status.Result.Routes) > 0 || len(a.Status.Displaced) != 1) {
			t.Errorf("recorded: %v, displaced %v", a.Status.Result, a.Status.Displaced)
		}
	}
}
