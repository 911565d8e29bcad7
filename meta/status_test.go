package meta

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

func result(ifName, ip string) *types100.Result {
	addr, network, _ := net.ParseCIDR(ip)
	network.IP = addr
	return &types100.Result{CNIVersion: "1.1.0",
		Interfaces: []*types100.Interface{{Name: "host0", Mac: "fe:00:00:00:00:01"}, {Name: ifName, Mac: "0a:00:00:00:00:01", Mtu: 1450, Sandbox: "/run/netns/x"}, {Name: "second", Sandbox: "/run/netns/x"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(0), Address: *network}, {Interface: types100.Int(1), Address: *network, Gateway: net.IPv4(10, 0, 0, 1)}},
		DNS:        types.DNS{Nameservers: []string{"10.0.0.53"}}}
}

func networkStatus(t *testing.T) {
	gw := []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	got, err := json.MarshalIndent(Status([]Made{
		{Network: "kube-system/c", Interface: "eth0", Result: result("eth0", "10.0.0.2/24")},
		{Network: "lab/blue", Interface: "net1", Result: result("net1", "10.1.0.2/24"), DefaultRoute: &gw},
		{Network: "lab/empty", Interface: "net2"},
	}), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want := `[
 {"name": "kube-system/c", "interface": "eth0", "ips": ["10.0.0.2"], "mac": "0a:00:00:00:00:01", "mtu": 1450, "default": true, "dns": {"nameservers": ["10.0.0.53"]}},
 {"name": "lab/blue", "interface": "net1", "ips": ["10.1.0.2"], "mac": "0a:00:00:00:00:01", "mtu": 1450, "default": false, "dns": {"nameservers": ["10.0.0.53"]}, "default-route": ["10.1.0.1"]},
 {"name": "lab/empty", "interface": "net2", "default": false}]`
	var g, w any
	if json.Unmarshal(got, &g) != nil || json.Unmarshal([]byte(want), &w) != nil {
		t.Fatal("not JSON")
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Error(d)
	}
}

func theResultIsInTheVersionAsked(t *testing.T) {
	made := []Made{{Interface: "eth0", Result: result("eth0", "10.0.0.2/24")}}
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		res, err := Result(made, version)
		if err != nil {
			t.Fatal(version, err)
		}
		b, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if !strings.Contains(text, `"cniVersion":"`+version+`"`) || !strings.Contains(text, "10.0.0.2/24") {
			t.Errorf("%s: %s", version, text)
		}
		if has := strings.Contains(text, `"version":"4"`); has != strings.HasPrefix(version, "0.") {
			t.Errorf("%s: an IP's version is for 0.x only: %s", version, text)
		}
		if has := strings.Contains(text, `"mtu"`); has != (version == "1.1.0") {
			t.Errorf("%s: mtu is for 1.1.0 only: %s", version, text)
		}
	}
	if res, err := Result(nil, "1.0.0"); err != nil || res == nil {
		t.Errorf("a pod with no network: %v, %v", res, err)
	}
}
