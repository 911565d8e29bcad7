package meta

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// versioned is a catalog of one network, default/a.
type versioned struct{ version, config string }

func (v *versioned) Pod(context.Context, string, string, string) (*Pod, error) {
	return nil, ErrNotFound
}

func (v *versioned) Network(_ context.Context, ns, name string) (*Network, error) {
	if v.config == "" {
		return nil, ErrNotFound
	}
	return &Network{Namespace: ns, Name: name, Config: v.config, Version: v.version}, nil
}

func TestANetworkIsParsedOncePerVersion(t *testing.T) {
	c := &versioned{"1", bare}
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
	c.config = "{" // nobody reads it: the version is the same
	for _, p := range []*Planner{p, p.With(Config{})} {
		if again, err := plan(p, "a"); err != nil || again != first {
			t.Errorf("the second time: %s, %v, want %s", again, err, first)
		}
	}

	if with, err := plan(p, `[{"name": "a", "cni-args": {"secret": "of-one-pod"}}]`); err != nil || !strings.Contains(with, "of-one-pod") {
		t.Errorf("with cni-args: %s, %v", with, err)
	}
	if next, err := plan(p, "a"); err != nil || next != first {
		t.Errorf("the next pod has %s, %v, want %s", next, err, first)
	}

	c.version, c.config = "2", strings.Replace(bare, `"bare"}`, `"edited"}`, 1)
	if edited, err := plan(p, "a"); err != nil || !strings.Contains(edited, `"edited"`) {
		t.Errorf("edited: %s, %v", edited, err)
	}
	c.config = ""
	if _, err := plan(p, "a"); err == nil {
		t.Error("a network that is gone is planned")
	}
	c.config = "{" // version 2 was dropped as the network was gone
	if got, err := plan(p, "a"); err == nil {
		t.Errorf("after it was gone, the same version is %s", got)
	}
	c.version, c.config = "", bare
	for _, typ := range []string{"one", "two"} {
		c.config = fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "x", "type": %q}`, typ)
		if got, err := plan(p, "a"); err != nil || !strings.Contains(got, typ) {
			t.Errorf("without versions: %s, %v, want %s", got, err, typ)
		}
	}
}

// A device is written into the configuration of the pod that has it alone.
func TestADeviceStaysWithItsPod(t *testing.T) {
	n := &Network{Namespace: "default", Name: "a", Config: bare, Version: "1"}
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
