package vbmc

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	telemetryPath = root + "/TelemetryService"
	reportsPath   = telemetryPath + "/MetricReports"
	reportDefs    = telemetryPath + "/MetricReportDefinitions"
	// platformReport holds every sensor: one GET for what would take hundreds.
	platformReport = "PlatformEnvironmentMetrics"
	// telemetryTick is how often it is looked whether a report is due or a metric
	// crossed a threshold, where somebody is pushed to or streams.
	telemetryTick = time.Second
)

// telemetryRoutes are the TelemetryService (DSP0268): a report of all sensors,
// and reports and triggers that clients define. A report is made when it is read
// or sent.
func (s *Server) telemetryRoutes() []*resource {
	if _, ok := s.chassis.(SensorReader); !ok {
		return nil
	}
	rs := []*resource{
		{pattern: telemetryPath, get: func(*call) (obj, error) {
			return obj{"@odata.id": telemetryPath, "@odata.type": "#TelemetryService.v1_3_4.TelemetryService", "Id": "TelemetryService", "Name": "Telemetry Service",
				"ServiceEnabled": true, "MaxReports": 1 + maxReportDefs, "MinCollectionInterval": isoDuration(minReportEvery), "Status": statusOK(), "SupportedCollectionFunctions": []string{},
				"MetricReports": link(reportsPath), "MetricReportDefinitions": link(reportDefs), "Triggers": link(triggersPath)}, nil
		}},
		{pattern: reportDefs, priv: privManager, get: func(*call) (obj, error) {
			var paths []string
			for _, d := range s.reportDefs() {
				paths = append(paths, reportDefs+"/"+d.id)
			}
			return collection(reportDefs, "MetricReportDefinitionCollection", "Metric Report Definitions", paths...), nil
		}, post: s.createReportDef},
		{pattern: reportDefs + "/{report}", priv: privManager, get: s.reportDefResource, patch: s.patchReportDef, del: s.deleteReportDef},
		{pattern: reportsPath, get: func(*call) (obj, error) {
			var paths []string
			for _, d := range s.reportDefs() {
				if d.logs() {
					paths = append(paths, reportsPath+"/"+d.id)
				}
			}
			return collection(reportsPath, "MetricReportCollection", "Metric Reports", paths...), nil
		}},
		{pattern: reportsPath + "/{report}", get: func(c *call) (obj, error) {
			d := s.reportDef(c.vars["report"])
			if d == nil || !d.logs() {
				return nil, msgNotFound(c.path)
			}
			return s.metricReport(c.ctx, d)
		}},
	}
	return append(rs, s.triggerRoutes()...)
}

// reportDef is a MetricReportDefinition. It never changes: another takes its place.
type reportDef struct {
	id, name string
	periodic bool // else on request
	every    time.Duration
	enabled  bool
	actions  []string
	metrics  metrics
}

// Values of ReportActions.
const (
	actionLog   = "LogToMetricReportsCollection"
	actionEvent = "RedfishEvent"
)

// logs tells that the report is in the collection.
func (d *reportDef) logs() bool { return d.enabled && slices.Contains(d.actions, actionLog) }

// platform is the definition that this service has by itself.
func platform() *reportDef {
	return &reportDef{id: platformReport, name: "Platform Environment Metrics", periodic: true, every: 10 * time.Second, enabled: true, actions: []string{actionLog, actionEvent},
		metrics: metrics{properties: []string{sensorsPath + "/{SensorId}/Reading"}, wildcards: []wildcard{{"SensorId", []string{"*"}}}}}
}

// reportDefs are all definitions.
func (s *Server) reportDefs() []*reportDef {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*reportDef{platform()}, s.reports...)
}

// reportDef is one of them, or nil.
func (s *Server) reportDef(id string) *reportDef {
	for _, d := range s.reportDefs() {
		if d.id == id {
			return d
		}
	}
	return nil
}

// dueReports is when reports were last sent to one receiver.
type dueReports map[string]time.Time

