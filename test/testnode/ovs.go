package testnode

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An OVS is a private Open vSwitch: ovsdb-server and ovs-vswitchd with the userspace datapath.
type OVS struct {
	Dir     string
	DB      string // the endpoint: unix:...
	server  *Process
	switchd *Process
}

// StartOVS starts Open vSwitch; only one can run in a network namespace.
func StartOVS(t testing.TB) *OVS {
	t.Helper()
	dir := ShortDir(t)
	o := &OVS{Dir: dir, DB: "unix:" + filepath.Join(dir, "db.sock")}
	run(t, "ovsdb-tool", "create", filepath.Join(dir, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema")
	o.StartServer(t)
	run(t, "ovs-vsctl", "--db="+o.DB, "--no-wait", "init")
	o.StartSwitch(t)
	t.Cleanup(func() {
		o.switchd.Stop()
		o.server.Stop()
	})
	return o
}

// StartServer starts ovsdb-server, again after StopServer.
func (o *OVS) StartServer(t testing.TB) {
	t.Helper()
	o.server = Start(t, filepath.Join(o.Dir, "ovsdb-server.log"), nil, "ovsdb-server", filepath.Join(o.Dir, "conf.db"),
		"--remote=p"+o.DB, "--unixctl="+filepath.Join(o.Dir, "db.ctl"), "-vconsole:warn")
	Eventually(t, "ovsdb-server listens", func() bool { return exec.Command("ovs-vsctl", "--db="+o.DB, "--no-wait", "show").Run() == nil })
}

// StopServer kills ovsdb-server.
func (o *OVS) StopServer() { o.server.Kill() }

// StartSwitch starts ovs-vswitchd, again after StopSwitch.
func (o *OVS) StartSwitch(t testing.TB) {
	t.Helper()
	o.switchd = Start(t, filepath.Join(o.Dir, "ovs-vswitchd.log"), []string{"OVS_RUNDIR=" + o.Dir}, "ovs-vswitchd", o.DB,
		"--unixctl="+filepath.Join(o.Dir, "vswitchd.ctl"), "--pidfile="+filepath.Join(o.Dir, "ovs-vswitchd.pid"), "-vconsole:err")
	run(t, "ovs-vsctl", "--db="+o.DB, "show")
}

// StopSwitch kills ovs-vswitchd.
func (o *OVS) StopSwitch() { o.switchd.Kill() }

// EndSwitch has ovs-vswitchd end by itself.
func (o *OVS) EndSwitch(t testing.TB) {
	t.Helper()
	run(t, "ovs-appctl", "-t", filepath.Join(o.Dir, "vswitchd.ctl"), "exit")
	o.switchd.Stop()
}

// FreezeServer has ovsdb-server do nothing until it is thawed.
func (o *OVS) FreezeServer() (thaw func()) {
	o.server.Signal(syscall.SIGSTOP)
	return func() { o.server.Signal(syscall.SIGCONT) }
}

// FreezeSwitch stops ovs-vswitchd where it is, until the function it returns is called.
func (o *OVS) FreezeSwitch() (thaw func()) {
	o.switchd.Signal(syscall.SIGSTOP)
	return func() { o.switchd.Signal(syscall.SIGCONT) }
}

// Vsctl runs ovs-vsctl and returns its output.
func (o *OVS) Vsctl(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "ovs-vsctl", append([]string{"--db=" + o.DB, "--timeout=10"}, args...)...)
}

// Ports returns the names of our ports.
func (o *OVS) Ports(t testing.TB) []string {
	t.Helper()
	return strings.Fields(o.Vsctl(t, "--bare", "--columns=name", "find", "port", `external_ids:patchbay-sandbox!=""`))
}

// ShortDir is t.TempDir with a path short enough for unix sockets.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Eventually waits for cond, for what can't be waited for otherwise. Its bound is for what never comes, and
// much longer than a loaded machine takes for what does.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An Etcd is a real etcd in a process of its own.
type Etcd struct {
	Endpoint string
	Args     []string // further arguments, for the next Start
	dir      string
	process  *Process
}

// StartEtcd starts Debian's etcd, on loopback.
func StartEtcd(t testing.TB, dir string) *Etcd {
	t.Helper()
	e := &Etcd{Endpoint: "http://127.0.0.1:2379", dir: dir}
	e.Start(t)
	t.Cleanup(e.Stop)
	return e
}

// Start starts it again after Stop.
func (e *Etcd) Start(t testing.TB) {
	t.Helper()
	e.process = Start(t, filepath.Join(e.dir, "etcd.log"), nil, "etcd", append([]string{"--data-dir=" + e.dir + "/data", "--listen-client-urls=" + e.Endpoint,
		"--advertise-client-urls=" + e.Endpoint, "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=error"}, e.Args...)...)
	Eventually(t, "etcd answers", func() bool {
		return exec.Command("etcdctl", "--endpoints", e.Endpoint, "endpoint", "health").Run() == nil
	})
}

// Stop ends it.
func (e *Etcd) Stop() { e.process.Stop() }

// Data is the directory of its data.
func (e *Etcd) Data() string { return e.dir + "/data" }
