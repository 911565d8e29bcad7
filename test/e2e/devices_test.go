package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// nics is a device plugin with two devices that exist in name only: what is tested is the way of
// their IDs and information from kubelet to the CNI plugin and to network-status.
type nics struct {
	deviceplugin.UnimplementedDevicePluginServer
	stop chan struct{}
}

const nicResource = "example.org/nic"

func (p *nics) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{}, nil
}

func (p *nics) ListAndWatch(_ *deviceplugin.Empty, s grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	err := s.Send(&deviceplugin.ListAndWatchResponse{Devices: []*deviceplugin.Device{{ID: "0000:03:02.1", Health: deviceplugin.Healthy}, {ID: "0000:03:02.0", Health: deviceplugin.Healthy}}})
	<-p.stop
	return err
}

func (p *nics) Allocate(_ context.Context, r *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	resp := &deviceplugin.AllocateResponse{}
	for range r.ContainerRequests {
		resp.ContainerResponses = append(resp.ContainerResponses, &deviceplugin.ContainerAllocateResponse{})
	}
	return resp, nil
}

// startNICs registers the device plugin with a node's kubelet.
func startNICs(t *testing.T, n *cluster.Node) {
	t.Helper()
	l, err := net.Listen("unix", n.Path(deviceplugin.DevicePluginPath+"nics.sock"))
	if err != nil {
		t.Fatal(err)
	}
	p := &nics{stop: make(chan struct{})}
	srv := grpc.NewServer()
	deviceplugin.RegisterDevicePluginServer(srv, p)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		close(p.stop)
		srv.Stop()
	})
	conn, err := grpc.NewClient("unix://"+n.Path(deviceplugin.KubeletSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = deviceplugin.NewRegistrationClient(conn).Register(context.Background(), &deviceplugin.RegisterRequest{Version: deviceplugin.Version, Endpoint: "nics.sock", ResourceName: nicResource})
	if err != nil {
		t.Fatal(err)
	}
}

// recorder is a plugin that writes down what it is given.
const recorder = `#!/bin/sh
conf=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME $conf" >> /var/lib/recorded
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}'
exit 0
`

func devicesOfKubelet(t *testing.T) {
	ns := namespace(t)
	n := c.Nodes[0]
	startNICs(t, n)
	if err := os.WriteFile(n.Path("/opt/cni/bin/recorder"), []byte(recorder), 0o755); err != nil {
		t.Fatal(err)
	}
	info := "/var/run/k8s.cni.cncf.io/devinfo"
	if _, err := n.Run("mkdir", "-p", info+"/dp", info+"/cni"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.Path("/run/k8s.cni.cncf.io/devinfo/dp/example.org-nic-0000:03:02.0-device.json"),
		[]byte(`{"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:03:02.0"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	apply(t, ns, strings.Replace(nad("sriov", `{"cniVersion": "1.0.0", "name": "sriov", "type": "recorder", "capabilities": {"deviceID": true, "CNIDeviceInfoFile": true}}`),
		"{name: sriov}", "{name: sriov, annotations: {k8s.v1.cni.cncf.io/resourceName: "+nicResource+"}}", 1))
	ctx := context.Background()
	eventually(t, "kubelet offers the devices", func() error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if q := node.Status.Allocatable[nicResource]; err == nil && q.Value() != 2 {
			err = fmt.Errorf("allocatable: %s", q.String())
		}
		return err
	})
	p := pod("a", n.Name, "sriov,sriov")
	two := corev1.ResourceList{nicResource: resource.MustParse("2")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: two, Requests: two}
	if _, err := c.Client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready(t, ns, "a")
	b, err := os.ReadFile(n.Path("/var/lib/recorded"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 2 {
		t.Fatal(lines)
	}
	for i, id := range []string{"0000:03:02.0", "0000:03:02.1"} { // sorted, the n-th network has the n-th
		for _, want := range []string{`"deviceID":"` + id + `"`, `"pciBusID":"` + id + `"`, `"runtimeConfig":{"CNIDeviceInfoFile":"/var/run/k8s.cni.cncf.io/devinfo/cni/`} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("lacks %s: %s", want, lines[i])
			}
		}
	}
	s := status(t, ns, "a")
	if s[1].DeviceInfo == nil || s[1].DeviceInfo.Type != "pci" || s[1].DeviceInfo.Pci.PciAddress != "0000:03:02.0" || s[2].DeviceInfo != nil {
		t.Errorf("network-status: %+v", s)
	}
	// A pod without the resource does not start.
	create(t, ns, "b", n.Name, "sriov")
	event(t, ns, "b", "FailedAttach", ns+"/sriov", nicResource, "none left")
	remove(t, ns, "b")
	remove(t, ns, "a")
	eventually(t, "no device information is left", func() error {
		left, err := n.Run("ls", info+"/cni")
		if err == nil && strings.TrimSpace(left) != "" {
			err = fmt.Errorf("%s", left)
		}
		return err
	})
	clean(t)
}
