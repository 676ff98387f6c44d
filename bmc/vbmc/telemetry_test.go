package vbmc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const cpuReading = sensorsPath + "/CPU1Temp/Reading"

// TestReportDefinitions: clients define reports, change and delete them; what is
// measured is in them.
func TestReportDefinitions(t *testing.T) {
	s := newService(t, nil)
	s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
	def := func(with string) string {
		return `{"Id":"Heat","MetricReportDefinitionType":"OnRequest","MetricProperties":["` + cpuReading + `"]` + with + `}`
	}
	for _, tc := range []struct {
		name, method, path, who, body string
		status                        int
		ids                           string
	}{
		{"a report", "POST", reportDefs, admin, def(""), 201, ""},
		{"the same id", "POST", reportDefs, admin, def(""), 400, "ResourceAlreadyExists"},
		{"the service's own id", "POST", reportDefs, admin, strings.Replace(def(""), "Heat", platformReport, 1), 400, "ResourceAlreadyExists"},
		{"who only reads", "POST", reportDefs, "ro:ro", strings.Replace(def(""), "Heat", "Other", 1), 403, "InsufficientPrivilege"},
		{"no such sensor", "POST", reportDefs, admin, `{"MetricReportDefinitionType":"OnRequest","MetricProperties":["` + sensorsPath + `/Nope/Reading"]}`, 400, "PropertyValueNotInList"},
		{"no metric", "POST", reportDefs, admin, `{"MetricReportDefinitionType":"OnRequest"}`, 400, "PropertyMissing"},
		{"no interval", "POST", reportDefs, admin, strings.Replace(def(""), "OnRequest", "Periodic", 1), 400, "PropertyMissing"},
		{"too often", "POST", reportDefs, admin, def(`,"Schedule":{"RecurrenceInterval":"PT0.5S"}`), 400, "PropertyValueOutOfRange"},
		{"no interval at all", "POST", reportDefs, admin, def(`,"Schedule":{"RecurrenceInterval":"often"}`), 400, "PropertyValueFormatError"},
		{"on change", "POST", reportDefs, admin, strings.Replace(def(""), "OnRequest", "OnChange", 1), 400, "PropertyValueNotInList"},
		{"a function", "POST", reportDefs, admin, def(`,"Metrics":[{"MetricId":"x","CollectionFunction":"Average"}]`), 400, "PropertyUnknown"},
		{"an unknown property", "POST", reportDefs, admin, def(`,"Nope":1`), 400, "PropertyUnknown"},
		{"nothing", "POST", reportDefs, admin, ``, 400, "MalformedJSON"},
		{"the service's own", "PATCH", reportDefs + "/" + platformReport, admin, `{"MetricReportDefinitionEnabled":false}`, 400, "PropertyNotWritable"},
		{"the service's own away", "DELETE", reportDefs + "/" + platformReport, admin, "", 400, "ResourceCannotBeDeleted"},
		{"periodic", "PATCH", reportDefs + "/Heat", admin, `{"MetricReportDefinitionType":"Periodic","Schedule":{"RecurrenceInterval":"PT1M"}}`, 200, ""},
		{"periodic without an interval", "PATCH", reportDefs + "/Heat", admin, `{"Schedule":{"RecurrenceInterval":"PT0S"}}`, 400, "PropertyValueOutOfRange"},
		{"all GPUs", "PATCH", reportDefs + "/Heat", admin, `{"MetricProperties":["` + sensorsPath + `/{X}/Reading"],"Wildcards":[{"Name":"X","Values":["GPU1Temp","GPU2Temp"]}]}`, 200, ""},
		{"what cannot be", "PATCH", reportDefs + "/Heat", admin, `{"MetricProperties":["` + sensorsPath + `/{Y}/Reading"]}`, 400, "PropertyValueNotInList"},
		{"its name", "PATCH", reportDefs + "/Heat", admin, `{"Name":"x"}`, 400, "PropertyNotWritable"},
		{"no such report", "PATCH", reportDefs + "/Nope", admin, `{"MetricReportDefinitionEnabled":false}`, 404, "ResourceMissingAtURI"},
	} {
		r := s.do(tc.method, tc.path, tc.who, tc.body)
		if r.StatusCode != tc.status || tc.ids != "" && r.messageIDs() != tc.ids {
			t.Errorf("%s: %s %s = %d %s; want %d %s", tc.name, tc.method, tc.path, r.StatusCode, r.text, tc.status, tc.ids)
		}
	}
	values := func() (out []string) {
		l, _ := s.do("GET", reportsPath+"/Heat", admin, "").body["MetricValues"].([]any)
		for _, v := range l {
			o := v.(obj)
			out = append(out, fmt.Sprint(o["MetricId"], " ", o["MetricValue"]))
		}
		return out
	}
	if got := values(); !slices.Equal(got, []string{"GPU1Temp 34", "GPU2Temp 34"}) {
		t.Errorf("the report has %q; want both GPUs", got)
	}
	if r := s.do("GET", reportDefs+"/Heat", admin, ""); r.body["Schedule"].(obj)["RecurrenceInterval"] != "PT60S" {
		t.Errorf("the definition is %s; want every minute", r.text)
	}
	s.do("PATCH", reportDefs+"/Heat", admin, `{"MetricReportDefinitionEnabled":false}`)
	if r := s.do("GET", reportsPath+"/Heat", admin, ""); r.StatusCode != 404 || len(s.members(reportsPath)) != 1 {
		t.Errorf("the report of a disabled definition = %d; want 404", r.StatusCode)
	}
	if r := s.do("DELETE", reportDefs+"/Heat", admin, ""); r.StatusCode != 204 || len(s.members(reportDefs)) != 1 {
		t.Errorf("DELETE = %d %s", r.StatusCode, r.text)
	}
	for i := range maxReportDefs + 1 {
		want := map[bool]int{true: 201, false: 400}[i < maxReportDefs]
		if r := s.do("POST", reportDefs, admin, `{"MetricReportDefinitionType":"OnRequest","MetricProperties":["`+cpuReading+`"]}`); r.StatusCode != want {
			t.Errorf("report %d = %d; want %d", i, r.StatusCode, want)
		}
	}
}

