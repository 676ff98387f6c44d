package vbmc

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestFilter(t *testing.T) {
	o := obj{"Name": "GPU1", "Count": 2.0, "On": true, "None": nil, "Status": obj{"Health": "OK"}, "Odd": "it's", "Time": "2026-11-22T00:00:00Z"}
	for _, tc := range []struct {
		text      string
		ok, holds bool
	}{
		{"Name eq 'GPU1'", true, true},
		{"Name eq GPU1", true, true},
		{"Name ne 'GPU1'", true, false},
		{"Status/Health eq 'OK'", true, true},
		{"Status/Health eq 'Critical'", true, false},
		{"Count gt 1", true, true},
		{"Count ge 2 and Count le 2", true, true},
		{"Count lt 2 or On eq true", true, true},
		{"not (Count lt 2 or On eq true)", true, false},
		{"not Count lt 2 and On eq true", true, true},
		{"On eq false or Count eq 2 and Name eq 'x'", true, false}, // and binds closer
		{"On ne false", true, true},
		{"None eq null", true, true},
		{"Nothing eq null", true, true},
		{"Name eq null", true, false},
		{"Name gt 5", true, false}, // of different kinds
		{"Name ne 5", true, true},
		{"Odd eq 'it''s'", true, true},
		{"Time gt '2026-11-21T23:59:59Z'", true, true},
		{"", false, false},
		{"Name", false, false},
		{"Name eq", false, false},
		{"Name like 'x'", false, false},
		{"Name eq 'x", false, false},
		{"(Name eq 'x'", false, false},
		{"Name eq 'x')", false, false},
		{"Name eq 'x' and", false, false},
		{"Name eq 'x' Name eq 'y'", false, false},
		{"On gt true", false, false},
		{"None lt null", false, false},
		{"'x' eq Name", false, false},
		{strings.Repeat("(", 100) + "Name eq 'x'" + strings.Repeat(")", 100), false, false},
		{strings.Repeat("not ", 100) + "Name eq 'x'", false, false},
		{strings.Repeat("Name eq 'x' or ", 100) + "Name eq 'x'", false, false},
	} {
		c, ok := parseFilter(tc.text)
		if ok != tc.ok {
			t.Errorf("parseFilter(%q) = %v; want %v", tc.text, ok, tc.ok)
			continue
		}
		if ok && c.holds(o) != tc.holds {
			t.Errorf("%q holds: %v; want %v", tc.text, c.holds(o), tc.holds)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"Name eq 'GPU1' and not (Count gt 1 or On eq true)", "((((", "''''", "a/b/c eq null", "x eq \"y\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := parseFilter(text)
		if !ok {
			return
		}
		c.holds(obj{"Name": "GPU1", "Count": 2.0, "On": true})
		n := 0
		properties(c, func([]string) { n++ })
		if n == 0 {
			t.Errorf("parseFilter(%q) reads no property", text)
		}
	})
}

// ids are the last parts of the members' URIs.
func ids(r response) []string {
	var out []string
	for _, m := range members(r.body) {
		out = append(out, m[strings.LastIndex(m, "/")+1:])
	}
	return out
}

func TestQueries(t *testing.T) {
	s := newService(t, nil)
	const procs, accounts = systemPath + "/Processors", accountsPath
	for _, tc := range []struct {
		name, path, query string
		want              []string
		count             float64
		next              string
	}{
		{"all", procs, "", []string{"CPU1", "GPU1", "GPU2"}, 3, ""},
		{"filter", procs, "$filter=ProcessorType eq 'GPU'", []string{"GPU1", "GPU2"}, 2, ""},
		{"filter deep", procs, "$filter=Status/Health eq 'OK' and not (Id eq 'CPU1')", []string{"GPU1", "GPU2"}, 2, ""},
		{"filter of none", procs, "$filter=Id eq 'x'", nil, 0, ""},
		{"top", procs, "$top=1", []string{"CPU1"}, 3, procs + "?%24skip=1&%24top=1"},
		{"skip", procs, "$skip=2", []string{"GPU2"}, 3, ""},
		{"skip beyond", procs, "$skip=9", nil, 3, ""},
		{"page", procs, "$skip=1&$top=1", []string{"GPU1"}, 3, procs + "?%24skip=2&%24top=1"},
		{"last page", procs, "$skip=2&$top=1", []string{"GPU2"}, 3, ""},
		{"top nothing", procs, "$top=0", nil, 3, ""},
		{"filter, then page", procs, "$filter=ProcessorType eq 'GPU'&$top=1", []string{"GPU1"}, 2, procs + "?%24filter=ProcessorType+eq+%27GPU%27&%24skip=1&%24top=1"},
		{"only among many", procs, "only", []string{"CPU1", "GPU1", "GPU2"}, 3, ""},
	} {
		r := s.do("GET", tc.path+"?"+strings.ReplaceAll(tc.query, " ", "%20"), admin, "")
		next, _ := r.body["Members@odata.nextLink"].(string)
		if r.StatusCode != 200 || !slices.Equal(ids(r), tc.want) || r.body["Members@odata.count"] != tc.count || next != tc.next {
			t.Errorf("%s: %v of %v, next %q (%d); want %v of %v, next %q", tc.name, ids(r), r.body["Members@odata.count"], next, r.StatusCode, tc.want, tc.count, tc.next)
		}
		if next != "" {
			if u, err := url.Parse(next); err != nil || s.do("GET", u.String(), admin, "").StatusCode != 200 {
				t.Errorf("%s: the next link %s leads nowhere", tc.name, next)
			}
		}
	}
	s.run(t, []step{
		{"only", "GET", root + "/Systems?only", "", 200, map[string]any{"@odata.id": systemPath, "PowerState": "Off"}},
		{"select deep", "GET", systemPath + "?$select=Status/Health,PowerState", "", 200, map[string]any{"Status": "map[Health:OK]", "PowerState": "Off", "Name": nil, "@odata.id": systemPath}},
		{"select in arrays", "GET", reportsPath + "/" + platformReport + "?$select=MetricValues/MetricId", "", 200, map[string]any{"Timestamp": nil}},
		{"select all", "GET", systemPath + "?$select=*", "", 200, map[string]any{"PowerState": "Off", "Id": "1"}},
		{"select both ways", "GET", systemPath + "?$select=Status/Health,Status", "", 200, map[string]any{"Status/State": "Enabled"}},
		{"select members", "GET", procs + "?$select=Members", "", 200, map[string]any{"Members@odata.count": 3, "Name": nil}},
		{"excerpt", "GET", limitPath + "?excerpt", "", 200, map[string]any{"ControlMode": "Disabled", "Name": nil, "@odata.id": limitPath}},
		{"excerpts of a collection", "GET", sensorsPath + "?$expand=.&excerpt", "", 200, nil},
		{"expand and filter", "GET", procs + "?$expand=.&$filter=Id%20eq%20'GPU2'", "", 200, map[string]any{"Members@odata.count": 1}},
	})
	r := s.do("GET", sensorsPath+"?$expand=.&excerpt", admin, "")
	for _, m := range r.body["Members"].([]any) {
		if o := m.(obj); o["Name"] != nil || o["@odata.id"] == nil {
			t.Errorf("an excerpt is %v", o)
		}
	}
	if r := s.do("GET", accounts+"?$expand=.", "ro:ro", ""); strings.Contains(r.text, `"root"`) {
		t.Errorf("a reader sees other accounts through $expand: %s", r.text)
	}
	if r := s.do("GET", accounts+"?$filter=UserName%20eq%20'root'", "ro:ro", ""); len(ids(r)) > 0 {
		t.Errorf("a reader finds other accounts through $filter: %s", r.text)
	}
}

