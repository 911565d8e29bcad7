package meta

import (
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bothFormsAreRead(t *testing.T) {
	short, err := ParseNetworks("data, lab/blue@x0 ,control", "default")
	if err != nil {
		t.Fatal(err)
	}
	json, err := ParseNetworks(`[{"name": "data"}, {"name": "blue", "namespace": "lab", "interface": "x0"}, {"name": "control", "namespace": "default"}]`, "default")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(short, json); d != "" {
		t.Error(d)
	}
	if short[0].Ref() != "default/data" || short[1].Ref() != "lab/blue" { // N10
		t.Errorf("%+v", short)
	}
}

func namesOfDNSUnits(t *testing.T) {
	for _, name := range []string{"a", "a-b", "net.blue", "my-ns/net.blue"} {
		if _, err := ParseNetworks(name, "default"); err != nil {
			t.Error(err)
		}
	}
}

// TestInvalidAnnotationsFailClosed: an annotation that the specification calls invalid is an error
// that names the place; it is never ignored.
func TestInvalidAnnotationsFailClosed(t *testing.T) {
	for _, c := range []struct{ name, annotation, want string }{
		{"N11 key without a period", `[{"name": "a", "colour": "red"}]`, `unknown key "colour"`},
		{"N12 element without name", `[{"namespace": "a"}]`, `"name" is missing`},
		{"N13 ips empty", `[{"name": "a", "ips": []}]`, `"ips" is empty`},
		{"N13 ips malformed", `[{"name": "a", "ips": ["10.0.0.300"]}]`, "10.0.0.300"},
		{"N13 ips without a network", `[{"name": "a", "ips": ["10.0.0.1/0"]}]`, "10.0.0.1/0"},
		{"N16 mac of eight bytes", `[{"name": "a", "mac": "02:00:00:00:00:00:00:01"}]`, "six bytes"},
		{"N16 mac malformed", `[{"name": "a", "mac": "nonsense"}]`, "nonsense"},
		{"N19 interface with a space", `[{"name": "a", "interface": "a b"}]`, "space"},
		{"N19 interface twice", "a@x0,b@x0", `both ask for interface "x0"`},
		{"N21 hostPort 0", `[{"name": "a", "portMappings": [{"hostPort": 0, "containerPort": 80}]}]`, "between 1 and 65535"},
		{"N21 hostPort 65536", `[{"name": "a", "portMappings": [{"hostPort": 65536, "containerPort": 80}]}]`, "between 1 and 65535"},
		{"N21 protocol", `[{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 80, "protocol": "icmp"}]}]`, "icmp"},
		{"N21 empty", `[{"name": "a", "portMappings": []}]`, `"portMappings" is empty`},
		{"N23 no key", `[{"name": "a", "bandwidth": {}}]`, "neither"},
		{"N23 burst without rate", `[{"name": "a", "bandwidth": {"egressRate": 1, "ingressBurst": 5}}]`, "ingressBurst without ingressRate"},
		{"N25 two default routes", `[{"name": "a", "default-route": []}, {"name": "b", "default-route": ["10.0.0.1"]}]`, "only one"},
		{"N28 GUID of six bytes", `[{"name": "a", "infiniband-guid": "02:00:00:00:00:01"}]`, "eight bytes"},
		{"N29 claim with ips", `[{"name": "a", "ips": ["10.0.0.1"], "ipam-claim-reference": "c"}]`, "exclude each other"},
		{"not a list", `{"name": "a"}`, "not a JSON list"},
		{"syntax error", `[{"name": "a"},]`, "character 16"},
		{"wrong type", `[{"name": 7}]`, `"name" must be a text`},
		{"upper case", "Blue", `"Blue" is not a network's name`},
		{"empty item", "a,,b", "character 3"},
		{"path trick", "../a", `".." is not a namespace`},
		{"namespace trick", "./net", `"." is not a namespace`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseNetworks(c.annotation, "default")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			var e *types.Error
			if !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig {
				t.Errorf("not CNI error 7: %v", err)
			}
		})
	}
}

func protocolDefaultsToTCP(t *testing.T) {
	s, err := ParseNetworks(`[{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 2}, {"hostPort": 3, "containerPort": 4, "protocol": "UDP"}]}]`, "default")
	if err != nil {
		t.Fatal(err)
	}
	if m := s[0].PortMappings; m[0].Protocol != "tcp" || m[1].Protocol != "udp" {
		t.Errorf("%+v", m)
	}
}

func anEmptyDefaultRoute(t *testing.T) {
	s, err := ParseNetworks(`[{"name": "a", "default-route": []}, {"name": "b"}]`, "default")
	if err != nil {
		t.Fatal(err)
	}
	if s[0].DefaultRoute == nil || s[1].DefaultRoute != nil {
		t.Errorf("%+v", s)
	}
}
