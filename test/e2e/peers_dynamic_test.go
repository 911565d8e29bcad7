package e2e

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
)

// The end-to-end suite of the dynamic networks controller (k8snetworkplumbingwg/multus-dynamic-networks-controller,
// e2e/e2e_test.go). The controller is asked by an edited annotation, Patchbay by a call; what
// network-status says afterwards is the same. A network is given by namespace/name, as there.
const (
	tenantNetwork = `{"cniVersion": "0.3.0", "disableCheck": true, "plugins": [{"type": "macvlan", "master": "eth0", "mode": "bridge"}]}`
	tenantIPAM    = `{"cniVersion": "0.3.0", "disableCheck": true, "name": "tenant-network-ipam", "plugins": [{"type": "macvlan", "capabilities": {"ips": true},
 "master": "eth0", "mode": "bridge", "ipam": {"type": "static"}}, {"type": "tuning"}]}`
	desiredMAC = "02:03:04:05:06:07"
)

func TestDynamicNetworks(t *testing.T) {
	ns := namespace(t)
	apply(t, ns, nad("tenant-network", tenantNetwork)+"---\n"+nad("tenant-network-ipam", tenantIPAM))
	d, ctx := daemon(t, c.Nodes[0]), context.Background()
	const pod = "tiny-winy-pod"
	net1 := meta.NetworkStatus{Name: ns + "/tenant-network", Interface: "net1"}
	ens58 := meta.NetworkStatus{Name: ns + "/tenant-network", Interface: "ens58"}
	ens202 := meta.NetworkStatus{Name: ns + "/tenant-network-ipam", Interface: "ens202", IPs: []string{"10.10.10.111"}, MAC: desiredMAC}
	attach := func(t *testing.T, r client.Request) {
		t.Helper()
		if _, err := d.Attach(ctx, ns, pod, r); err != nil {
			t.Fatal(err)
		}
	}
	detach := func(t *testing.T, ifName string) {
		t.Helper()
		if err := d.Detach(ctx, ns, pod, ifName); err != nil {
			t.Fatal(err)
		}
		if out, err := tryIn(ns, pod, "ip", "link", "show", ifName); err == nil {
			t.Errorf("it is in the pod: %s", out)
		}
	}
	withIPAM := client.Request{Network: ns + "/tenant-network-ipam", Interface: "ens202", IPs: []string{"10.10.10.111/24"}, MAC: desiredMAC}

	// Each case has a pod of its own.
	selecting := func(name string, try func(t *testing.T)) {
		t.Run("a pod with a network/"+name, func(t *testing.T) {
			run(t, ns, pod, "n1", `[{"name": "tenant-network", "namespace": "`+ns+`", "interface": "net1"}]`)
			consistsOf(t, ns, pod, withoutMACs, net1)
			try(t)
			remove(t, ns, pod)
			clean(t)
		})
	}
	selecting("manages to add a new interface", func(t *testing.T) {
		attach(t, client.Request{Network: ns + "/tenant-network", Interface: "ens58"})
		consistsOf(t, ns, pod, withoutMACs, ens58, net1)
		in(t, ns, pod, "ip", "link", "show", "ens58")
	})
	selecting("manages to remove an interface", func(t *testing.T) {
		detach(t, "net1")
		consistsOf(t, ns, pod, asTheyAre)
	})
	selecting("a network with IPAM can be plugged in and unplugged", func(t *testing.T) {
		attach(t, withIPAM)
		consistsOf(t, ns, pod, withoutMACsBut("ens202"), ens202, net1)
		if have := inet(t, ns, pod, "ens202"); !slices.Equal(have, []string{"10.10.10.111/24"}) {
			t.Errorf("ens202 has %v", have)
		}
		detach(t, "ens202")
		consistsOf(t, ns, pod, withoutMACs, net1)
	})
	t.Run("a pod with the cluster network only/manages to add a new interface", func(t *testing.T) {
		run(t, ns, pod, "n1", "")
		consistsOf(t, ns, pod, asTheyAre)
		attach(t, client.Request{Network: ns + "/tenant-network", Interface: "ens58", MAC: desiredMAC})
		ens58 := ens58
		ens58.MAC = desiredMAC
		consistsOf(t, ns, pod, asTheyAre, ens58)
		if out := in(t, ns, pod, "ip", "link", "show", "ens58"); !strings.Contains(out, desiredMAC) {
			t.Errorf("ens58 has another address: %s", out)
		}
		remove(t, ns, pod)
		clean(t)
	})
}

// consistsOf waits until network-status has these entries beside the default network's, in any order,
// and nothing else in any of their fields. seen says how an entry is looked at.
func consistsOf(t *testing.T, ns, pod string, seen func(meta.NetworkStatus) meta.NetworkStatus, want ...meta.NetworkStatus) {
	t.Helper()
	byName := func(a, b meta.NetworkStatus) int { return strings.Compare(a.Interface, b.Interface) }
	slices.SortFunc(want, byName)
	eventually(t, "network-status of "+pod, func() error {
		defaults, have := 0, []meta.NetworkStatus(nil)
		for _, s := range status(t, ns, pod) {
			if s.Default {
				defaults++
				continue
			}
			if s.MAC == "" {
				return fmt.Errorf("%s has no hardware address", s.Interface)
			}
			have = append(have, seen(s))
		}
		slices.SortFunc(have, byName)
		if defaults != 1 || !reflect.DeepEqual(have, want) {
			return fmt.Errorf("%d default networks, and %+v, want %+v", defaults, have, want)
		}
		return nil
	})
}

func asTheyAre(s meta.NetworkStatus) meta.NetworkStatus { return s }

func withoutMACs(s meta.NetworkStatus) meta.NetworkStatus {
	s.MAC = ""
	return s
}

// withoutMACsBut leaves one interface's.
func withoutMACsBut(ifName string) func(meta.NetworkStatus) meta.NetworkStatus {
	return func(s meta.NetworkStatus) meta.NetworkStatus {
		if s.Interface == ifName {
			return s
		}
		return withoutMACs(s)
	}
}
