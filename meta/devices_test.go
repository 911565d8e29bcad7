package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// nics is a catalog of networks that all need a device of example.org/nic, and of a pod's devices.
type nics struct {
	nads
	ids []string
	err error
	// unhanded says that no device plugin has the resource.
	unhanded bool
}

func (n nics) Network(ctx context.Context, ns, name string) (*Network, error) {
	nw, err := n.nads.Network(ctx, ns, name)
	if err == nil {
		nw.Resource = "example.org/nic"
	}
	return nw, err
}

func (n nics) Devices(context.Context, string, string) (map[string][]string, error) {
	if len(n.ids) == 0 {
		return map[string][]string{}, n.err
	}
	return map[string][]string{"example.org/nic": n.ids}, n.err
}

func (n nics) Hands(_ context.Context, resource string) (bool, error) {
	return resource == "example.org/nic" && !n.unhanded, n.err
}

func TestAResourceThatNobodyHandsOutIsTheSchedulers(t *testing.T) {
	config := nads{"default/n": `{"cniVersion": "1.0.0", "name": "n", "type": "a"}`}
	pod := Pod{Namespace: "default", Name: "p", Annotations: map[string]string{NetworksAnnotation: "n,n"}}
	src := nics{nads: config, unhanded: true}
	p := NewPlanner(src, Config{Devices: src})
	ws, err := p.Plan(context.Background(), pod, "eth0", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if w.Resource != "" || w.DeviceID != "" || w.Config.Plugins[0].Raw["deviceID"] != nil {
			t.Errorf("a device where there is none: %+v", w)
		}
	}
	if _, err := p.One(context.Background(), "default", Selection{Name: "n"}, nil); err != nil {
		t.Errorf("hot attach: %v", err)
	}
	// A device plugin's resource that the pod did not ask for stays refused.
	src = nics{nads: config}
	_, err = NewPlanner(src, Config{Devices: src}).Plan(context.Background(), pod, "eth0", nil)
	var e *types.Error
	if !errors.As(err, &e) || !strings.Contains(e.Details, `request one "example.org/nic"`) {
		t.Errorf("without a request: %v", err)
	}
}

func TestTheNthNetworkOfAResourceHasTheNthDevice(t *testing.T) {
	src := nics{nads: nads{"default/n": `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a", "capabilities": {"deviceID": true}}, {"type": "b"}]}`}, ids: []string{"d0", "d1"}}
	planned := func(src nics, networks string, cfg Config) ([]Wanted, error) {
		cfg.GlobalNamespaces = []string{"default"}
		return NewPlanner(src, cfg).Plan(context.Background(), Pod{Namespace: "default", Name: "p", Annotations: map[string]string{NetworksAnnotation: networks}}, "eth0", nil)
	}
	ws, err := planned(src, "n,n", Config{Devices: src})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		want := fmt.Sprintf(`"d%d"`, i)
		if got := w.Requests.Others["deviceID"]; got != fmt.Sprintf("d%d", i) {
			t.Errorf("capability of network %d: %v", i, got)
		}
		for _, p := range w.Config.Plugins {
			if string(p.Raw["deviceID"]) != want || string(p.Raw["pciBusID"]) != want {
				t.Errorf("plugin %s of network %d: %v", p.Type, i, p.Raw)
			}
		}
	}
	for name, c := range map[string]struct {
		networks string
		cfg      Config
		want     string
	}{
		"one too many":      {"n,n,n", Config{Devices: src}, "the pod has none left"},
		"another pod's":     {`[{"name": "n", "deviceID": "d7"}]`, Config{Devices: src}, `d7 is not one of the pod's`},
		"one of nobody":     {`[{"name": "n", "deviceID": "d7"}]`, Config{Devices: nics{unhanded: true}}, `d7 is not one of the pod's`},
		"the same twice":    {`[{"name": "n", "deviceID": "d1"}, {"name": "n", "deviceID": "d1"}]`, Config{Devices: src}, `d1 is not one of the pod's`},
		"no kubelet":        {"n", Config{}, "no kubelet to ask"},
		"kubelet is away":   {"n", Config{Devices: nics{err: ErrUnavailable}}, ErrUnavailable.Error()},
		"only to be judged": {"n,n,n", Config{AnyDevice: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planned(src, c.networks, c.cfg)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	ws, err = planned(src, `[{"name": "n"}, {"name": "n", "deviceID": "d0"}]`, Config{Devices: src})
	if err != nil || ws[0].DeviceID != "d1" || ws[1].DeviceID != "d0" {
		t.Errorf("a device that the pod has named is another network's too: %+v, %v", ws, err)
	}
	var e *types.Error
	if _, err := NewPlanner(src, Config{Devices: src}).One(context.Background(), "default", Selection{Name: "n"}, nil); !errors.As(err, &e) || !strings.Contains(e.Msg, "pods that start only") {
		t.Errorf("hot attach: %v", err)
	}
}
