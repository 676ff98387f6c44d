package vbmc

import (
	"testing"
)

// TestSensors: what the resources of sensors say, by the power state and by a fault.
func TestSensors(t *testing.T) {
	s := newService(t, nil)
	get := func(path string) obj {
		t.Helper()
		r := s.do("GET", chassisPath+path, admin, "")
		if r.StatusCode != 200 {
			t.Fatalf("GET %s = %d %s", path, r.StatusCode, r.text)
		}
		return r.body
	}
	off := get("/Sensors/Fan1")
	if off["Reading"] != nil || at(off, "Status/State") != "UnavailableOffline" {
		t.Errorf("Fan1 of a machine that is off = %v", off)
	}
	if err := s.mem.Reset(t.Context(), ResetOn); err != nil {
		t.Fatal(err)
	}
	s.mem.SetFault(Fault{Sensors: map[string]float64{"Fan1": 300, "GPU2Temp": 87}})
	for _, tc := range []struct {
		id, kind, unit, health string
		reading                float64
	}{
		{"Fan1", "Rotational", "RPM", "Critical", 300},
		{"Fan2", "Rotational", "RPM", "OK", 5400},
		{"GPU2Temp", "Temperature", "Cel", "Warning", 87},
		{"PSU1Input", "Power", "W", "OK", 247},
		{"Rail12V", "Voltage", "V", "OK", 12.06},
	} {
		o := get("/Sensors/" + tc.id)
		if o["ReadingType"] != tc.kind || o["ReadingUnits"] != tc.unit || at(o, "Status/Health") != tc.health || o["Reading"] != tc.reading {
			t.Errorf("sensor %s = %v; want %+v", tc.id, o, tc)
		}
	}
	if o := get("/EnvironmentMetrics"); at(o, "PowerWatts/Reading") != 494.0 || at(o, "TemperatureCelsius/Reading") != 23.0 {
		t.Errorf("EnvironmentMetrics = %v; want 494 W and 23 degrees", o)
	}
	for path, n := range map[string]int{"/Sensors": 15, "/ThermalSubsystem/Fans": 6, "/PowerSubsystem/PowerSupplies": 2} {
		if o := get(path); len(o["Members"].([]any)) != n {
			t.Errorf("%s has %d members; want %d", path, len(o["Members"].([]any)), n)
		}
	}
	th, pw := get("/Thermal"), get("/Power")
	if len(th["Fans"].([]any)) != 6 || len(th["Temperatures"].([]any)) != 4 || len(pw["PowerSupplies"].([]any)) != 2 || len(pw["Voltages"].([]any)) != 1 {
		t.Errorf("Thermal = %v\nPower = %v", th, pw)
	}
	if r := s.do("GET", sensorsPath+"/None", admin, ""); r.StatusCode != 404 {
		t.Errorf("a sensor that there is not = %d; want 404", r.StatusCode)
	}
}
