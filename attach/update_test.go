package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// saved are records that are only kept.
type saved map[string]*Sandbox

func (r saved) Load(context.Context) ([]*Sandbox, []string, error) { return nil, nil, nil }
func (r saved) Save(_ context.Context, s *Sandbox, _ txn.Txn) error {
	r[s.ContainerID] = s
	return nil
}
func (r saved) Remove(_ context.Context, s *Sandbox, _ txn.Txn) error {
	delete(r, s.ContainerID)
	return nil
}

func result(t *testing.T, text string) *types100.Result {
	t.Helper()
	res := &types100.Result{}
	if err := json.Unmarshal([]byte(text), res); err != nil {
		t.Fatal(err)
	}
	return res
}

// A lease that is renewed with other values, or lost: the pod's interface, the record and those who are told
// follow, and what the workload has added itself stays.
func TestAnAttachmentsAddressesAreUpdated(t *testing.T) {
	testnode.Sh(t, "ip", "netns", "add", "updated")
	in := func(args ...string) string {
		return testnode.Sh(t, "ip", append([]string{"-n", "updated"}, args...)...)
	}
	in("link", "add", "net1", "type", "veth", "peer", "name", "peer")
	in("link", "set", "peer", "up")
	records := saved{}
	e, err := New(Options{Node: "n1", Records: records, Log: slog.New(slog.DiscardHandler), Meter: noMeter{}})
	if err != nil {
		t.Fatal(err)
	}
	list, err := cniconf.Parse([]byte(`{"cniVersion": "1.1.0", "name": "n", "type": "native"}`), "")
	if err != nil {
		t.Fatal(err)
	}
	s := Sandbox{ContainerID: "c", Namespace: "default", Pod: "p", Netns: "/run/netns/updated"}
	made := result(t, `{"cniVersion": "1.1.0", "interfaces": [{"name": "pb1"}, {"name": "net1", "sandbox": "x"}],
		"ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 1}], "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.0.1"}]}`)
	a := Attachment{Spec: Spec{Interface: "net1", Config: list}, Status: Status{Phase: Ready, Result: made}}
	err = e.enterSlot(context.Background(), &s, func(_ context.Context, slot *slot, d delegates.Sandbox) error {
		e.put(slot, s.with(a))
		return d.Netns.Do((&delegates.Attachment{Interface: "net1", Config: list, Result: made}).NIC().Apply)
	})
	if err != nil {
		t.Fatal(err)
	}
	in("address", "add", "192.0.2.7/32", "dev", "net1") // the workload's own
	_, changes := e.Follow()

	owner := delegates.Owner{ContainerID: "c", Interface: "net1"}
	for _, lease := range []string{
		`{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.6/24", "gateway": "10.1.0.1"}], "routes": [{"dst": "10.8.0.0/16", "gw": "10.1.0.1"}], "dns": {"nameservers": ["10.1.0.2"]}}`,
		`{"cniVersion": "1.1.0"}`} {
		want := result(t, lease)
		for range 2 { // it may be repeated
			if err := e.Update(context.Background(), owner, want); err != nil {
				t.Fatal(err)
			}
		}
		addrs, routes := in("-4", "-br", "address", "show", "net1"), in("route")
		for _, text := range []string{"10.1.0.5", "10.1.0.6"} {
			if has := strings.Contains(addrs, text); has != strings.Contains(lease, text) {
				t.Errorf("%s is there: %v; %s", text, has, addrs)
			}
		}
		for _, text := range []string{"10.9.0.0/16", "10.8.0.0/16"} {
			if has := strings.Contains(routes, text); has != strings.Contains(lease, text) {
				t.Errorf("%s is there: %v; %s", text, has, routes)
			}
		}
		if !strings.Contains(addrs, "192.0.2.7") {
			t.Errorf("the workload's own address is gone: %s", addrs)
		}
		for _, status := range []Status{records["c"].Attachments[0].Status, e.Sandboxes()[0].Attachments[0].Status} {
			res := status.Result
			if len(res.Interfaces) != 2 || fmt.Sprint(res.Routes) != fmt.Sprint(want.Routes) || len(res.IPs) != len(want.IPs) || len(res.IPs) > 0 && *res.IPs[0].Interface != 1 {
				t.Errorf("recorded: %s", res)
			}
		}
	}
	entries, err := changes.Next(context.Background())
	modified := 0
	for _, entry := range entries {
		modified += len(entry.Events)
	}
	if err != nil || modified != 2 {
		t.Errorf("%d changes are told, %v", modified, err)
	}
	if err := e.Update(context.Background(), delegates.Owner{ContainerID: "c", Interface: "net2"}, made); !errors.Is(err, ErrNoAttachment) {
		t.Error(err)
	}
}
