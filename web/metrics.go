package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fettle-dev/fettle/state"
)

// metrics are what /metrics tells: requests as they are counted, the rest
// read from the store when asked.
type metrics struct {
	requests *prometheus.CounterVec
	handler  http.Handler
}

func newMetrics(ctx context.Context, store *state.Store, reg *prometheus.Registry) *metrics {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fettle_http_requests_total", Help: "Requests of the operators' API and pages, by route.",
	}, []string{"route", "method", "status"})}
	reg.MustRegister(m.requests, &stateCollector{
		ctx:      ctx,
		store:    store,
		machines: prometheus.NewDesc("fettle_machines", "Machines in each phase.", []string{"phase"}, nil),
		up:       prometheus.NewDesc("fettle_state_up", "1 while state can be read and written, 0 while it is opened again after a failure of its disk.", nil, nil),
		degraded: prometheus.NewDesc("fettle_machines_degraded", "Machines whose installed system says that it lacks a disk.", nil, nil),
		events:   prometheus.NewDesc("fettle_events_total", "Events ever appended.", nil, nil),
	})
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) count(route, method string, status int) {
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
}

// stateCollector reads the store on every scrape.
type stateCollector struct {
	ctx                            context.Context // of the server: the interface passes none
	store                          *state.Store
	up, machines, degraded, events *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	ch <- c.machines
	ch <- c.degraded
	ch <- c.events
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	if c.store.Err() != nil {
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 1)
	statuses, err := c.store.Overview(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.machines, err)
		return
	}
	byPhase, degraded := map[state.Phase]int{}, 0
	for _, s := range statuses {
		byPhase[s.Phase]++
		if s.Health != nil && s.Health.Problem != "" {
			degraded++
		}
	}
	ch <- prometheus.MustNewConstMetric(c.degraded, prometheus.GaugeValue, float64(degraded))
	for phase, n := range byPhase {
		ch <- prometheus.MustNewConstMetric(c.machines, prometheus.GaugeValue, float64(n), string(phase))
	}
	last, err := c.store.LastSeq(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.events, err)
		return
	}
	ch <- prometheus.MustNewConstMetric(c.events, prometheus.CounterValue, float64(last))
}
