package vbmc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTrouble: each kind shows in the BMC as it would in a rack, and ends.
func TestTrouble(t *testing.T) {
	const sel = systemPath + "/LogServices/SEL/Entries"
	logged := func(s service, text string) bool { return strings.Contains(s.do("GET", sel, admin, "").text, text) }
	health := func(s service, path string) any { return at(s.do("GET", path, admin, "").body, "Status/Health") }
	for _, tc := range []struct {
		kind string
		path string // a resource whose health is critical meanwhile
		log  string
	}{
		{"fan", thermalPath + "/Fans/Fan1", "Fan1: 0 RPM"},
		{"temperature", sensorsPath + "/CPU1Temp", "99 °C"},
		{"psu", powerPath + "/PowerSupplies/PSU1Input", "Power supply 1 has failed"},
		{"gpu", systemPath + "/Processors/GPU1", "fallen off the bus"},
		{"power-loss", "", "AC power was lost"},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			s := newService(t, nil)
			s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
			tr, what, bytes, err := NewTrouble(tc.kind)
			if err != nil {
				t.Fatal(err)
			}
			s.SetTrouble(tr, what, bytes...)
			if tc.path != "" && health(s, tc.path) != "Critical" {
				t.Errorf("%s is %v; want Critical", tc.path, health(s, tc.path))
			}
			if !logged(s, tc.log) {
				t.Errorf("the log does not say %q", tc.log)
			}
			s.SetTrouble(Trouble{}, "It is over.")
			if tc.path != "" && health(s, tc.path) != "OK" || !logged(s, "It is over.") {
				t.Errorf("%s afterwards is %v, logged %v; want OK, true", tc.path, health(s, tc.path), logged(s, "It is over."))
			}
		})
	}
	if _, _, _, err := NewTrouble("flood"); err == nil {
		t.Error("NewTrouble(flood) gave no error")
	}
	for _, k := range TroubleKinds {
		if _, _, _, err := NewTrouble(k.Name); err != nil || k.Says == "" {
			t.Errorf("NewTrouble(%s): %v, says %q", k.Name, err, k.Says)
		}
	}
}

func TestTroubleOfTheBMC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		tok := s.do("POST", sessionsPath, "", `{"UserName":"op","Password":"op"}`).Header.Get("X-Auth-Token")
		s.SetTrouble(Trouble{Delay: 5 * time.Second}, "")
		start := time.Now()
		if c := s.do("GET", systemPath, admin, "").StatusCode; c != 200 || time.Since(start) != 5*time.Second {
			t.Errorf("a slow BMC answers %d after %s; want 200 after 5s", c, time.Since(start))
		}
		s.SetTrouble(Trouble{Refuse: true}, "")
		for _, who := range []string{admin, tok} {
			if c := s.do("GET", systemPath, who, "").StatusCode; c != 401 {
				t.Errorf("a BMC that refuses passwords answers %d; want 401", c)
			}
		}
		s.SetTrouble(Trouble{Hang: true}, "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := httptest.NewRecorder()
		start = time.Now()
		s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, root, nil))
		if time.Since(start) != time.Minute || w.Body.Len() > 0 {
			t.Errorf("a BMC that hangs answered %q after %s; want nothing until the client gives up", w.Body, time.Since(start))
		}
		s.SetTrouble(Trouble{LogFull: true}, "")
		count := func() any {
			return s.do("GET", systemPath+"/LogServices/SEL/Entries", admin, "").body["Members@odata.count"]
		}
		if count() != float64(maxEvents) {
			t.Errorf("a full log has %v entries; want %d", count(), maxEvents)
		}
		s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
		if strings.Contains(s.do("GET", systemPath+"/LogServices/SEL/Entries", admin, "").text, "Reset On") {
			t.Error("a full log took an entry")
		}
		s.do("POST", systemPath+"/LogServices/SEL/Actions/LogService.ClearLog", admin, "")
		if count() != 1.0 {
			t.Errorf("a cleared log has %v entries; want 1", count())
		}
	})
}