// first are the reports that a new receiver gets at once.
func (l dueReports) first(s *Server) (out []*reportDef) {
	now := s.now()
	for _, d := range s.reportDefs() {
		if d.sends() {
			l[d.id] = now
			out = append(out, d)
		}
	}
	return out
}

func (d *reportDef) sends() bool {
	return d.enabled && d.periodic && slices.Contains(d.actions, actionEvent)
}

// now are the reports that are due; of one that is new the first is due after
// its interval.
func (l dueReports) now(s *Server) (out []*reportDef) {
	now := s.now()
	for _, d := range s.reportDefs() {
		last, ok := l[d.id]
		switch {
		case !d.sends():
			delete(l, d.id)
		case !ok:
			l[d.id] = now
		case now.Sub(last) >= d.every:
			l[d.id] = now
			out = append(out, d)
		}
	}
	return out
}

// metricReport is a report, made now.
func (s *Server) metricReport(ctx context.Context, d *reportDef) (obj, error) {
	all, err := s.sensors(ctx)
	if err != nil {
		return nil, err
	}
	at := s.clock().Format(time.RFC3339)
	values := []obj{}
	for _, x := range all {
		if id, ok := d.metrics.has(x); ok && !x.Absent {
			values = append(values, obj{"MetricId": id, "MetricProperty": readingOf(x),
				"MetricValue": strconv.FormatFloat(x.Reading, 'f', -1, 64), "Timestamp": at})
		}
	}
	return obj{"@odata.id": reportsPath + "/" + d.id, "@odata.type": "#MetricReport.v1_5_1.MetricReport", "Id": d.id,
		"Name": d.name, "Timestamp": at, "MetricReportDefinition": link(reportDefs + "/" + d.id), "MetricValues": values}, nil
}

// readingOf is the property that a sensor's reading is.
func readingOf(x Sensor) string { return sensorsPath + "/" + x.ID + "/Reading" }

func (d *reportDef) resource() obj {
	kind := "OnRequest"
	if d.periodic {
		kind = "Periodic"
	}
	o := obj{"@odata.id": reportDefs + "/" + d.id, "@odata.type": "#MetricReportDefinition.v1_4_6.MetricReportDefinition", "Id": d.id, "Name": d.name,
		"MetricReportDefinitionType": kind, "MetricReportDefinitionEnabled": d.enabled, "ReportUpdates": "Overwrite", "ReportActions": d.actions, "Status": statusOK()}
	d.metrics.show(o, true)
	if d.periodic {
		o["Schedule"] = obj{"RecurrenceInterval": isoDuration(d.every)}
	}
	if d.logs() {
		o["MetricReport"] = link(reportsPath + "/" + d.id)
	}
	return o
}

func (s *Server) reportDefResource(c *call) (obj, error) {
	d := s.reportDef(c.vars["report"])
	if d == nil {
		return nil, msgNotFound(c.path)
	}
	return d.resource(), nil
}

// Bounds of what clients define.
const (
	maxReportDefs  = 16
	maxTriggers    = 32
	maxMetrics     = 64 // properties of one
	minReportEvery = time.Second
)

// parse takes a property of a definition.
func (d *reportDef) parse(name string, v any) (err error) {
	t, isText := v.(string)
	switch name {
	case "Name":
		if !isText {
			return msgPropertyType(name, v)
		}
		d.name = t
	case "MetricReportDefinitionType":
		if t != "Periodic" && t != "OnRequest" {
			return msgNotInList(name, v)
		}
		d.periodic = t == "Periodic"
	case "MetricReportDefinitionEnabled":
		on, ok := v.(bool)
		if !ok {
			return msgPropertyType(name, v)
		}
		d.enabled = on
	case "ReportUpdates":
		if t != "Overwrite" {
			return msgNotInList(name, v)
		}
	case "ReportActions":
		d.actions, err = texts(name, v, func(t string) bool { return t == actionLog || t == actionEvent })
	case "Schedule":
		in, ok := v.(obj)
		if !ok {
			return msgPropertyType(name, v)
		}
		for k, v := range in {
			if k != "RecurrenceInterval" {
				return msgUnknownProperty(name + "/" + k)
			}
			if d.every, err = parseDuration(name+"/"+k, v); err == nil && d.every < minReportEvery {
				return msgOutOfRange(name+"/"+k, v)
			}
		}
	default:
		return d.metrics.parse(name, v)
	}
	return err
}

