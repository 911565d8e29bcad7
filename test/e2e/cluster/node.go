package cluster

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

//go:embed node.sh
var nodeScript string

// A Node is a machine of the cluster: Open vSwitch, containerd and kubelet at their default paths, in
// namespaces of its own. eth0 is its address, data0 and control0 lead to the other nodes.
type Node struct {
	Name       string
	Address    string
	PodNetwork string // the subnet of its cluster network
	c          *Cluster
	index      int
	disk       string
	init       *Process
	pid        atomic.Int64 // of the namespaces
	OVSDB      *Process
	Switchd    *Process
	Containerd *Process
	Kubelet    *Process
	Proxy      *Process
}

func (c *Cluster) newNode(index int) *Node {
	name := fmt.Sprintf("n%d", index)
	return &Node{Name: name, Address: fmt.Sprintf("10.77.0.%d", 10+index), PodNetwork: fmt.Sprintf("10.244.%d.0/24", index),
		c: c, index: index, disk: filepath.Join(c.Dir, name)}
}

// Boot starts the node; a node that was there before finds its disk as it was.
func (n *Node) Boot() error {
	script := filepath.Join(n.c.Dir, "node.sh")
	if err := errors.Join(os.MkdirAll(n.disk, 0o755), os.WriteFile(script, []byte(nodeScript), 0o755), makeCgroups(n.cgroup())); err != nil {
		return err
	}
	var err error
	n.init, err = start(n.log("init"), nil, "unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", script, n.Name, n.disk, n.c.bin("pause"))
	if err != nil {
		return err
	}
	err = await("namespaces of "+n.Name, n.init, 10*time.Second, func() bool {
		n.pid.Store(int64(child(n.init.Pid())))
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.pid.Load()))
		return err == nil && strings.TrimSpace(string(comm)) == "pause"
	})
	if err != nil {
		return err
	}
	for _, step := range []func() error{n.wire, n.StartOVSDB, n.StartSwitchd, n.StartContainerd, n.importImages, n.StartKubelet, n.startProxy} {
		if err := step(); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}

// Crash takes the node's power: every process, namespace and mount is gone, and /run; the disk stays.
func (n *Node) Crash() {
	n.init.Kill() // process 1 of the node goes with it, and all others with that
	for _, p := range []*Process{n.OVSDB, n.Switchd, n.Containerd, n.Kubelet, n.Proxy} {
		if p != nil {
			<-p.done
		}
	}
	removeCgroups(n.cgroup())
	for _, nic := range []string{"eth", "data", "control"} {
		_, _ = command("ip", "link", "del", n.Name+nic) // may have gone with the namespace
	}
}

// child is the one child of a process, 0 if there is none yet.
func child(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	c, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return c
}

func (n *Node) cgroup() string         { return os.Getenv(group) + "/" + n.Name }
func (n *Node) log(what string) string { return filepath.Join(n.c.Dir, "log", n.Name+"-"+what+".log") }

// Disk is where the node keeps what a reboot leaves: etc, lib, log and opt.
func (n *Node) Disk() string { return n.disk }

// Path is where a file of the node is seen from outside.
func (n *Node) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.pid.Load(), path) }

func (n *Node) target() string { return strconv.FormatInt(n.pid.Load(), 10) }

func (n *Node) enter() []string {
	return []string{"-t", n.target(), "-m", "-n", "-u", "-p", "--"}
}

// Run runs a command on the node.
func (n *Node) Run(name string, args ...string) (string, error) {
	out, err := command("nsenter", append(append(n.enter(), name), args...)...)
	if err != nil {
		return out, fmt.Errorf("on %s: %w", n.Name, err)
	}
	return out, nil
}

// start starts a server on the node.
func (n *Node) start(what string, env []string, name string, args ...string) (*Process, error) {
	args = append(append(n.enter(), name), args...)
	p, err := start(n.log(what), env, "nsenter", args...)
	if p != nil {
		p.onNode = true
	}
	return p, err
}

// wire gives the node its interfaces, each on a bridge that joins all nodes.
func (n *Node) wire() error {
	for _, nic := range []struct{ outside, inside, bridge string }{{"eth", "eth0", "ctl0"}, {"data", "data0", "fabdata"}, {"control", "control0", "fabcontrol"}} {
		if _, err := command("ip", "link", "add", n.Name+nic.outside, "type", "veth", "peer", "name", nic.inside, "netns", n.target()); err != nil {
			return err
		}
		if _, err := command("ip", "link", "set", n.Name+nic.outside, "master", nic.bridge, "up"); err != nil {
			return err
		}
		if _, err := n.Run("ip", "link", "set", nic.inside, "up"); err != nil {
			return err
		}
		// The userspace datapath reads these as they are: without checksums TCP stalls.
		if _, err := n.Run("ethtool", "-K", nic.inside, "tx", "off"); err != nil {
			return err
		}
	}
	if _, err := n.Run("ip", "addr", "add", n.Address+"/24", "dev", "eth0"); err != nil {
		return err
	}
	if _, err := n.Run("ip", "route", "add", "default", "via", controlIP); err != nil {
		return err
	}
	for _, peer := range n.c.Nodes {
		if peer != n {
			if _, err := n.Run("ip", "route", "add", peer.PodNetwork, "via", peer.Address); err != nil {
				return err
			}
		}
	}
	return nil
}

