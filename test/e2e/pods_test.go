package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
)

func TestPodsOnTwoNodesReachEachOtherOnEveryNetwork(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data,control,vlan,bridge")
	run(t, ns, "b", "n2", `[{"name": "data", "interface": "d0", "mac": "02:00:00:00:00:0b"}, {"name": "control"}, {"name": "vlan"}]`)
	for _, ifName := range []string{"eth0", "d0", "net2", "net3"} {
		in(t, ns, "a", "ping", "-c1", "-W3", address(t, ns, "b", ifName))
	}
	for _, s := range status(t, ns, "b") {
		if s.Interface == "net2" {
			if len(s.IPs) != 2 {
				t.Fatalf("dual stack: %+v", s)
			}
			in(t, ns, "a", "ping", "-c1", "-W3", s.IPs[1])
		}
	}
	// TCP, which stalls where checksum offload is left on.
	go func() { _, _ = tryIn(ns, "b", "iperf3", "-s", "-1") }()
	eventually(t, "TCP across the data network", func() error {
		_, err := tryIn(ns, "a", "iperf3", "-c", address(t, ns, "b", "d0"), "-t", "1")
		return err
	})
	remove(t, ns, "a")
	remove(t, ns, "b")
	clean(t)
}

func networkStatusIsWrittenAndRestored(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data@d0")
	s := status(t, ns, "a")
	if len(s) != 2 || !s[0].Default || s[0].Interface != "eth0" || s[1].Name != ns+"/data" || s[1].Interface != "d0" || s[1].Default || s[1].MAC == "" {
		t.Errorf("%+v", s)
	}
	pods := c.Client.CoreV1().Pods(ns)
	ctx := context.Background()
	for _, patch := range []string{
		`{"metadata":{"annotations":{"` + meta.StatusAnnotation + `":null,"example.org/mine":"1"}}}`, // lost, and another's annotation beside
		`{"metadata":{"annotations":{"` + meta.StatusAnnotation + `":"[]","example.org/mine":"2"}}}`, // overwritten
	} {
		if _, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is written again", func() error {
			if l := entries(ns, "a"); l != 2 {
				return fmt.Errorf("%d entries", l)
			}
			return nil
		})
	}
	p, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || p.Annotations["example.org/mine"] != "2" {
		t.Errorf("another writer's annotation was lost: %v, %v", p.Annotations, err)
	}
	// Hot-attached interfaces are shown, and no longer when they are gone.
	d := daemon(t, c.Nodes[0])
	if _, err := d.Attach(ctx, ns, "a", client.Request{Network: "control", Interface: "hot0"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is in the status", func() error {
		if s := status(t, ns, "a"); len(s) != 3 || s[2].Interface != "hot0" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	event(t, ns, "a", "Attached", "hot0", ns+"/control")
	if err := d.Detach(ctx, ns, "a", "hot0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone from the status", func() error {
		if l := entries(ns, "a"); l != 2 {
			return fmt.Errorf("%d entries", l)
		}
		return nil
	})
	event(t, ns, "a", "Detached", "hot0")
}

// Many writers of one pod's annotations: none loses what it wrote.
func TestNetworkStatusLosesNoOtherWritersAnnotation(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	d := daemon(t, c.Nodes[0])
	ctx := context.Background()
	done := make(chan error, 1)
	go func() {
		var err error
		for range 10 {
			if _, err = d.Attach(ctx, ns, "a", client.Request{Network: "control", Interface: "hot0"}); err == nil {
				err = d.Detach(ctx, ns, "a", "hot0")
			}
			if err != nil {
				break
			}
		}
		done <- err
	}()
	pods := c.Client.CoreV1().Pods(ns)
	written := 0
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			running = false
		default:
			p, err := pods.Get(ctx, "a", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Annotations["example.org/count"] = strings.Repeat("x", written+1)
			if _, err := pods.Update(ctx, p, metav1.UpdateOptions{}); err == nil { // else a conflict: ours to repeat
				written++
			}
		}
	}
	p, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || len(p.Annotations["example.org/count"]) != written || written == 0 {
		t.Errorf("written %d times, there is %q, %v", written, p.Annotations["example.org/count"], err)
	}
}

func TestMendedInterfacesAreReported(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data,bridge")
	run(t, ns, "b", "n2", "data")
	n1 := c.Nodes[0]
	peer := address(t, ns, "b", "net1")
	l, err := daemon(t, n1).List(context.Background(), client.Filter{Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	var port, netns string
	for _, a := range l {
		if a.Interface == "net1" {
			port = a.Port
		}
	}
	sandboxes, err := daemon(t, n1).Sandboxes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sandboxes {
		if s.Namespace == ns {
			netns = strings.TrimPrefix(s.Netns, "/var")
		}
	}
	for what, lose := range map[string][]string{
		"missing on Open vSwitch": {"ovs-vsctl", "del-port", port},
		"lost address 10.12":      {"nsenter", "--net=" + netns, "ip", "addr", "flush", "dev", "net1"},
		"lost address 10.17":      {"nsenter", "--net=" + netns, "ip", "addr", "flush", "dev", "net2"},
		"is down":                 {"ip", "link", "set", port, "down"}, // the end in the host: what the pod does to its own is its own
	} {
		if _, err := n1.Run(lose[0], lose[1:]...); err != nil {
			t.Fatal(err)
		}
		event(t, ns, "a", "InterfaceRepaired", what)
	}
	in(t, ns, "a", "ping", "-c1", "-W3", peer)
}
