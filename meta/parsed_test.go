package meta

import (
	"context"
	"strings"
	"testing"
)

// single is a catalog of one network, default/a.
type single struct{ config string }

func (*single) Pod(context.Context, string, string, string) (*Pod, error) { return nil, ErrNotFound }

func (c *single) Network(_ context.Context, ns, name string) (*Network, error) {
	return &Network{Namespace: ns, Name: name, Config: c.config}, nil
}

func TestATextIsParsedOnce(t *testing.T) {
	c := &single{bare}
	p := NewPlanner(c, Config{})
	plan := func(p *Planner, elements string) (string, error) {
		t.Helper()
		ws, err := p.Plan(context.Background(), Pod{Namespace: "default", Name: "p", Annotations: map[string]string{NetworksAnnotation: elements}}, "eth0", nil)
		if err != nil {
			return "", err
		}
		b, err := ws[0].Config.MarshalJSON()
		return string(b), err
	}
	first, err := plan(p, "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Planner{p, p.With(Config{})} {
		if again, err := plan(p, "a"); err != nil || again != first || len(p.parsed.lists) != 1 {
			t.Errorf("the second time: %s, %v, want %s; %d are kept", again, err, first, len(p.parsed.lists))
		}
	}

	if with, err := plan(p, `[{"name": "a", "cni-args": {"secret": "of-one-pod"}}]`); err != nil || !strings.Contains(with, "of-one-pod") {
		t.Errorf("with cni-args: %s, %v", with, err)
	}
	if next, err := plan(p, "a"); err != nil || next != first {
		t.Errorf("the next pod has %s, %v, want %s", next, err, first)
	}

	c.config = strings.Replace(bare, `"bare"}`, `"edited"}`, 1)
	if edited, err := plan(p, "a"); err != nil || !strings.Contains(edited, `"edited"`) {
		t.Errorf("edited: %s, %v", edited, err)
	}
	c.config = "{"
	if got, err := plan(p, "a"); err == nil {
		t.Errorf("edited to what can't be read: %s", got)
	}
}

func TestANetworkWithoutANameHasItsOwn(t *testing.T) {
	p := newParsed()
	for _, name := range []string{"a", "b"} {
		if list, err := p.list(&Network{Name: name, Config: `{"cniVersion": "1.0.0", "type": "bridge"}`}); err != nil || list.Name != name {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}

// A device is written into the configuration of the pod that has it alone.
func TestADeviceStaysWithItsPod(t *testing.T) {
	n := &Network{Namespace: "default", Name: "a", Config: bare}
	p := newParsed()
	for _, device := range []string{"d1", ""} {
		list, err := p.list(n)
		if err != nil {
			t.Fatal(err)
		}
		if has := list.Plugins[0].Raw["deviceID"]; has != nil {
			t.Errorf("the configuration comes with device %s", has)
		}
		w := Wanted{Config: list, Resource: "example.org/nic", DeviceID: device}
		w.useDevice()
	}
}