// StartOVSDB starts ovsdb-server, again after StopNow.
func (n *Node) StartOVSDB() (err error) {
	if _, err := os.Stat(n.Path("/var/lib/openvswitch/conf.db")); err != nil {
		if _, err := n.Run("ovsdb-tool", "create", "/var/lib/openvswitch/conf.db", "/usr/share/openvswitch/vswitch.ovsschema"); err != nil {
			return err
		}
	}
	n.OVSDB, err = n.start("ovsdb-server", nil, "ovsdb-server", "/var/lib/openvswitch/conf.db", "--remote=punix:/run/openvswitch/db.sock", "-vconsole:warn")
	if err != nil {
		return err
	}
	return await("ovsdb-server", n.OVSDB, 10*time.Second, func() bool { _, err := n.Run("ovs-vsctl", "--no-wait", "init"); return err == nil })
}

// StartSwitchd starts ovs-vswitchd, again after StopNow.
func (n *Node) StartSwitchd() (err error) {
	n.Switchd, err = n.start("ovs-vswitchd", nil, "ovs-vswitchd", "unix:/run/openvswitch/db.sock", "-vconsole:warn")
	return err
}

const containerdConfig = `version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'e2e.invalid/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/opt/cni/bin']
  # Pods of this handler have the reference plugins alone: what Patchbay is measured against.
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.reference]
    runtime_type = 'io.containerd.runc.v2'
    cni_conf_dir = '/etc/cni/reference.d'
    cni_max_conf_num = 1
[plugins.'io.containerd.internal.v1.opt']
  path = '/var/lib/containerd/opt'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
`

// clusterNetwork is a node's network for eth0, made of the reference plugins.
func (n *Node) clusterNetwork() string {
	return `{"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + n.PodNetwork + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`
}

// StartContainerd starts containerd, again after StopNow.
func (n *Node) StartContainerd() (err error) {
	if err := os.WriteFile(n.Path("/etc/containerd/config.toml"), []byte(containerdConfig), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(n.Path("/etc/cni/net.d/10-cluster.conflist"), []byte(n.clusterNetwork()), 0o600); err != nil {
		return err
	}
	reference := strings.NewReplacer("cluster", "reference", "cni0", "ref0", "10.244.", "10.245.").Replace(n.clusterNetwork())
	if err := os.MkdirAll(n.Path("/etc/cni/reference.d"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(n.Path("/etc/cni/reference.d/10-reference.conflist"), []byte(reference), 0o600); err != nil {
		return err
	}
	n.Containerd, err = n.start("containerd", []string{"PATH=" + n.c.Bin + ":" + os.Getenv("PATH")}, n.c.bin("containerd"))
	if err != nil {
		return err
	}
	return await("containerd", n.Containerd, 20*time.Second, func() bool { _, err := n.Run(n.c.bin("ctr"), "version"); return err == nil })
}

// importImages gives containerd the images.
func (n *Node) importImages() error {
	for _, tar := range n.c.images {
		if _, err := n.Run(n.c.bin("ctr"), "-n", "k8s.io", "images", "import", tar); err != nil {
			return err
		}
	}
	return nil
}

// StartKubelet starts kubelet, again after StopNow.
func (n *Node) StartKubelet() (err error) {
	config := strings.NewReplacer("ADDRESS", n.Address, "CGROUP", "/"+n.cgroup()).Replace(kubeletConfig)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		config = strings.ReplaceAll(config, "failCgroupV1: false\n", "")
	}
	if err := os.WriteFile(n.Path("/var/lib/kubelet/config.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(n.Path("/var/lib/kubelet/resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	for begin := time.Now(); ; time.Sleep(time.Second) { // it ends if containerd is not ready; systemd would start it again
		n.Kubelet, err = n.start("kubelet", nil, n.c.bin("kubelet"), "--config=/var/lib/kubelet/config.yaml", "--kubeconfig="+n.c.kubeconfig(n.Name),
			"--hostname-override="+n.Name, "--node-ip="+n.Address, "--v=1")
		if err != nil {
			return err
		}
		if err = await("kubelet", n.Kubelet, time.Minute, n.kubeletListens); err == nil || !n.Kubelet.ended() || time.Since(begin) > time.Minute {
			return err
		}
	}
}

func (n *Node) kubeletListens() bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(n.Address, "10250"), time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ADDRESS
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: CGROUP
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: /var/lib/kubelet/resolv.conf
staticPodPath: /etc/kubernetes/manifests
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: "10Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 2s
syncFrequency: 5s
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
`

func (n *Node) startProxy() (err error) {
	n.Proxy, err = n.start("kube-proxy", nil, n.c.bin("kube-proxy"), proxyArgs(n.c.kubeconfig("admin"), n.Name)...)
	return err
}

func proxyArgs(kubeconfig, name string) []string {
	return []string{"--kubeconfig=" + kubeconfig, "--hostname-override=" + name,
		"--proxy-mode=nftables", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		"--cluster-cidr=10.244.0.0/16", "--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256"}
}

// StopNow kills a server of the node.
func (n *Node) StopNow(p *Process) {
	if pid := p.server(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.done
}
