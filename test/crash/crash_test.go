// Package crash has patchbayd fail at every step of what it does: it is killed there, panics, or gets an error,
// while etcd and Open vSwitch are well, or not.
package crash

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

var (
	rounds = flag.Int("crash.rounds", 0, "how often every point of every operation is come to; 0: once in one of the operations")
	seed   = flag.Uint64("crash.seed", 0, "of what is random; 0: another one each time")
	only   = flag.String("crash.only", "", "the one point")
)

// told is a network of a plugin that is told of a GC, as those of CNI 1.1.0 are. It makes nothing.
const told = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: told}
spec: {config: '{"cniVersion": "1.1.0", "name": "told", "type": "told"}'}
`

const toldPlugin = "#!/bin/sh\n[ \"$CNI_COMMAND\" != ADD ] || echo '{\"cniVersion\": \"1.1.0\"}'\n"

func TestMain(m *testing.M) { testnode.MainInParts(m, 3) }

// killOnly are the points at which nothing can fail but the daemon, and why.
var killOnly = map[string]string{
	"undo-begin":  "a roll-back has no step before its first one: what is recorded waits for DEL, or the next start",
	"undo-unmade": "the step after it is etcd's, whose own failures are etcd-commit and store-save",
}

// TestKilledAtEveryStep looks which failpoints each operation comes to, and then kills the daemon with SIGKILL at
// each of them, starts it again, and compares the node with what it was.
func TestKilledAtEveryStep(t *testing.T) {
	c := newCrash(t)
	c.everywhere("kill")
	c.report()
}

// TestErrorsAtEveryStep is the same with errors, which must be undone and told.
func TestErrorsAtEveryStep(t *testing.T) {
	c := newCrash(t)
	c.everywhere("error")
	c.report()
}

// TestTroubleAtTheSameMoment kills the daemon, twice, while etcd or Open vSwitch is slow, cut off, hangs or is
// stopped.
func TestTroubleAtTheSameMoment(t *testing.T) {
	c := newCrash(t)
	c.somewhere(6, func(point string) string { return fmt.Sprintf("%s=kill@%d", point, 1+c.rand.IntN(2)) }, "kill", c.trouble())
	c.report()
}

// TestFailuresAtEveryWriteToTheAPIServer is all of that at the points that need an API server.
func TestFailuresAtEveryWriteToTheAPIServer(t *testing.T) {
	c := newClusterCrash(t)
	for _, action := range []string{"kill", "error", "panic"} {
		c.everywhere(action)
	}
	c.report()
}

// TestPanicsAtSomeSteps is the same with panics, which the servers survive.
func TestPanicsAtSomeSteps(t *testing.T) {
	c := newCrash(t)
	c.somewhere(30, func(point string) string { return point + "=panic@1" }, "panic", nil)
	c.report()
}

// A crash is a node whose daemon fails at a point, once that is armed.
type crash struct {
	*testnode.Node
	t          *testing.T
	operations []operation
	api        *testnode.APIServer // nil: there is none
	etcd       *testnode.Etcd
	toEtcd     *testnode.Proxy
	toOVS      *testnode.Proxy
	ovs        *testnode.OVS
	dir        string
	env        []string // of the daemon
	arming     string   // the file that arms points
	tracing    string   // the file of points that were come to
	rand       *rand.Rand
	empty      []string            // the snapshot of the empty node
	reached    map[string][]string // points by operation
	points     []string            // those that the operations are to come to
	results    map[string]int
	failures   int
	converged  time.Duration // the longest time from a kill until the daemon answered again

	// Of the operation that goes on:
	s          *sandbox.Sandbox
	namespaces []string
	addErr     error
	action     string
	troubled   bool
	serial     int
}

func newCrash(t *testing.T) *crash {
	t.Helper()
	c := makeCrash(t, operations)
	c.startNode()
	c.begin(func(point string) bool { return !strings.HasPrefix(point, kubePoint) })
	return c
}

func (c *crash) startNode() {
	c.t.Helper()
	c.Node = testnode.New(c.t, testnode.Config{OVS: c.ovs, Set: c.settings(), Manifests: map[string]string{"networks.yaml": testnode.Networks, "told.yaml": told}})
}

// newClusterCrash is a node that has an API server. It is another one as a sandbox is not gone there, without a runtime
// to confirm it, before 15 minutes.
func newClusterCrash(t *testing.T) *crash {
	t.Helper()
	c := makeCrash(t, clusterOperations)
	c.api = testnode.NewAPIServer(t)
	c.api.Apply(t, testnode.Networks)
	c.Node = testnode.New(t, testnode.Config{OVS: c.ovs, Set: append(c.settings(), "kubernetes.enabled=true", "kubernetes.kubeconfig="+c.api.Kubeconfig)})
	c.begin(func(point string) bool { return strings.HasPrefix(point, kubePoint) })
	return c
}

// kubePoint is what the names of points begin with that need an API server.
const kubePoint = "kube-"

// makeCrash makes what a node is to have.
func makeCrash(t *testing.T, ops []operation) *crash {
	t.Helper()
	number := *seed
	if number == 0 {
		number = rand.Uint64()
	}
	t.Logf("-crash.seed %d", number)
	dir := testnode.ShortDir(t)
	c := &crash{t: t, dir: dir, operations: ops, arming: dir + "/armed", tracing: dir + "/trace", rand: rand.New(rand.NewPCG(number, 0)),
		reached: map[string][]string{}, results: map[string]int{}, etcd: testnode.StartEtcd(t, dir), ovs: testnode.StartOVS(t)}
	c.toEtcd = testnode.StartProxy(t, "tcp", "127.0.0.1:0", strings.TrimPrefix(c.etcd.Endpoint, "http://"))
	c.toOVS = testnode.StartProxy(t, "unix", dir+"/ovs", strings.TrimPrefix(c.ovs.DB, "unix:"))
	testnode.Lan(t)
	if err := os.WriteFile(dir+"/told", []byte(toldPlugin), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// settings lead the daemon to its servers through the proxies.
func (c *crash) settings() []string {
	return []string{"etcd.endpoints=[http://" + c.toEtcd.Addr() + "]", "ovs.db=unix:" + c.dir + "/ovs",
		"meta.cniBinDirs=[" + c.dir + "," + testnode.Bin() + "," + testnode.PluginDirs + "]"}
}

// begin starts the daemon so that its points can be armed, and looks which of them the operations come to.
func (c *crash) begin(mine func(point string) bool) {
	c.t.Helper()
	out, err := exec.Command(filepath.Join(testnode.Bin(), "patchbayd"), "--list-failpoints").Output()
	if err != nil {
		c.t.Fatal(err)
	}
	all := strings.Fields(string(out))
	if len(all) < 60 {
		c.t.Fatalf("failpoints: %v", all)
	}
	c.points = slices.DeleteFunc(all, func(p string) bool { return !mine(p) })
	if len(c.points) > 0 {
		c.env = []string{"PATCHBAY_FAILPOINTS_FILE=" + c.arming, "PATCHBAY_FAILPOINTS_TRACE=" + c.tracing}
	}
	c.Daemon.Stop()
	c.Start(c.t, c.env...)
	for _, op := range c.operations { // once, so that pools, subnets and bridges are there
		c.try(op, "", nil)
	}
	c.empty = c.snapshot(c.t)
	c.discover()
}

// discover notes which points each operation comes to.
func (c *crash) discover() {
	c.t.Helper()
	seen := map[string]bool{}
	for _, op := range c.operations {
		c.try(op, "", nil)
		c.reached[op.name] = c.trace()
		for _, p := range c.reached[op.name] {
			seen[p] = true
		}
	}
	for _, p := range c.points {
		if !seen[p] {
			c.t.Errorf("no operation came to failpoint %s", p)
		}
	}
}

// trace are the points that were come to since the operation was armed, without repetitions.
func (c *crash) trace() []string {
	b, _ := os.ReadFile(c.tracing) // none was come to if it is not there
	return slices.Compact(slices.Sorted(slices.Values(strings.Fields(string(b)))))
}

// everywhere tries each point in one of the operations that come to it; with rounds, in each of them, so often.
func (c *crash) everywhere(action string) {
	for _, point := range c.points {
		armed := point + "=" + action + "@1"
		var ops []operation
		for _, op := range c.operations {
			if slices.Contains(c.reached[op.name], point) {
				ops = append(ops, op)
			}
		}
		if len(ops) == 0 || *only != "" && *only != point || action == "error" && killOnly[point] != "" {
			continue
		}
		if *rounds == 0 {
			c.pair(trial{op: ops[c.rand.IntN(len(ops))], armed: armed, action: action})
		}
		for range *rounds {
			for _, op := range ops {
				c.pair(trial{op: op, armed: armed, action: action})
			}
		}
	}
}

// somewhere tries some pairs of an operation and a point that it comes to; with rounds, so many times as many.
func (c *crash) somewhere(n int, arm func(point string) string, action string, trouble func() (over func())) {
	ops := slices.DeleteFunc(slices.Clone(c.operations), func(op operation) bool {
		return len(c.reached[op.name]) == 0 || trouble != nil && op.switched
	})
	for range n * max(1, *rounds) {
		op := ops[c.rand.IntN(len(ops))]
		points := c.reached[op.name]
		c.pair(trial{op: op, armed: arm(points[c.rand.IntN(len(points))]), action: action, trouble: trouble})
	}
}

// A trial is an operation that something is done to.
type trial struct {
	op      operation
	name    string // of what is done; empty: it is what is armed
	armed   string // points, with what they do
	action  string
	trouble func() (over func()) // nil: none
}

func (c *crash) pair(tr trial) {
	outer := c.t
	defer func() { c.t = outer }()
	ok := outer.Run(strings.ReplaceAll(tr.op.name, " ", "_")+"/"+cmp.Or(tr.name, tr.armed), func(t *testing.T) {
		c.t, c.action = t, tr.action
		c.try(tr.op, tr.armed, tr.trouble)
		if diff := difference(c.empty, c.snapshot(t)); len(diff) > 0 {
			t.Errorf("the node is not as it was:\n%s", strings.Join(diff, "\n"))
		}
		if threads := c.foreign(); len(threads) > 0 {
			t.Errorf("threads in other network namespaces: %v", threads)
		}
	})
	c.results[tr.op.name+"\t"+tr.action]++
	if !ok {
		c.failures++
	}
}

// try plays an operation with points armed, from an empty node to an empty node.
func (c *crash) try(op operation, armed string, trouble func() (over func())) {
	c.t.Helper()
	c.s, c.addErr = nil, nil
	c.revive() // what failed before may have left it dead
	op.prepare(c)
	_ = os.Remove(c.tracing)
	over := func() {}
	if c.troubled = trouble != nil; c.troubled {
		over = sync.OnceFunc(trouble())
		defer over() // what fails leaves none for those after it
	}
	c.arm(armed)
	begin := time.Now()
	op.do(c)
	c.launch()
	if c.arm(""); time.Since(begin) > 100*time.Second { // I7
		c.t.Errorf("it took %s", time.Since(begin))
	}
	over()
	c.revive()
	c.settle()
	op.end(c)
	c.revive()
	c.removeNamespaces()
	c.quiet()
	c.AssertEmpty(c.t)
}

// arm makes points do what the text says, from now on.
func (c *crash) arm(text string) {
	c.t.Helper()
	if err := os.WriteFile(c.arming+".new", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.arming+".new", c.arming); err != nil {
		c.t.Fatal(err)
	}
}

// dead reports whether the daemon has ended.
func (c *crash) dead() bool {
	select {
	case <-c.Daemon.Done():
		return true
	default:
		return false
	}
}

// launch starts a daemon that has ended. Points stay armed if they are for a later hit.
func (c *crash) launch() {
	c.t.Helper()
	if c.dead() {
		c.Launch(c.t, c.env...)
	}
}

// revive starts a daemon that has ended, with nothing armed, and waits until it answers.
func (c *crash) revive() {
	c.t.Helper()
	c.arm("")
	begin, answers := time.Now(), false
	for !answers {
		c.launch()
		answers = c.Alive(c.t)
	}
	c.converged = max(c.converged, time.Since(begin))
}

// settle waits until the bridges, the rules and etcd are as they should be: what failed is tried again every second.
func (c *crash) settle() {
	c.t.Helper()
	testnode.Eventually(c.t, "etcd, the rules and the bridges are well", func() bool {
		findings, err := c.Client.Doctor(context.Background())
		return err == nil && !slices.ContainsFunc(findings, func(f client.Finding) bool {
			return !f.OK && (strings.HasPrefix(f.Check, "bridge") || slices.Contains([]string{"openvswitch", "etcd", "shield"}, f.Check))
		})
	})
}

// await waits until something is, or the daemon has ended. In trouble it waits for some seconds only: that it comes about
// once the trouble is over is for the operation's end to see.
func (c *crash) await(is func() bool) {
	c.t.Helper()
	begin := time.Now()
	testnode.Eventually(c.t, "what the operation is to bring about", func() bool {
		if b, err := os.ReadFile(c.arming); err == nil && strings.Contains(string(b), "=error") && slices.Contains(c.trace(), strings.Split(string(b), "=")[0]) {
			return true // it is for the operation's end to see that it is tried again
		}
		return c.dead() || is() || c.troubled && time.Since(begin) > 5*time.Second
	})
}

// quiet waits until nothing is left of any sandbox: GC does what nobody asked for.
func (c *crash) quiet() {
	c.t.Helper()
	testnode.Eventually(c.t, "no sandbox is left", func() bool { return len(c.sandboxes()) == 0 })
	testnode.Eventually(c.t, "no port or link is left", func() bool {
		l, err := c.Client.Leftovers(context.Background())
		return err == nil && len(l) == 0 && len(c.OVS.Ports(c.t)) == 0
	})
}

// report prints what was done, and what came of it.
func (c *crash) report() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operation\tdone to it\ttimes")
	total := 0
	for _, k := range slices.Sorted(maps.Keys(c.results)) {
		fmt.Fprintf(w, "%s\t%d\n", k, c.results[k])
		total += c.results[k]
	}
	_ = w.Flush()
	fmt.Printf("%d times, %d failures; the daemon answered %s after its start at the latest\n", total, c.failures, c.converged.Round(time.Millisecond))
}