// pushed runs deliveries in a bubble; what was pushed goes to the channel.
func (s service) pushed(t *testing.T) <-chan obj {
	t.Helper()
	got := make(chan obj, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(_ context.Context, _ Subscription, b []byte) error {
			var o obj
			err := json.Unmarshal(b, &o)
			got <- o
			return err
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return got
}

// TestReportsPushed: each report comes by its own interval.
func TestReportsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
		got := s.pushed(t)
		s.do("POST", reportDefs, admin, `{"Id":"Heat","MetricReportDefinitionType":"Periodic","Schedule":{"RecurrenceInterval":"PT3S"},"ReportActions":["RedfishEvent"],"MetricProperties":["`+cpuReading+`"]}`)
		if r := s.do("POST", subscriptionsPath, admin, `{"Destination":"http://listener.example.org/","Protocol":"Redfish","EventFormatType":"MetricReport"}`); r.StatusCode != 201 {
			t.Fatalf("subscribe = %d %s", r.StatusCode, r.text)
		}
		time.Sleep(31 * time.Second) // on the bubble's clock
		synctest.Wait()
		count := map[any]int{}
		for range len(got) {
			count[(<-got)["Id"]]++
		}
		if h, p := count["Heat"], count[platformReport]; h < 9 || h > 10 || p < 2 || p > 3 {
			t.Errorf("in 31 s %d reports of every 3 s and %d of every 10 s", h, p)
		}
	})
}

