// Package bench measures Patchbay against the floor: the same kernel, Open vSwitch and etcd
// operations called directly, in the same run, on the same bridge and etcd. make bench runs it.
package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

const manifests = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: data}
spec:
  config: '{"cniVersion": "1.1.0", "name": "data", "type": "patchbay-ovs", "network": "data",
    "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/8", "subnetLen": 16, "cooldown": "0s"}}'
---
apiVersion: v1
kind: Pod
metadata: {name: one, annotations: {k8s.v1.cni.cncf.io/networks: data}}
---
apiVersion: v1
kind: Pod
metadata: {name: three, annotations: {k8s.v1.cni.cncf.io/networks: "data,data,data"}}
---
apiVersion: v1
kind: Pod
metadata: {name: host, annotations: {}}
`

const rounds = 200

// BenchmarkNode runs once, whatever -benchtime says.
func BenchmarkNode(b *testing.B) {
	n := testnode.New(b, testnode.Config{Manifests: map[string]string{"bench.yaml": manifests}, Set: []string{"log.level=info", "gc.interval=60s"}})
	r := newReport()
	f := newFloor(b, n)
	s := &shim{b: b, n: n}

	benchShim(b, n, r)
	benchSmall(b, n, r, f, s, 0)
	benchDelete(b, r, f, s)
	benchHot(b, n, r, f)
	benchMany(b, r, f, s, 0)
	benchIdle(b, n, r)
	fill(b, n, 500)
	r.rss(b, "daemon RSS with embedded etcd and 500 attachments", n.Daemon.Pid())
	benchSmall(b, n, r, f, s, 500)
	r.compare("ADD of 1 NIC at 500 ports: extra over 0 ports, to the floor's own extra",
		r.p50["ADD 1 NIC, 500 ports"]-r.p50["ADD 1 NIC"], r.p50["floor: all, 500 ports"]-r.p50["floor: all"], 1)
	benchMany(b, r, f, s, 500)
	r.stages(b, n)
	r.print(b)
}

// benchShim compares the shim with an empty Go program that makes the same call.
func benchShim(b *testing.B, n *testnode.Node, r *report) {
	socket := filepath.Join(n.Dir, "echo.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"cniVersion":"1.1.0"}`) })}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	bare := build(b, "httpcall")
	shim := filepath.Join(testnode.Bin(), "patchbay")
	conf := `{"cniVersion":"1.1.0","name":"p","type":"patchbay","socket":"` + socket + `"}`
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0"}
	for range rounds {
		r.time("exec: Go program with one HTTP call", func() { runProgram(b, conf, nil, bare, socket) })
		r.time("exec: shim, against the same server", func() { runProgram(b, conf, env, shim) })
	}
	r.ratio("shim to a Go program that makes the same HTTP call", "exec: shim, against the same server", "exec: Go program with one HTTP call", 1.5)
}

// benchSmall measures ADD and DEL of small pods next to the floor, in turn.
func benchSmall(b *testing.B, n *testnode.Node, r *report, f *floor, s *shim, ports int) {
	suffix := ""
	count := rounds
	if ports > 0 {
		suffix, count = fmt.Sprintf(", %d ports", ports), 40
	}
	empty := build(b, "empty")
	id := fmt.Sprintf("p%d", ports)
	ns := testnode.Netns(b, id)
	for range count {
		settle()
		f.measure(r, suffix, func() { runProgram(b, "", nil, empty) })
		for _, pod := range []struct{ name, what string }{{"one", "1 NIC"}, {"three", "3 NICs"}} {
			settle()
			r.time("ADD "+pod.what+suffix, func() { s.call("ADD", id, ns, pod.name) })
			settle()
			r.time("DEL "+pod.what+suffix, func() { s.call("DEL", id, ns, pod.name) })
		}
	}
	if ports == 0 {
		r.ratio("ADD of 1 NIC to the floor's sum", "ADD 1 NIC", "floor: all", 1.5)
		r.ratio("ADD of 3 NICs to ADD of 1 NIC", "ADD 3 NICs", "ADD 1 NIC", 2)
	}
}

// benchDelete compares DEL with one grouped link deletion.
func benchDelete(b *testing.B, r *report, f *floor, s *shim) {
	ns := testnode.Netns(b, "d")
	for range rounds {
		f.groupedDelete(r)
		s.call("ADD", "d", ns, "three")
		settle()
		r.time("DEL 3 NICs, next to the grouped deletion", func() { s.call("DEL", "d", ns, "three") })
	}
	r.ratio("DEL of 3 NICs to one grouped link deletion", "DEL 3 NICs, next to the grouped deletion", "floor: grouped deletion of 3 links", 1.3)
}

