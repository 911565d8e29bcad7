package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/meta"
)

// Each of these fails with an Event on the pod that says what and why; nothing is left, and the pod
// next to them is not disturbed.
func TestWhatCantWorkIsToldOnThePod(t *testing.T) {
	ns := namespace(t)
	if _, err := c.Client.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apply(t, "other", nad("secret", `{"cniVersion": "1.1.0", "name": "secret", "type": "patchbay-ovs", "network": "data"}`))
	apply(t, ns, strings.Join([]string{
		nad("itself", `{"cniVersion": "1.0.0", "name": "itself", "type": "patchbay"}`),
		nad("multus", `{"cniVersion": "1.0.0", "name": "multus", "type": "multus"}`),
		nad("missing", `{"cniVersion": "1.0.0", "name": "missing", "type": "no-such-plugin"}`),
		nad("slash", `{"cniVersion": "1.0.0", "name": "slash", "type": "../../bin/sh"}`),
		nad("nojson", `{"cniVersion": "1.0.0", "name": nojson}`),
		nad("vlan5000", `{"cniVersion": "1.1.0", "name": "vlan5000", "type": "patchbay-ovs", "network": "data", "vlan": 5000}`),
		nad("nobridge", `{"cniVersion": "1.1.0", "name": "nobridge", "type": "patchbay-ovs", "network": "storage"}`),
	}, "---\n"))
	run(t, ns, "neighbour", "n1", "data,control")
	for name, p := range map[string]struct {
		annotation string
		texts      []string
	}{
		"unknown":    {"data,nowhere", []string{ns + "/nowhere", "not found"}},
		"malformed":  {`[{"name": "data"`, []string{"not a JSON list", "character"}},
		"itself":     {"itself", []string{ns + "/itself", "meta-plugin"}},
		"multus":     {"multus", []string{ns + "/multus", "meta-plugin"}},
		"missing":    {"data,missing", []string{`CNI plugin "no-such-plugin" is not in`, "/opt/cni/bin"}},
		"slash":      {"slash", []string{ns + "/slash", "plain file name"}},
		"nojson":     {"nojson", []string{ns + "/nojson", "character"}},
		"vlan5000":   {"data,vlan5000", []string{ns + "/vlan5000", "5000"}},
		"nobridge":   {"nobridge", []string{ns + "/nobridge", "storage"}},
		"twice":      {"data@x0,control@x0", []string{`"x0"`}},
		"longname":   {"data@abcdefghijklmnop", []string{"abcdefghijklmnop"}},
		"forbidden":  {"other/secret", []string{"other/secret", "forbidden"}},
		"trick":      {`[{"name": "../other/secret"}]`, []string{"../other/secret"}},
		"trick2":     {`[{"name": "secret", "namespace": "other"}]`, []string{"other/secret", "forbidden"}},
		"no-such-ip": {`[{"name": "data", "ips": ["192.0.2.1/24"]}]`, []string{"192.0.2.1", "10.12.0.0"}},
		"ip-twice":   {`[{"name": "data", "ips": ["10.12.0.9", "10.12.0.9"]}]`, []string{ns + "/data", "10.12.0.9 is listed twice"}},
		"zero-mac":   {`[{"name": "data", "mac": "00:00:00:00:00:00"}]`, []string{ns + "/data", "an interface can't have 00:00:00:00:00:00"}},
		"two-ats":    {"data@x@y", []string{`"data@x@y"`, "more than one @"}},
		"no-plugin":  {`[{"name": "bridge", "bandwidth": {"ingressRate": 1000000}}]`, []string{"bandwidth", "capability"}},
	} {
		t.Run(name, func(t *testing.T) {
			create(t, ns, name, "n1", p.annotation)
			event(t, ns, name, "FailedAttach", p.texts...)
			remove(t, ns, name)
		})
	}
	t.Run("default-network", func(t *testing.T) {
		p := pod("default-network", "n1", "")
		p.Annotations[meta.DefaultNetworkAnnotation] = "other/secret"
		if _, err := c.Client.CoreV1().Pods(ns).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		event(t, ns, "default-network", "FailedAttach", "other/secret", "forbidden")
		remove(t, ns, "default-network")
	})
	in(t, ns, "neighbour", "ip", "addr", "show", "net2")
	clean(t)
}

func TestAHugeAnnotationIsRefused(t *testing.T) {
	ns := namespace(t)
	create(t, ns, "a", "n1", strings.Repeat("data,", 50000)+"data") // 250 KB
	event(t, ns, "a", "FailedAttach", "50001")
	remove(t, ns, "a")
	clean(t)
}

func TestAPodComesUpOnceItsNetworkIsThere(t *testing.T) {
	ns := namespace(t)
	create(t, ns, "a", "n1", "late")
	event(t, ns, "a", "FailedAttach", ns+"/late", "not found")
	apply(t, ns, nad("late", `{"cniVersion": "1.1.0", "name": "late", "type": "patchbay-ovs", "network": "data"}`))
	ready(t, ns, "a")
}

func TestANetworkIsDeletedWhilePodsUseIt(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data,bridge")
	if out, err := c.Kubectl("delete", "net-attach-def", "-n", ns, "--all"); err != nil {
		t.Fatal(out, err)
	}
	in(t, ns, "a", "ip", "addr", "show", "net2")
	remove(t, ns, "a")
	clean(t)
}

func TestAnAnnotationEditedToGarbageChangesNothing(t *testing.T) {
	ns := namespace(t)
	run(t, ns, "a", "n1", "data")
	patch := `{"metadata":{"annotations":{"` + meta.NetworksAnnotation + `":"[{\"name\": 7}]"}}}`
	if _, err := c.Client.CoreV1().Pods(ns).Patch(context.Background(), "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	event(t, ns, "a", "InvalidAnnotation", meta.NetworksAnnotation)
	in(t, ns, "a", "ip", "addr", "show", "net1")
	if n := entries(ns, "a"); n != 2 {
		t.Errorf("network-status has %d entries", n)
	}
	remove(t, ns, "a")
	clean(t)
}

// A StatefulSet's pod that is re-created has the name of the old one, and another UID.
func TestARecreatedPodGetsItsOwnInterfaces(t *testing.T) {
	ns := namespace(t)
	for i := range 3 {
		run(t, ns, "p-0", fmt.Sprintf("n%d", i%2+1), "data")
		if n := entries(ns, "p-0"); n != 2 {
			t.Errorf("network-status has %d entries", n)
		}
		remove(t, ns, "p-0")
	}
	clean(t)
}
