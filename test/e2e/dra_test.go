package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

const (
	draDriver = "nics.example.org"
	draDevice = "0000:04:00.0"
)

// dra is a DRA driver with one network device, which exists in name only.
type dra struct{}

func (dra) PrepareResourceClaims(_ context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		r := kubeletplugin.PrepareResult{}
		for _, a := range c.Status.Allocation.Devices.Results {
			r.Devices = append(r.Devices, kubeletplugin.Device{Requests: []string{a.Request}, PoolName: a.Pool, DeviceName: a.Device,
				CDIDeviceIDs: []string{"example.org/nic=" + draDevice}})
		}
		out[c.UID] = r
	}
	return out, nil
}

func (dra) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, c := range claims {
		out[c.UID] = nil
	}
	return out, nil
}

func (dra) HandleError(context.Context, error, string) {}

func (dra) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

// startDRA publishes the device on a node. Its sockets are where kubelet finds them under both names
// that the node's disk has.
func startDRA(t *testing.T, n *cluster.Node) {
	t.Helper()
	kubelet := filepath.Join(n.Disk(), "lib/kubelet")
	data := filepath.Join(kubelet, "plugins", draDriver)
	if err := os.MkdirAll(data, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.Path("/etc/cdi"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := `{"cdiVersion": "0.6.0", "kind": "example.org/nic", "devices": [{"name": "` + draDevice + `", "containerEdits": {"env": ["NIC=` + draDevice + `"]}}]}`
	if err := os.WriteFile(n.Path("/etc/cdi/nic.json"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h, err := kubeletplugin.Start(ctx, dra{}, kubeletplugin.DriverName(draDriver), kubeletplugin.KubeClient(c.Client), kubeletplugin.NodeName(n.Name),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(kubelet, "plugins_registry")), kubeletplugin.PluginDataDirectoryPath(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		h.Stop()
	})
	resource, id := nicResource, draDevice
	err = h.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{n.Name: {Slices: []resourceslice.Slice{{Devices: []resourcev1.Device{{
		Name: "nic0", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
			"k8s.cni.cncf.io/resourceName": {StringValue: &resource}, "k8s.cni.cncf.io/deviceID": {StringValue: &id}}}}}}}}})
	if err != nil {
		t.Fatal(err)
	}
}

// A device that DRA has allocated reaches the plugin by the resource name that its driver publishes,
// and by the name of the claim.
func TestDevicesThatDRAHasAllocatedReachThePlugin(t *testing.T) {
	ns := namespace(t)
	n := c.Nodes[0]
	startDRA(t, n)
	if err := os.WriteFile(n.Path("/opt/cni/bin/recorder"), []byte(recorder), 0o755); err != nil {
		t.Fatal(err)
	}
	network := func(name, resource string) string {
		return strings.Replace(nad(name, `{"cniVersion": "1.0.0", "name": "`+name+`", "type": "recorder"}`),
			"{name: "+name+"}", "{name: "+name+", annotations: {k8s.v1.cni.cncf.io/resourceName: "+resource+"}}", 1)
	}
	apply(t, ns, network("by-attribute", nicResource)+"---\n"+network("by-claim", "claimed")+`---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: nics.example.org}
spec: {selectors: [{cel: {expression: 'device.driver == "nics.example.org"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: claimed}
spec: {devices: {requests: [{name: nic, exactly: {deviceClassName: nics.example.org}}]}}
`)
	t.Cleanup(func() { _, _ = c.Kubectl("delete", "deviceclass", "nics.example.org") })
	for _, name := range []string{"by-attribute", "by-claim"} {
		_ = os.Remove(n.Path("/var/lib/recorded"))
		claim := "claimed"
		p := pod(name, n.Name, name)
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "nic", ResourceClaimName: &claim}}
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "nic"}}
		if _, err := c.Client.CoreV1().Pods(ns).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ready(t, ns, name)
		b, err := os.ReadFile(n.Path("/var/lib/recorded"))
		if err != nil || !strings.Contains(string(b), `"deviceID":"`+draDevice+`"`) {
			t.Errorf("%s: %s, %v", name, b, err)
		}
		remove(t, ns, name)
	}
	clean(t)
}
