package attack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

const sharedMAC = "02:00:00:00:aa:01"

// with is a selection element for a network, with the shared hardware address.
func with(network string) string {
	return fmt.Sprintf(`{"name": %q, "namespace": "default", "mac": %q}`, network, sharedMAC)
}

// A switch that hears one hardware address from two pods sends either's frames to whichever has spoken last.
func TestAHardwareAddressIsOnePods(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	ctx := context.Background()
	n.Run(t, "owner", "["+with("vlan")+"]")
	refused := func(err error) {
		t.Helper()
		for _, want := range []string{sharedMAC, "br-data", "net1", "default/owner"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("the error does not tell %q: %v", want, err)
			}
		}
	}
	_, err := n.TryRun("second", "["+with("vlan")+"]")
	refused(err)
	t.Run("the trunk of another has the VLAN", func(t *testing.T) {
		n.nad("trunk100", `{"cniVersion": "1.1.0", "name": "trunk100", "type": "patchbay-ovs", "network": "data", "trunk": [{"minID": 90, "maxID": 110}]}`)
		_, err := n.TryRun("second", "["+with("trunk100")+"]")
		refused(err)
	})
	t.Run("hot-attached", func(t *testing.T) {
		n.Run(t, "hot", "data")
		_, err := n.Client.Attach(ctx, "default", "hot", client.Request{Network: "vlan", MAC: sharedMAC})
		refused(err)
	})
	t.Run("on another VLAN or bridge it is free", func(t *testing.T) {
		n.Run(t, "other", "["+with("data")+","+with("control")+"]")
	})
	t.Run("interfaces of one pod share it, for a bond", func(t *testing.T) {
		n.nad("vlan7", `{"cniVersion": "1.1.0", "name": "vlan7", "type": "patchbay-ovs", "network": "data", "vlan": 7}`)
		n.Run(t, "bonded", "["+with("vlan7")+","+with("vlan7")+"]")
	})
	t.Run("the next sandbox of the pod does not wait for the end of the last", func(t *testing.T) {
		next := &sandbox.Sandbox{ContainerID: "next", Netns: testnode.Netns(t, "next"), Namespace: "default", Pod: "owner",
			Annotations: map[string]string{meta.NetworksAnnotation: "[" + with("vlan") + "]"}}
		if _, err := n.Runtime.Add(ctx, next); err != nil {
			t.Fatal(err)
		}
		if err := n.Runtime.Del(ctx, next); err != nil {
			t.Error(err)
		}
	})
	t.Run("a port is made again although another has come to it", func(t *testing.T) {
		port := n.OVS.Ports(t)[0]
		n.OVS.Vsctl(t, "--if-exists", "del-port", port)
		testnode.Eventually(t, "the port is there again", func() bool { return strings.Contains(fmt.Sprint(n.OVS.Ports(t)), port) })
	})
	t.Run("a pod that has vanished holds it no longer", func(t *testing.T) {
		s, err := n.Runtime.Find("default", "owner")
		if err != nil {
			t.Fatal(err)
		}
		testnode.Sh(t, "ip", "netns", "del", filepath.Base(s.Netns))
		testnode.Eventually(t, "its link is gone", func() bool { return link.IsGone(ovs.HostName(s.ContainerID, "net1")) })
		n.Run(t, "heir", "["+with("vlan")+"]")
	})
	t.Run("of pods that start at once one gets it", func(t *testing.T) {
		n.nad("vlan9", `{"cniVersion": "1.1.0", "name": "vlan9", "type": "patchbay-ovs", "network": "data", "vlan": 9}`)
		var got atomic.Int32
		var all sync.WaitGroup
		pods := make([]*sandbox.Sandbox, 8)
		for i := range pods {
			pods[i] = n.pod(fmt.Sprintf("race%d", i), "["+with("vlan9")+"]")
			all.Go(func() {
				if _, err := n.Runtime.Add(ctx, pods[i]); err == nil {
					got.Add(1)
				} else if !strings.Contains(err.Error(), "is in use") {
					t.Error(err)
				}
			})
		}
		if all.Wait(); got.Load() != 1 {
			t.Errorf("%d of %d pods have the hardware address", got.Load(), len(pods))
		}
		for _, s := range pods {
			if err := n.Runtime.Del(ctx, s); err != nil {
				t.Error(err)
			}
		}
	})
	n.noPanic()
}