// TestSubscriptionFilters: which events a subscription gets is what it asked for.
func TestSubscriptionFilters(t *testing.T) {
	s := newService(t, nil)
	s.furnish(t)
	system, manager := (&Server{}).traits("system"), (&Server{}).traits("manager")
	for _, tc := range []struct {
		name, ask               string
		status                  int
		system, manager, report bool
	}{
		{"all", ``, 201, true, true, false},
		{"our registry", `,"RegistryPrefixes":["FettleVirtualBMC"]`, 201, true, true, false},
		{"no registry of ours", `,"RegistryPrefixes":["Base"]`, 400, false, false, false},
		{"our message", `,"MessageIds":["FettleVirtualBMC.1.0.LogEntryAdded"]`, 201, true, true, false},
		{"our message without version", `,"MessageIds":["FettleVirtualBMC.LogEntryAdded"]`, 201, true, true, false},
		{"no message of ours", `,"MessageIds":["Base.1.0.Success"]`, 400, false, false, false},
		{"both", `,"MessageIds":["FettleVirtualBMC.LogEntryAdded"],"RegistryPrefixes":["FettleVirtualBMC"]`, 400, false, false, false},
		{"systems", `,"ResourceTypes":["ComputerSystem"]`, 201, true, false, false},
		{"drives", `,"ResourceTypes":["Drive"]`, 400, false, false, false},
		{"the manager", `,"OriginResources":[{"@odata.id":"` + managerPath + `"}]`, 201, false, true, false},
		{"a collection alone", `,"OriginResources":[{"@odata.id":"` + root + `/Systems"}]`, 201, false, false, false},
		{"what is below it", `,"OriginResources":[{"@odata.id":"` + root + `/Systems"}],"SubordinateResources":true`, 201, true, false, false},
		{"nothing there", `,"OriginResources":[{"@odata.id":"` + root + `/Nope"}]`, 400, false, false, false},
		{"reports", `,"EventFormatType":"MetricReport"`, 201, false, false, true},
		{"no such format", `,"EventFormatType":"Trace"`, 400, false, false, false},
		{"events", `,"EventFormatType":"Event"`, 201, true, true, false},
		{"types", `,"EventTypes":["Alert"]`, 201, true, true, false},
		{"retries end", `,"DeliveryRetryPolicy":"TerminateAfterRetries"`, 400, false, false, false},
	} {
		r := s.do("POST", subscriptionsPath, admin, `{"Destination":"http://listener.example.org/","Protocol":"Redfish"`+tc.ask+`}`)
		if r.StatusCode != tc.status {
			t.Errorf("%s = %d %s; want %d", tc.name, r.StatusCode, r.text, tc.status)
			continue
		}
		if tc.status != 201 {
			continue
		}
		s.mu.Lock()
		got := s.subscriptions[len(s.subscriptions)-1]
		s.mu.Unlock()
		if a, b, c := got.wants(system), got.wants(manager), got.wants(platform().traits()); a != tc.system || b != tc.manager || c != tc.report {
			t.Errorf("%s gets events of the system %v, of the manager %v, reports %v; want %v, %v, %v", tc.name, a, b, c, tc.system, tc.manager, tc.report)
		}
		s.do("DELETE", r.Header.Get("Location"), admin, "")
	}
}
