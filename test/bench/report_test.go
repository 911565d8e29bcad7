package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A report collects times and what they must reach.
type report struct {
	order   []string
	samples map[string][]time.Duration
	p50     map[string]float64 // ms
	Times   []row              `json:"times"`
	Goals   []goal             `json:"goals"`
	Notes   []string           `json:"notes"`
	Machine string             `json:"machine"`
}

type row struct {
	Name string  `json:"name"`
	N    int     `json:"n"`
	P50  float64 `json:"p50ms"`
	P90  float64 `json:"p90ms"`
	P99  float64 `json:"p99ms"`
}

type goal struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Met   bool    `json:"met"`
}

func newReport() *report {
	host, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return &report{samples: map[string][]time.Duration{}, p50: map[string]float64{},
		Machine: fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), strings.TrimSpace(string(host)), runtime.Version())}
}

func (r *report) time(name string, fn func()) {
	begin := time.Now()
	fn()
	took := time.Since(begin)
	if r.samples[name] == nil {
		r.order = append(r.order, name)
	}
	s := append(r.samples[name], took)
	r.samples[name] = s
	r.p50[name] = ms(quantile(s, 0.5))
}

func quantile(s []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *report) ratio(name, of, to string, bound float64) {
	r.compare(name, r.p50[of], r.p50[to], bound)
}

func (r *report) compare(name string, of, to, bound float64) {
	v := of / to
	r.Goals = append(r.Goals, goal{name, v, bound, v <= bound})
}

func (r *report) atMost(name string, v, bound float64) {
	r.Goals = append(r.Goals, goal{name, v, bound, v <= bound})
}

func (r *report) atLeast(name string, v, bound float64) {
	r.Goals = append(r.Goals, goal{name + " (at least)", v, bound, v >= bound})
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *report) rss(b *testing.B, name string, pid int) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for l := range strings.SplitSeq(string(status), "\n") {
		if kb, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			r.atMost(name+", MB", n/1024, 120)
		}
	}
}

// cpu is the CPU time a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	sys, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+sys) * 10 * time.Millisecond // USER_HZ is 100
}

// stages notes the mean of each stage, from the daemon's own metrics.
func (r *report) stages(b *testing.B, n *testnode.Node) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.API)
	}}}
	resp, err := c.Get("http://patchbay/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	sums := map[string]float64{}
	for l := range strings.SplitSeq(string(text), "\n") {
		for _, kind := range []string{"sum", "count"} {
			if rest, ok := strings.CutPrefix(l, "patchbay_cni_duration_seconds_"+kind); ok {
				labels, value, _ := strings.Cut(rest, " ")
				sums[kind+labels], _ = strconv.ParseFloat(value, 64)
			}
		}
	}
	for _, key := range slices.Sorted(mapsKeys(sums)) {
		if labels, ok := strings.CutPrefix(key, "sum"); ok && sums["count"+labels] > 0 {
			r.note("mean of stage %s: %.2f ms (%.0f calls)", labels, 1000*sums[key]/sums["count"+labels], sums["count"+labels])
		}
	}
}

func mapsKeys(m map[string]float64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (r *report) print(b *testing.B) {
	fmt.Printf("\n%s\n\n%-48s %6s %9s %9s %9s\n", r.Machine, "ms", "n", "p50", "p90", "p99")
	for _, name := range r.order {
		s := r.samples[name]
		row := row{name, len(s), ms(quantile(s, 0.5)), ms(quantile(s, 0.9)), ms(quantile(s, 0.99))}
		r.Times = append(r.Times, row)
		fmt.Printf("%-48s %6d %9.2f %9.2f %9.2f\n", row.Name, row.N, row.P50, row.P90, row.P99)
	}
	fmt.Println()
	for _, n := range r.Notes {
		fmt.Println(n)
	}
	fmt.Printf("\n%-78s %8s %8s\n", "goals", "value", "bound")
	for _, g := range r.Goals {
		met := ""
		if !g.Met {
			met = "  MISSED"
		}
		fmt.Printf("%-78s %8.2f %8.2f%s\n", g.Name, g.Value, g.Bound, met)
	}
	out, err := json.MarshalIndent(r, "", "  ")
	if err == nil && os.Getenv("BENCH_JSON") != "" {
		err = os.WriteFile(os.Getenv("BENCH_JSON"), out, 0o644)
	}
	if err != nil {
		b.Error(err)
	}
}