// The limit towards a pod is a row of its own in Open vSwitch's database, which nothing there removes with the
// port.
func TestALimitGoesWithItsPort(t *testing.T) {
	n := newNode(t)
	limits := func() int { return len(strings.Fields(n.OVS.Vsctl(t, "--bare", "--columns=_uuid", "list", "qos"))) }
	del := func() { n.OVS.Vsctl(t, "del-port", n.OVS.Ports(t)[0]) }
	foreign := strings.TrimSpace(n.OVS.Vsctl(t, "create", "qos", "type=linux-htb", "external_ids:owner=another"))
	n.Run(t, "a", "limited")
	was := n.OVS.Vsctl(t, "--bare", "--columns=_uuid", "find", "port", `external_ids:patchbay-sandbox!=""`)
	del()
	testnode.Eventually(t, "the port is made again", func() bool {
		is := strings.TrimSpace(n.OVS.Vsctl(t, "--bare", "--columns=_uuid", "find", "port", `external_ids:patchbay-sandbox!=""`))
		return is != "" && is != strings.TrimSpace(was)
	})
	if l := limits(); l != 2 {
		t.Errorf("%d limits, not the port's and the foreign one", l)
	}
	n.Daemon.Stop()
	n.Set = append(n.Set, "gc.mend=false")
	n.Start(t)
	del()
	if err := n.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if l := limits(); l != 1 {
		t.Errorf("%d limits after the DEL of a pod whose port was removed", l)
	}
	n.OVS.Vsctl(t, "create", "qos", "type=linux-htb", "external_ids:patchbay-sandbox=lost", "external_ids:patchbay-if=net1")
	if ok, _ := n.healthy("leftovers"); ok {
		t.Error("doctor does not tell of a limit without a port")
	}
	left := n.leftovers()
	if len(left) != 1 {
		t.Fatalf("leftovers: %+v", left)
	}
	if out, err := n.patchctl("leftovers", "rm", left[0].Kind+"/"+left[0].ID); err != nil {
		t.Fatal(out)
	}
	if l := strings.TrimSpace(n.OVS.Vsctl(t, "--bare", "--columns=_uuid", "list", "qos")); l != foreign {
		t.Errorf("limits %s are there, not the foreign one alone, %s", l, foreign)
	}
	n.OVS.Vsctl(t, "create", "qos", "type=linux-htb", "external_ids:patchbay-sandbox=lost", "external_ids:patchbay-if=net1")
	n.Daemon.Stop()
	n.Start(t)
	testnode.Eventually(t, "a start removes it, too", func() bool { return limits() == 1 })
	n.AssertEmpty(t)
}

// A pod whose port is being made again has its hardware address meanwhile.
func TestAHardwareAddressIsKeptWhileItsPortIsMadeAgain(t *testing.T) {
	n := newNode(t, "gc.interval=1h")
	owner := n.Run(t, "owner", "["+with("vlan")+"]")
	port := n.OVS.Ports(t)[0]
	n.Daemon.Stop()
	trace := n.Dir + "/trace"
	n.Start(t, "PATCHBAY_FAILPOINTS=ovs-mend-port-removed=sleep(5s)", "PATCHBAY_FAILPOINTS_TRACE="+trace)
	n.OVS.Vsctl(t, "del-port", port)
	testnode.Eventually(t, "the port is about to be made again", func() bool {
		b, err := os.ReadFile(trace)
		return err == nil && strings.Contains(string(b), "ovs-mend-port-removed")
	})
	if _, err := n.TryRun("second", "["+with("vlan")+"]"); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("another pod has it: %v", err)
	}
	testnode.Eventually(t, "the port is there again", func() bool { return fmt.Sprint(n.OVS.Ports(t)) == "["+port+"]" })
	n.Check(t, owner)
	if err := n.Remove("owner"); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "heir", "["+with("vlan")+"]")
}