// TestTriggers: what crosses a threshold is an event of the trigger to who
// subscribed, and a log entry, once, after the dwell time.
func TestTriggers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
		got := s.pushed(t)
		s.do("POST", subscriptionsPath, admin, `{"Destination":"http://listener.example.org/","Protocol":"Redfish","MessageIds":["TriggerCrossed"],"OriginResources":[{"@odata.id":"`+telemetryPath+`"}],"SubordinateResources":true}`)
		r := s.do("POST", triggersPath, admin, `{"Id":"Hot","MetricType":"Numeric","TriggerActions":["RedfishEvent","LogToLogService"],"MetricProperties":["`+cpuReading+`"],`+
			`"NumericThresholds":{"UpperCritical":{"Reading":90,"Activation":"Either","DwellTime":"PT5S"},"LowerWarning":{"Reading":10,"Activation":"Decreasing"}}}`)
		if r.StatusCode != 201 {
			t.Fatalf("POST = %d %s", r.StatusCode, r.text)
		}
		heat := func(c float64) { s.mem.SetFault(Fault{Sensors: map[string]float64{"CPU1Temp": c}}) }
		next := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after) // on the bubble's clock
			synctest.Wait()
			said := ""
			for range len(got) {
				e := (<-got)["Events"].([]any)[0].(obj)
				said += fmt.Sprint(e["MessageSeverity"], " ", e["Message"], ";")
				if at := e["OriginOfCondition"].(obj)["@odata.id"]; at != triggersPath+"/Hot" || e["MessageId"] != ownRegistry+"TriggerCrossed" || len(e["MessageArgs"].([]any)) != 6 {
					t.Errorf("the event is %v; want one of the trigger", e)
				}
			}
			if (want == "") != (said == "") || !strings.Contains(said, want) || strings.Count(said, ";") > 1 {
				t.Errorf("after %s: events %q; want %q", after, said, want)
			}
		}
		next(20*time.Second, "")
		heat(95)
		next(4*time.Second, "") // not long enough
		heat(80)
		next(10*time.Second, "")
		heat(95)
		next(10*time.Second, "Critical "+cpuReading+" reads 95: above the threshold 90 (UpperCritical) of trigger Hot.")
		next(time.Minute, "") // once
		heat(60)
		next(10*time.Second, "OK "+cpuReading+" reads 60: below the threshold 90")
		heat(5)
		next(2*time.Second, "Warning "+cpuReading+" reads 5: below the threshold 10 (LowerWarning)")
		heat(50)
		next(2*time.Second, "") // it says decreasing
		if text := s.do("GET", managerPath+"/LogServices/Log/Entries", admin, "").text; strings.Count(text, `"Message":"`+cpuReading+` reads`) != 3 {
			t.Errorf("the log has not three entries of the trigger: %s", text)
		}
		// Changed, and switched off.
		for _, tc := range []struct {
			name, body string
			status     int
		}{
			{"lower", `{"NumericThresholds":{"UpperCritical":{"Reading":70,"DwellTime":"PT0S"},"LowerWarning":null}}`, 200},
			{"none left", `{"NumericThresholds":{"UpperCritical":null}}`, 400},
			{"another threshold", `{"NumericThresholds":{"Upper":{"Reading":1}}}`, 400},
			{"no reading", `{"NumericThresholds":{"UpperWarning":{"Activation":"Either"}}}`, 400},
			{"what it does", `{"TriggerActions":["RedfishEvent"]}`, 400},
			{"no such sensor", `{"MetricProperties":["/nope"]}`, 400},
		} {
			if r := s.do("PATCH", triggersPath+"/Hot", admin, tc.body); r.StatusCode != tc.status {
				t.Errorf("%s: PATCH = %d %s; want %d", tc.name, r.StatusCode, r.text, tc.status)
			}
		}
		heat(75)
		next(2*time.Second, "reads 75: above the threshold 70")
		s.do("PATCH", triggersPath+"/Hot", admin, `{"TriggerEnabled":false}`)
		heat(20)
		next(2*time.Second, "")
		if r := s.do("DELETE", triggersPath+"/Hot", admin, ""); r.StatusCode != 204 || s.do("GET", triggersPath+"/Hot", admin, "").StatusCode != 404 {
			t.Errorf("DELETE = %d %s", r.StatusCode, r.text)
		}
		for body, want := range map[string]string{
			`{"MetricProperties":["` + cpuReading + `"]}`: "PropertyMissing",
			`{"MetricType":"Discrete","MetricProperties":["` + cpuReading + `"],"NumericThresholds":{"UpperCritical":{"Reading":1}}}`:                  "PropertyValueNotInList",
			`{"TriggerActions":["RedfishMetricReport"],"MetricProperties":["` + cpuReading + `"],"NumericThresholds":{"UpperCritical":{"Reading":1}}}`: "PropertyValueNotInList",
			`{"NumericThresholds":{"UpperCritical":{"Reading":1}}}`:                                                                                    "PropertyMissing",
			`{"MetricProperties":["` + cpuReading + `"],"NumericThresholds":{"UpperCritical":{"Reading":"hot"}}}`:                                      "PropertyValueTypeError",
			`{"MetricProperties":["` + cpuReading + `"],"NumericThresholds":{"UpperCritical":{"Reading":1,"DwellTime":"1s"}}}`:                         "PropertyValueFormatError",
			`{"Id":"a/b","MetricProperties":["` + cpuReading + `"],"NumericThresholds":{"UpperCritical":{"Reading":1}}}`:                               "PropertyValueFormatError",
		} {
			if r := s.do("POST", triggersPath, admin, body); r.StatusCode != 400 || r.messageIDs() != want {
				t.Errorf("POST %s = %d %s; want 400 %s", body, r.StatusCode, r.text, want)
			}
		}
	})
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"PT10S": 10 * time.Second, "PT1M30S": 90 * time.Second, "P1DT2H": 26 * time.Hour, "PT0.25S": 250 * time.Millisecond,
		"": -1, "P": -1, "PT": -1, "P1DT": -1, "10": -1, "PT1H2": -1, "-PT1S": -1, "P9999D": -1} {
		got, err := parseDuration("x", text)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("parseDuration(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
}
