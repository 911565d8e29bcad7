// Package metrics holds the daemon's Prometheus metrics.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are registered in a registry of their own.
type Metrics struct {
	registry *prometheus.Registry
	duration *prometheus.HistogramVec
	inflight prometheus.Gauge
	repaired *prometheus.CounterVec
	leaked   *prometheus.CounterVec
}

// Gauges are read when metrics are collected.
type Gauges struct {
	Attachments, Failing, Abandoned, Unreadable, PoolFaults, DelQueue func() int
	Ready, Suspended, Bypassed                                        func() bool
}

// New returns the metrics.
func New(g Gauges) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "patchbay_cni_duration_seconds", Help: "Time of a command by stage; stage total is the whole command.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"command", "stage"}),
		repaired: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "patchbay_repaired_total", Help: "Interfaces that had lost something and were mended."}, []string{"kind"}),
		leaked:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "patchbay_leaked_total", Help: "Things found without an owner and removed."}, []string{"kind"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "patchbay_inflight", Help: "Calls being answered."}),
	}
	for _, kind := range []string{"port", "address", "sandbox"} {
		m.leaked.WithLabelValues(kind) // shown from the start, as 0
	}
	m.repaired.WithLabelValues("interface")
	m.registry.MustRegister(m.duration, m.inflight, m.repaired, m.leaked, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("patchbay_attachments", "Attachments recorded on this node.", g.Attachments),
		gauge("patchbay_attachments_failing", "Attachments whose DEL fails and is tried again.", g.Failing),
		gauge("patchbay_attachments_abandoned", "Attachments whose DEL was given up; patchctl leftovers lists them.", g.Abandoned),
		gauge("patchbay_records_unreadable", "Records of this node in etcd that can't be read, and are left alone.", g.Unreadable),
		gauge("patchbay_pool_faults", "Pools that overlap, and records of pools, subnets and addresses that can't be read; patchctl doctor names them.", g.PoolFaults),
		gauge("patchbay_cni_configuration_bypassed", "1 when the runtime takes another CNI configuration before Patchbay's, or Patchbay's was renamed or removed.", one(g.Bypassed)),
		gauge("patchbay_del_queue", "DELs that wait on disk.", g.DelQueue),
		gauge("patchbay_ready", "1 when ADDs can be served.", one(g.Ready)),
		gauge("patchbay_suspended", "1 when etcd is not the one that the node has written to: patchctl recover.", one(g.Suspended)))
	return m
}

func one(is func() bool) func() int {
	return func() int {
		if is() {
			return 1
		}
		return 0
	}
}

func gauge(name, help string, read func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(read()) })
}

// Observe records how long a stage of a command took.
func (m *Metrics) Observe(command, stage string, d time.Duration) {
	m.duration.WithLabelValues(command, stage).Observe(d.Seconds())
}

// Repaired counts interfaces that were mended.
func (m *Metrics) Repaired(kind string) { m.repaired.WithLabelValues(kind).Inc() }

// Leaked counts leftovers that were found and removed.
func (m *Metrics) Leaked(kind string, n int) { m.leaked.WithLabelValues(kind).Add(float64(n)) }

// Inflight counts the calls that h answers.
func (m *Metrics) Inflight(h http.Handler) http.Handler {
	return promhttp.InstrumentHandlerInFlight(m.inflight, h)
}

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
