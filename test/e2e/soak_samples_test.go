package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// A sample is what the daemons and etcd need while each worker has a pod.
type sample struct {
	at     time.Duration
	values map[string]float64 // by column
	judged bool
}

// needs are what is sampled of each daemon, and how much more of it may be needed in the second half: so many
// times what it was, and so much besides.
var needs = []struct {
	name        string
	times, more float64
}{{"memory_mib", 1.25, 16}, {"goroutines", 1.1, 10}, {"files", 1.1, 8}, {"threads", 1, 16}}

// soakColumns are the columns of the table: those of the daemons, and etcd's. Leftovers are those that were there
// when the faults were over, and that the daemons have removed since.
func soakColumns() (all []string) {
	for _, need := range needs {
		for _, n := range c.Nodes {
			all = append(all, n.Name+"_"+need.name)
		}
	}
	return append(all, "etcd_keys", "etcd_mib", "leftovers")
}

// sample asks what is needed.
func (s *soak) sample(leftovers int, judged bool) {
	s.t.Helper()
	x := sample{at: time.Since(s.begin), values: map[string]float64{"leftovers": float64(leftovers)}, judged: judged}
	for _, n := range c.Nodes {
		m, err := metricsOf(n)
		if err != nil {
			s.t.Error(err)
			return
		}
		proc := n.Path(fmt.Sprintf("/proc/%d/", s.pids[n.Name]))
		files, _ := filepath.Glob(proc + "fd/*")
		threads, _ := filepath.Glob(proc + "task/*")
		x.values[n.Name+"_memory_mib"] = anonymous(proc+"status") / (1 << 10)
		x.values[n.Name+"_goroutines"] = m["go_goroutines"]
		x.values[n.Name+"_files"] = float64(len(files))
		x.values[n.Name+"_threads"] = float64(len(threads))
	}
	if err := s.sampleEtcd(x.values); err != nil {
		s.t.Error(err)
	}
	s.samples = append(s.samples, x)
}

// anonymous is how much of a process's memory is no file's, in KiB: more and more of a program is read as it runs.
func anonymous(status string) (kib float64) {
	text, _ := os.ReadFile(status)
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}

// sampleEtcd counts the keys besides those of pods, which look has counted, and has etcd forget what was, so that
// its size is that of what is.
func (s *soak) sampleEtcd(into map[string]float64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	keys, err := s.keys(ctx)
	if err != nil {
		return err
	}
	for kind, n := range keys {
		if kind != "sandboxes" && kind != "pods" && kind != "claims" {
			into["etcd_keys"] += float64(n)
		}
	}
	if _, err := s.etcd.Compact(ctx, s.owners.seen(), clientv3.WithCompactPhysical()); err != nil {
		s.t.Logf("compact etcd: %v", err) // there may be nothing new
	}
	status, err := s.etcd.Status(ctx, s.etcd.Endpoints()[0])
	if err == nil {
		into["etcd_mib"] = float64(status.DbSizeInUse) / (1 << 20)
	}
	return err
}

// metricsOf reads the metrics of a node's daemon that have no labels.
func metricsOf(n *cluster.Node) (map[string]float64, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.Path("/run/patchbay/api.sock"))
	}
	asks := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := asks.Get("http://patchbay/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	have := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			have[name] = v
		}
	}
	if err == nil && have["go_goroutines"] == 0 {
		err = fmt.Errorf("the metrics of %s do not tell its goroutines", n.Name)
	}
	return have, err
}

// leftovers counts what the daemons have without a record now, when the faults are just over.
func (s *soak) leftovers() (count int) {
	for _, n := range c.Nodes {
		l, _ := ask(n, func(ctx context.Context, d *client.Client) ([]client.Leftover, error) { return d.Leftovers(ctx) })
		count += len(l)
	}
	return count
}

// judge compares what n1's daemon and etcd needed at the least in the second half with the first. That of n2 is
// another process after each time that it is killed.
func (s *soak) judge() {
	judged := slices.DeleteFunc(slices.Clone(s.samples), func(x sample) bool { return !x.judged })
	half := len(judged) / 2
	if half == 0 {
		s.t.Errorf("%d samples are too few", len(judged))
		return
	}
	compare := func(column string, times, more float64) {
		early, late := least(judged[:half], column), least(judged[half:], column)
		s.t.Logf("%-14s at least %7.1f in the first half, %7.1f in the second", column, early, late)
		if late > early*times+more {
			s.fail(lostMeasure, "%s: %.1f, and later %.1f", column, early, late)
		}
	}
	for _, need := range needs {
		compare(c.Nodes[0].Name+"_"+need.name, need.times, need.more)
	}
	compare("etcd_keys", 1, 0)
	compare("etcd_mib", 1.5, 4)
}

func least(all []sample, column string) float64 {
	value := all[0].values[column]
	for _, x := range all {
		value = min(value, x.values[column])
	}
	return value
}

// table is the samples as CSV.
func (s *soak) table() string {
	var b strings.Builder
	columns := soakColumns()
	b.WriteString("seconds," + strings.Join(columns, ",") + "\n")
	for _, x := range s.samples {
		fmt.Fprintf(&b, "%.0f", x.at.Seconds())
		for _, column := range columns {
			fmt.Fprintf(&b, ",%.1f", x.values[column])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// picture is the samples as SVG: a strip for each column, from 0 to its highest value.
func (s *soak) picture() string {
	var b strings.Builder
	columns := soakColumns()
	const strip, left, width = 70, 170, 600
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", left+width+10, strip*len(columns)+20)
	end := 1.0
	if n := len(s.samples); n > 0 {
		end = s.samples[n-1].at.Seconds()
	}
	for i, column := range columns {
		highest, points := 0.0, ""
		for _, x := range s.samples {
			highest = max(highest, x.values[column])
		}
		bottom := float64(strip*i + strip)
		for _, x := range s.samples {
			points += fmt.Sprintf("%.1f,%.1f ", left+width*x.at.Seconds()/end, bottom-(strip-15)*x.values[column]/max(1, highest))
		}
		fmt.Fprintf(&b, "<text x=\"4\" y=\"%.0f\">%s, up to %.0f</text><path d=\"M%d %.0fh%d\" stroke=\"silver\"/><polyline fill=\"none\" stroke=\"black\" points=\"%s\"/>\n",
			bottom-20, column, highest, left, bottom, width, points)
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f s</text>\n</svg>\n", left+width, strip*len(columns)+15, end)
	return b.String()
}

// write writes the samples as a table and as a picture, and after a failure what the nodes' programs have logged.
func (s *soak) write(dir string) {
	for name, text := range map[string]string{"soak.csv": s.table(), "soak.svg": s.picture()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			s.t.Error(err)
		}
	}
	logs := filepath.Join(dir, "soak-logs")
	if err := os.RemoveAll(logs); err != nil {
		s.t.Error(err)
	}
	if !s.t.Failed() {
		return
	}
	all := map[string]string{"cluster": filepath.Join(c.Dir, "log")}
	for _, n := range c.Nodes {
		all[n.Name] = n.Path("/var/log/pods")
	}
	for name, from := range all {
		if err := os.CopyFS(filepath.Join(logs, name), os.DirFS(from)); err != nil {
			s.t.Log(err) // a log may go while it is copied
		}
	}
}
