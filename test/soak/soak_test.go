// Package soak has pods come and go, with faults, and looks whether the daemon needs more and more.
package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

var (
	last = flag.Duration("soak.for", 30*time.Second, "how long pods come and go")
	to   = flag.String("soak.to", "", "the directory for soak.csv and soak.svg; none: they are not written")
)

func TestMain(m *testing.M) { testnode.Main(m) }

const (
	workers = 6
	samples = 30 // at most that many are taken, at equal intervals
)

// TestSoak has pods come and go with hot attaches in between and one fault after the other, samples what the
// daemon needs whenever the node is empty, and compares the later half of the samples with the earlier one.
func TestSoak(t *testing.T) {
	etcd := testnode.StartEtcd(t, testnode.ShortDir(t))
	n := testnode.Standard(t, "etcd.endpoints=["+etcd.Endpoint+"]")
	s := &soak{Node: n, t: t, etcd: etcd, begin: time.Now()}
	interval := max(*last/samples, time.Second)
	s.round(interval, nil) // what is kept from the first use on is not growth
	for end := time.Now().Add(*last); time.Now().Before(end); {
		s.round(interval, faults[rand.IntN(len(faults))])
		s.sample()
	}
	if *to != "" {
		s.write(t, *to)
	}
	t.Logf("%d pods came and went, %d were refused", s.pods, s.refused)
	s.judge()
}

// A soak is a node and what was sampled of it.
type soak struct {
	*testnode.Node
	t       *testing.T
	etcd    *testnode.Etcd
	taken   []sample
	mu      sync.Mutex
	pods    int
	refused int
	serial  int
	begin   time.Time
}

// A fault is begun while pods come and go, and ends before the round does.
type fault struct {
	name  string
	begin func(s *soak) (over func())
}

var faults = []*fault{
	nil,
	{"etcd is restarted", func(s *soak) func() { s.etcd.Stop(); return func() { s.etcd.Start(s.t) } }},
	{"ovsdb-server is restarted", func(s *soak) func() { s.OVS.StopServer(); return func() { s.OVS.StartServer(s.t) } }},
	{"ovs-vswitchd hangs", func(s *soak) func() { return s.OVS.FreezeSwitch() }},
	{"ovsdb-server hangs", func(s *soak) func() { return s.OVS.FreezeServer() }},
}

// round has pods come and go for a while, and leaves the node empty.
func (s *soak) round(d time.Duration, f *fault) {
	s.t.Helper()
	end := time.Now().Add(d)
	over := func() {}
	if f != nil {
		s.t.Logf("%s", f.name)
		over = f.begin(s)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				s.pod(w)
			}
		})
	}
	wg.Go(func() {
		time.Sleep(d / 4) // it is the fault's duration
		over()
	})
	wg.Wait()
	testnode.Eventually(s.t, "the node is empty", func() bool {
		l, err := s.Client.Sandboxes(context.Background())
		return err == nil && len(l) == 0
	})
	s.AssertEmpty(s.t)
}

// pod is one pod's life. It may be refused while there is a fault, and is ended all the same.
func (s *soak) pod(w int) {
	s.mu.Lock()
	s.serial++
	name := fmt.Sprintf("w%dp%d", w, s.serial)
	s.mu.Unlock()
	_, err := s.TryRun(name, []string{"data,control", "data,macvlan", "bridge", "chained,limited"}[rand.IntN(4)])
	s.mu.Lock()
	s.pods++
	if err != nil {
		s.refused++
	}
	s.mu.Unlock()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
		if _, err := s.Client.Attach(ctx, "default", name, client.Request{Network: "data", Interface: "hot0"}); err == nil && rand.IntN(2) == 0 {
			_ = s.Client.Detach(ctx, "default", name, "hot0") // DEL does it if not
		}
		cancel()
	}
	if _, findErr := s.Runtime.Find("default", name); findErr != nil {
		return // Run has removed what failed
	}
	for range 10 {
		if err = s.Remove(name); err == nil {
			return
		}
	}
	s.t.Errorf("DEL: %v", err)
}

// A sample is what the empty node needs.
type sample struct {
	at                                       time.Duration
	memory, goroutines, files, threads, etcd float64
}

var columns = []string{"seconds", "memory_mib", "goroutines", "files", "threads", "etcd_keys"}

func (x sample) values() []float64 {
	return []float64{x.at.Seconds(), x.memory, x.goroutines, x.files, x.threads, x.etcd}
}

func (s *soak) sample() {
	s.t.Helper()
	pid := s.Daemon.Pid()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	keys, err := exec.Command("etcdctl", "--endpoints", s.etcd.Endpoint, "get", "--prefix", "/patchbay/", "--keys-only").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	x := sample{at: time.Since(s.begin), files: float64(len(files)), threads: float64(len(threads)), etcd: float64(len(strings.Fields(string(keys))))}
	for line := range strings.Lines(s.Metrics(s.t)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, _ := strconv.ParseFloat(value, 64) // of the two that are looked for
		switch name {
		case "process_resident_memory_bytes":
			x.memory = v / (1 << 20)
		case "go_goroutines":
			x.goroutines = v
		}
	}
	if x.memory == 0 || x.goroutines == 0 {
		s.t.Fatal("the daemon's metrics tell neither its memory nor its goroutines")
	}
	s.taken = append(s.taken, x)
}

// judge compares the later half of the samples with the earlier one.
func (s *soak) judge() {
	half := len(s.taken) / 2
	if half == 0 {
		s.t.Fatalf("%d samples are too few", len(s.taken))
	}
	for i, column := range columns {
		allowed := map[string][2]float64{"memory_mib": {1.2, 8}, "goroutines": {1, 5}, "files": {1, 5}, "threads": {1, 16}, "etcd_keys": {1, 1}}[column]
		if allowed == [2]float64{} {
			continue
		}
		early, late := mean(s.taken[:half], i), mean(s.taken[half:], i)
		s.t.Logf("%-12s early %8.1f late %8.1f", column, early, late)
		if late > early*allowed[0]+allowed[1] {
			s.t.Errorf("%s grows: %.1f, and later %.1f", column, early, late)
		}
	}
}

func mean(all []sample, i int) float64 {
	sum := 0.0
	for _, x := range all {
		sum += x.values()[i]
	}
	return sum / float64(len(all))
}

// write writes the samples as a table and as a picture.
func (s *soak) write(t *testing.T, dir string) {
	var table, picture strings.Builder
	table.WriteString(strings.Join(columns, ",") + "\n")
	for _, x := range s.taken {
		var row []string
		for _, v := range x.values() {
			row = append(row, strconv.FormatFloat(v, 'f', 1, 64))
		}
		table.WriteString(strings.Join(row, ",") + "\n")
	}
	fmt.Fprintf(&picture, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", 100*(len(columns)-1))
	for i, column := range columns[1:] {
		highest, points := 0.0, ""
		for _, x := range s.taken {
			highest = max(highest, x.values()[i+1])
		}
		for n, x := range s.taken {
			points += fmt.Sprintf("%d,%.1f ", 120+n*500/max(1, len(s.taken)-1), float64(100*i)+90-70*x.values()[i+1]/max(1, highest))
		}
		fmt.Fprintf(&picture, "<text x=\"4\" y=\"%d\">%s %.0f</text><polyline fill=\"none\" stroke=\"black\" points=\"%s\"/>\n", 100*i+30, column, highest, points)
	}
	picture.WriteString("</svg>\n")
	for name, text := range map[string]string{"soak.csv": table.String(), "soak.svg": picture.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
}
