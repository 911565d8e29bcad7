package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

const bridgePrefix = "ovs-cni.network.kubevirt.io/"

// offered says whether a node offers a bridge in full, both as capacity and, by kubelet, as allocatable.
func offered(n *cluster.Node, bridge string) (capacity, allocatable bool, err error) {
	node, err := c.Client.CoreV1().Nodes().Get(context.Background(), n.Name, metav1.GetOptions{})
	if err != nil {
		return false, false, err
	}
	full := func(l corev1.ResourceList) bool {
		q := l[corev1.ResourceName(bridgePrefix+bridge)]
		return q.Value() == 1000
	}
	return full(node.Status.Capacity), full(node.Status.Allocatable), nil
}

// onBridge is a NetworkAttachmentDefinition of ovs-cni as its documentation has it.
func onBridge(name, bridge, subnet string) string {
	return strings.Replace(nad(name, `{"cniVersion": "0.4.0", "name": "`+name+`", "type": "ovs", "bridge": "`+bridge+`",
		"ipam": {"type": "patchbay-ipam", "network": "`+subnet+`", "subnetLen": 24, "cooldown": "0s"}}`),
		"{name: "+name+"}", "{name: "+name+", annotations: {k8s.v1.cni.cncf.io/resourceName: "+bridgePrefix+bridge+"}}", 1)
}

func requesting(name, node, networks, bridge string) *corev1.Pod {
	p := pod(name, node, networks)
	one := corev1.ResourceList{corev1.ResourceName(bridgePrefix + bridge): resource.MustParse("1")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: one, Requests: one}
	return p
}

// Bridges are resources of the nodes that have them, for the scheduler alone: no device plugin hands
// them out, and none is asked for.
func TestBridgesAreResourcesOfTheirNodes(t *testing.T) {
	ns := namespace(t)
	ctx := context.Background()
	for _, n := range c.Nodes {
		eventually(t, "node "+n.Name+" offers br-data", func() error {
			capacity, allocatable, err := offered(n, "br-data")
			if err == nil && (!capacity || !allocatable) {
				err = fmt.Errorf("capacity: %v, allocatable: %v", capacity, allocatable)
			}
			return err
		})
	}
	apply(t, ns, onBridge("theirs", "br-data", "10.62.0.0/16"))
	if _, err := c.Client.CoreV1().Pods(ns).Create(ctx, requesting("a", "n1", "theirs", "br-data"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready(t, ns, "a")
	if s := status(t, ns, "a"); len(s) != 2 || s[1].Name != ns+"/theirs" || len(s[1].IPs) != 1 || s[1].DeviceInfo != nil {
		t.Errorf("network-status: %+v", s)
	}
	run(t, ns, "unasked", "n1", "theirs") // as with ovs-cni, a pod need not ask for the resource

	// A bridge of one node draws the pod there.
	last := c.Nodes[len(c.Nodes)-1]
	if out, err := last.Run("ovs-vsctl", "add-br", "br-rare", "--", "set", "bridge", "br-rare", "datapath_type=netdev"); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() { _, _ = last.Run("ovs-vsctl", "--if-exists", "del-br", "br-rare") })
	apply(t, ns, onBridge("rare", "br-rare", "10.63.0.0/16"))
	if _, err := c.Client.CoreV1().Pods(ns).Create(ctx, requesting("b", "", "rare", "br-rare"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready(t, ns, "b")
	b, err := c.Client.CoreV1().Pods(ns).Get(ctx, "b", metav1.GetOptions{})
	if err != nil || b.Spec.NodeName != last.Name {
		t.Errorf("pod b is on node %s, %v, want %s", b.Spec.NodeName, err, last.Name)
	}
	for _, name := range []string{"a", "b", "unasked"} {
		remove(t, ns, name)
	}
	if out, err := last.Run("ovs-vsctl", "del-br", "br-rare"); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, "br-rare is withdrawn", func() error {
		capacity, _, err := offered(last, "br-rare")
		if err == nil && capacity {
			err = fmt.Errorf("it is still offered")
		}
		return err
	})
	clean(t)
}