// benchHot measures attach and detach over REST next to the floor without exec.
func benchHot(b *testing.B, n *testnode.Node, r *report, f *floor) {
	s := &shim{b: b, n: n}
	ns := testnode.Netns(b, "hot")
	s.call("ADD", "hot", ns, "host")
	ctx := context.Background()
	for range rounds {
		settle()
		f.measure(r, " (hot)", func() {})
		settle()
		r.time("hot attach over REST", func() {
			if _, err := n.Client.Attach(ctx, "default", "host", client.Request{Network: "data", Interface: "h0"}); err != nil {
				b.Fatal(err)
			}
		})
		settle()
		r.time("hot detach over REST", func() {
			if err := n.Client.Detach(ctx, "default", "host", "h0"); err != nil {
				b.Fatal(err)
			}
		})
	}
	s.call("DEL", "hot", ns, "host")
	r.ratio("hot attach over REST to the floor without exec", "hot attach over REST", "floor: all (hot)", 1.3)
}

// benchMany adds 64 pods of 3 NICs at once, and the same one after another with a transaction each.
func benchMany(b *testing.B, r *report, f *floor, s *shim, ports int) {
	const pods = 64
	sequential := f.sequential(pods, 3)
	paths := make([]string, pods)
	for i := range pods {
		paths[i] = testnode.Netns(b, fmt.Sprintf("m%d", i))
	}
	each := func(command string) time.Duration {
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() { s.call(command, fmt.Sprintf("m%d", i), paths[i], "three") })
		}
		wg.Wait()
		return time.Since(begin)
	}
	add := each("ADD")
	del := each("DEL")
	for i := range pods {
		testnode.Sh(b, "ip", "netns", "del", fmt.Sprintf("m%d", i))
	}
	r.note("64 pods x 3 NICs at once, %d ports on the bridge before: ADD %s (%.0f pods/s), DEL %s; one after another, a transaction each: %s (%.0f pods/s)",
		ports, add.Round(time.Millisecond), pods/add.Seconds(), del.Round(time.Millisecond), sequential.Round(time.Millisecond), pods/sequential.Seconds())
	r.atLeast(fmt.Sprintf("throughput of 64 pods at once to one after another, %d ports", ports), sequential.Seconds()/add.Seconds(), 3)
}

func benchIdle(b *testing.B, n *testnode.Node, r *report) {
	const quiet = 10 * time.Second
	time.Sleep(time.Second) // what the steps before have left ends; an idle daemon tells nothing
	before := cpu(b, n.Daemon.Pid())
	time.Sleep(quiet)
	used := cpu(b, n.Daemon.Pid()) - before
	r.atMost("idle CPU of the daemon, percent", 100*used.Seconds()/quiet.Seconds(), 1)
	r.note("CPU time of the daemon so far: %s", before.Round(10*time.Millisecond))
}

// fill attaches NICs to a few pods until the bridge has so many ports.
func fill(b *testing.B, n *testnode.Node, ports int) {
	s := &shim{b: b, n: n}
	const each = 20
	var wg sync.WaitGroup
	for i := range ports / each {
		id := fmt.Sprintf("f%d", i)
		ns := testnode.Netns(b, id)
		n.Write(b, id+".yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: "+id+", annotations: {k8s.v1.cni.cncf.io/networks: \""+strings.Repeat("data,", each-1)+"data\"}}\n")
		wg.Go(func() { s.call("ADD", id, ns, id) })
	}
	wg.Wait()
}

// A shim calls the plugin as a runtime does, without a library in between.
type shim struct {
	b *testing.B
	n *testnode.Node
}

func (s *shim) call(command, id, ns, pod string) {
	conf := `{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay","socket":"` + s.n.CNI + `"}`
	runProgram(s.b, conf, []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + testnode.Bin(),
		"CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod}, filepath.Join(testnode.Bin(), "patchbay"))
}

func runProgram(b *testing.B, stdin string, env []string, name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = env
	if env == nil {
		cmd.Env = os.Environ()
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Errorf("%s %v: %v\n%s", name, env, err, out)
	}
}

func build(b *testing.B, name string) string {
	_, self, _, _ := runtime.Caller(0)
	out := filepath.Join("/run", name)
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, "./"+name)
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v\n%s", name, err, text)
	}
	return out
}

// settle lets ovs-vswitchd and the kernel finish what the last step has left them, so that each
// measured step finds the machine at rest.
func settle() { time.Sleep(50 * time.Millisecond) }

func etcdClient(b *testing.B, n *testnode.Node) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + n.Dir + "/state/etcd.sock"}, Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}
