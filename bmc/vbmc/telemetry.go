package vbmc

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

const (
	telemetryPath = root + "/TelemetryService"
	reportsPath   = telemetryPath + "/MetricReports"
	reportDefs    = telemetryPath + "/MetricReportDefinitions"
	// platformReport holds every sensor: one GET for what would take hundreds.
	platformReport = "PlatformEnvironmentMetrics"
)

// telemetryRoutes are the TelemetryService (DSP0268): a report of all sensors,
// made when it is read.
func (s *Server) telemetryRoutes() []*resource {
	if _, ok := s.chassis.(SensorReader); !ok {
		return nil
	}
	return []*resource{
		{pattern: telemetryPath, get: func(*call) (obj, error) {
			return obj{"@odata.id": telemetryPath, "@odata.type": "#TelemetryService.v1_3_4.TelemetryService", "Id": "TelemetryService", "Name": "Telemetry Service",
				"ServiceEnabled": true, "MaxReports": 1, "Status": statusOK(), "SupportedCollectionFunctions": []string{},
				"MetricReports": link(reportsPath), "MetricReportDefinitions": link(reportDefs)}, nil
		}},
		{pattern: reportDefs, get: func(*call) (obj, error) {
			return collection(reportDefs, "MetricReportDefinitionCollection", "Metric Report Definitions", reportDefs+"/"+platformReport), nil
		}},
		{pattern: reportDefs + "/" + platformReport, get: func(c *call) (obj, error) {
			return obj{"@odata.id": c.path, "@odata.type": "#MetricReportDefinition.v1_4_6.MetricReportDefinition", "Id": platformReport,
				"Name": "Platform Environment Metrics", "MetricReportDefinitionType": "Periodic", "Schedule": obj{"RecurrenceInterval": fmt.Sprintf("PT%dS", int(reportEvery.Seconds()))}, "MetricReportDefinitionEnabled": true,
				"ReportUpdates": "Overwrite", "ReportActions": []string{"LogToMetricReportsCollection", "RedfishEvent"}, "Status": statusOK(),
				"MetricProperties": []string{sensorsPath + "/{SensorId}/Reading"},
				"Wildcards":        []obj{{"Name": "SensorId", "Values": []string{"*"}}}, "MetricReport": link(reportsPath + "/" + platformReport)}, nil
		}},
		{pattern: reportsPath, get: func(*call) (obj, error) {
			return collection(reportsPath, "MetricReportCollection", "Metric Reports", reportsPath+"/"+platformReport), nil
		}},
		{pattern: reportsPath + "/" + platformReport, get: func(c *call) (obj, error) { return s.metricReport(c.ctx) }},
	}
}

// metricReport is the report of all sensors, made now.
func (s *Server) metricReport(ctx context.Context) (obj, error) {
	all, err := s.sensors(ctx)
	if err != nil {
		return nil, err
	}
	at := s.clock().Format(time.RFC3339)
	values := []obj{}
	for _, x := range all {
		if !x.Absent {
			values = append(values, obj{"MetricId": x.ID, "MetricProperty": sensorsPath + "/" + x.ID + "/Reading",
				"MetricValue": strconv.FormatFloat(x.Reading, 'f', -1, 64), "Timestamp": at})
		}
	}
	return obj{"@odata.id": reportsPath + "/" + platformReport, "@odata.type": "#MetricReport.v1_5_1.MetricReport", "Id": platformReport,
		"Name": "Platform Environment Metrics", "Timestamp": at, "MetricReportDefinition": link(reportDefs + "/" + platformReport), "MetricValues": values}, nil
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