// checked is a definition with its wildcards and properties compared with what
// this chassis measures.
func (d reportDef) checked(c *call, s *Server) (*reportDef, error) {
	if d.periodic && d.every == 0 {
		return nil, msgMissing("Schedule")
	}
	if len(d.actions) == 0 {
		d.actions = []string{actionLog}
	}
	return &d, d.metrics.check(c, s)
}

func (s *Server) createReportDef(c *call) (reply, error) {
	d := reportDef{enabled: true, periodic: true}
	id, err := parseNew(c.body, d.parse)
	if err != nil {
		return reply{}, err
	}
	def, err := d.checked(c, s)
	if err != nil {
		return reply{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	def.id, err = s.newID(id, "MetricReportDefinition", func(id string) bool {
		return id == platformReport || slices.ContainsFunc(s.reports, func(o *reportDef) bool { return o.id == id })
	})
	if err != nil {
		return reply{}, err
	}
	if len(s.reports) >= maxReportDefs {
		return reply{}, msgLimit()
	}
	if def.name == "" {
		def.name = def.id
	}
	s.reports = append(s.reports, def)
	o := def.resource()
	return created(reportDefs+"/"+def.id, o), nil
}

func (s *Server) patchReportDef(c *call) ([]*message, error) {
	d := s.reportDef(c.vars["report"])
	if d == nil {
		return nil, msgNotFound(c.path)
	}
	if d.id == platformReport { // the service's own
		return patch(c, s.reportDefResource, nil)
	}
	next := *d
	var def *reportDef
	set := map[string]setter{}
	for _, name := range []string{"MetricReportDefinitionType", "MetricReportDefinitionEnabled", "ReportActions", "ReportUpdates", "Schedule", "Metrics", "MetricProperties", "Wildcards"} {
		set[name] = func(v any) (func() error, error) {
			if err := next.parse(name, v); err != nil {
				return nil, err
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				i := slices.IndexFunc(s.reports, func(o *reportDef) bool { return o.id == d.id })
				if i < 0 {
					return msgNotFound(c.path)
				}
				s.reports[i] = def
				return nil
			}, nil
		}
	}
	return patch(c, s.reportDefResource, set, func() (err error) { def, err = next.checked(c, s); return err })
}

func (s *Server) deleteReportDef(c *call) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.reports)
	s.reports = slices.DeleteFunc(slices.Clone(s.reports), func(o *reportDef) bool { return o.id == c.vars["report"] })
	switch {
	case len(s.reports) < n:
		return reply{status: http.StatusNoContent}, nil
	case c.vars["report"] == platformReport:
		m := bad("ResourceCannotBeDeleted")
		m.Resolution = "It is this service's own; delete those that were made."
		return reply{}, m
	}
	return reply{}, msgNotFound(c.path)
}

// gpuMetrics are EnvironmentMetrics of a GPU: its temperature and its power.
func (s *Server) gpuMetrics(c *call) (obj, error) {
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	if _, g := findGPU(in, c.vars["id"]); g == nil {
		return nil, msgNotFound(c.path)
	}
	all, err := s.sensors(c.ctx)
	if err != nil {
		return nil, err
	}
	o := obj{"@odata.id": c.path, "@odata.type": "#EnvironmentMetrics.v1_3_1.EnvironmentMetrics", "Id": "EnvironmentMetrics",
		"Name": fmt.Sprintf("%s Environment Metrics", c.vars["id"])}
	for _, x := range all {
		switch x.ID {
		case c.vars["id"] + "Temp":
			o["TemperatureCelsius"] = x.excerpt()
		case c.vars["id"] + "Power":
			o["PowerWatts"] = x.excerpt()
		}
	}
	return o, nil
}
