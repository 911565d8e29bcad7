// Package sandbox makes pods without Kubernetes: a network namespace each, for which it calls the
// plugin through libcni as a container runtime does.
package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/patchbay-cni/patchbay/meta"
)

// annotations is the capability by which a runtime hands over a pod's annotations.
const annotations = "io.kubernetes.cri.pod-annotations"

// A Runtime stands in for the container runtime.
type Runtime struct {
	StateDir string // remembers the sandboxes; made 0700
	BinDirs  []string
	NetConf  []byte // the network configuration list, as in /etc/cni/net.d
}

// A Sandbox is a pod that runs.
type Sandbox struct {
	ContainerID string            `json:"containerID"`
	Netns       string            `json:"netns"`
	Namespace   string            `json:"namespace"`
	Pod         string            `json:"pod"`
	UID         string            `json:"uid"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Run makes the namespace and calls ADD; when that fails it calls DEL and removes the namespace.
func (r *Runtime) Run(ctx context.Context, pod meta.Pod) (*Sandbox, error) {
	if _, err := os.Stat(r.file(pod.Namespace, pod.Name)); err == nil {
		return nil, fmt.Errorf("pod %s/%s runs already; patchctl sandbox rm %s -n %s ends it", pod.Namespace, pod.Name, pod.Name, pod.Namespace)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	uid := cmp.Or(pod.UID, fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]))
	s := &Sandbox{ContainerID: hex.EncodeToString(id), Namespace: pod.Namespace, Pod: pod.Name, UID: uid, Annotations: pod.Annotations}
	name := "patchbay-" + s.ContainerID[:12]
	s.Netns = filepath.Join("/run/netns", name)
	if err := newNetns(name); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	if err := r.save(s); err != nil {
		return nil, errors.Join(err, netns.DeleteNamed(name))
	}
	if _, err := r.Add(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err), r.Remove(context.WithoutCancel(ctx), pod.Namespace, pod.Name))
	}
	return s, nil
}

// Remove calls DEL and removes the namespace. A failed DEL leaves both, so that it can be repeated.
func (r *Runtime) Remove(ctx context.Context, namespace, pod string) error {
	s, err := r.Find(namespace, pod)
	if err != nil {
		return err
	}
	if err := r.Del(ctx, s); err != nil {
		return fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	if err := netns.DeleteNamed(filepath.Base(s.Netns)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(r.file(namespace, pod))
}

// Find returns a pod that runs.
func (r *Runtime) Find(namespace, pod string) (*Sandbox, error) {
	b, err := os.ReadFile(r.file(namespace, pod))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pod %s/%s does not run here (nothing in %s)", namespace, pod, r.StateDir)
	}
	if err != nil {
		return nil, err
	}
	var s Sandbox
	return &s, json.Unmarshal(b, &s)
}

// Add calls ADD and returns the plugin's result.
func (r *Runtime) Add(ctx context.Context, s *Sandbox) (res types.Result, err error) {
	err = r.call(ctx, s, func(c *libcni.CNIConfig, ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (err error) {
		res, err = c.AddNetworkList(ctx, list, rt)
		return err
	})
	return res, err
}

// Del calls DEL.
func (r *Runtime) Del(ctx context.Context, s *Sandbox) error {
	return r.call(ctx, s, (*libcni.CNIConfig).DelNetworkList)
}

// Check calls CHECK.
func (r *Runtime) Check(ctx context.Context, s *Sandbox) error {
	return r.call(ctx, s, (*libcni.CNIConfig).CheckNetworkList)
}

// GC calls GC with these sandboxes as the only ones that are valid.
func (r *Runtime) GC(ctx context.Context, valid ...*Sandbox) error {
	args := &libcni.GCArgs{}
	for _, s := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: s.ContainerID, IfName: "eth0"})
	}
	list, err := libcni.NetworkConfFromBytes(r.NetConf)
	if err != nil {
		return err
	}
	return r.plugins().GCNetworkList(ctx, list, args)
}

// A verb is one of libcni's that calls the plugin for a sandbox.
type verb = func(*libcni.CNIConfig, context.Context, *libcni.NetworkConfigList, *libcni.RuntimeConf) error

func (r *Runtime) call(ctx context.Context, s *Sandbox, verb verb) error {
	list, err := libcni.NetworkConfFromBytes(r.NetConf)
	if err != nil {
		return err
	}
	rt := &libcni.RuntimeConf{ContainerID: s.ContainerID, NetNS: s.Netns, IfName: "eth0", CapabilityArgs: map[string]any{},
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", s.Namespace}, {"K8S_POD_NAME", s.Pod},
			{"K8S_POD_INFRA_CONTAINER_ID", s.ContainerID}, {"K8S_POD_UID", s.UID}}}
	if s.Annotations != nil {
		rt.CapabilityArgs[annotations] = s.Annotations
	}
	return verb(r.plugins(), ctx, list, rt)
}

func (r *Runtime) plugins() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(r.BinDirs, filepath.Join(r.StateDir, "cache"), nil)
}

func (r *Runtime) file(namespace, pod string) string {
	return filepath.Join(r.StateDir, namespace+"_"+pod+".json")
}

func (r *Runtime) save(s *Sandbox) error {
	if err := os.MkdirAll(r.StateDir, 0o700); err != nil {
		return err
	}
	b, _ := json.Marshal(s) // texts always marshal
	return os.WriteFile(r.file(s.Namespace, s.Pod), b, 0o600)
}

// newNetns makes a named namespace with its loopback up and comes back to the caller's.
func newNetns(name string) error {
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer back.Close()
	ns, err := netns.NewNamed(name) // the thread is in it now
	if err == nil {
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
		}
		err = errors.Join(err, ns.Close())
	}
	if setErr := netns.Set(back); setErr != nil {
		return setErr // the thread stays locked and dies with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}
