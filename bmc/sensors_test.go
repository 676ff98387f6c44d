package bmc

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func find(r Readings, name string) *Sensor {
	i := slices.IndexFunc(r.Sensors, func(s Sensor) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Sensors[i]
}

func float(f float64) *float64 { return &f }

func sameFloat(a, b *float64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// The same sensors by Redfish and by IPMI.
func TestSensors(t *testing.T) {
	matrix.Test(t, "fettle, both", "sensors")
	fault := vbmc.Fault{Sensors: map[string]float64{"Fan1": 300, "GPU1Temp": 87}}
	rf, lan := newRig(t), newIPMIRig(t, vbmc.Config{})
	for _, tc := range []struct {
		name  string
		mem   *vbmc.Memory
		c     *Client
		exact bool // Redfish: IPMI rounds to a byte and tells no context
	}{{"redfish", rf.mem, rf.open(t), true}, {"ipmi", lan.mem, lan.open(t), false}} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := tc.c.Sensors(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s := find(r, "Fan1"); s == nil || s.Reading != nil {
				t.Errorf("Fan1 of a machine that is off = %+v; want no reading", s)
			}
			if err := tc.c.SetPower(t.Context(), PowerOn); err != nil {
				t.Fatal(err)
			}
			tc.mem.SetFault(fault)
			if r, err = tc.c.Sensors(t.Context()); err != nil {
				t.Fatal(err)
			}
			n := 13
			if tc.exact {
				n++ // what the supplies draw together, in Power
			}
			if len(r.Sensors) != n || len(r.Missing) != 0 {
				t.Errorf("%d sensors, missing %v; want %d and none", len(r.Sensors), r.Missing, n)
			}
			for _, want := range []Sensor{
				{Name: "Fan1", Kind: Fan, Context: "Fan", Unit: "RPM", Reading: float(300), Health: "Critical", Low: float(600)},
				{Name: "Fan2", Kind: Fan, Context: "Fan", Unit: "RPM", Reading: float(5400), Health: "OK", Low: float(600)},
				{Name: "GPU1 Temp", Kind: Temperature, Context: "GPU", Unit: "°C", Reading: float(87), Health: "Warning", High: float(90)},
				{Name: "12V Rail", Kind: Volts, Context: "SystemBoard", Unit: "V", Reading: float(12.06), Health: "OK", Low: float(10.8), High: float(13.2)},
				{Name: "GPU1 Power", Kind: Watts, Context: "GPU", Unit: "W", Reading: float(72), Health: "OK"},
			} {
				if !tc.exact {
					want.Context = ""
					if want.Kind == Watts {
						want.Reading = float(75) // steps of 25 W
					}
				}
				s := find(r, want.Name)
				if s == nil {
					t.Errorf("no sensor %s", want.Name)
					continue
				}
				near := s.Reading != nil && *s.Reading > *want.Reading-1e-6 && *s.Reading < *want.Reading+1e-6
				if !near || s.Kind != want.Kind || s.Context != want.Context || s.Unit != want.Unit || s.Health != want.Health || (s.Low == nil) != (want.Low == nil) || (s.High == nil) != (want.High == nil) {
					b, _ := json.Marshal(s)
					w, _ := json.Marshal(want)
					t.Errorf("sensor %s; want %s", b, w)
				}
			}
		})
	}
}

func TestSensorsOfTrees(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kinds map[Kind]int
		want  []Sensor
	}{
		{"dell", map[Kind]int{Temperature: 6, Fan: 6, Volts: 49, Amperes: 2, Watts: 8}, []Sensor{
			{ID: "SystemBoardInletTemp", Name: "System Board Inlet Temp", Kind: Temperature, Unit: "°C", Reading: float(25), High: float(42), Low: float(-7), Context: "SystemBoard", Health: "OK"},
			{ID: "PS1Voltage", Name: "PS1 Voltage 1", Kind: Volts, Unit: "V", Reading: float(240), Context: "PowerSupply", Health: "OK"},
		}},
		{"lenovo", map[Kind]int{Temperature: 14, Fan: 10, Volts: 8, Watts: 19}, []Sensor{
			{ID: "208L0", Name: "Ambient Temp", Kind: Temperature, Unit: "°C", Reading: float(19), High: float(46), Context: "Intake", Health: "OK"},
		}},
		{"nvidia_gb200", map[Kind]int{Temperature: 35, Fan: 18, Volts: 12, Watts: 13}, []Sensor{
			{ID: "PDB_0_Inlet_Temp_0", Name: "PDB 0 Inlet Temp 0", Kind: Temperature, Unit: "°C", Reading: float(33.937), High: float(85), Health: "OK"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rig, _ := treeRig(t, tc.name)
			r, err := rig.open(t).Sensors(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[Kind]int{}
			for _, s := range r.Sensors {
				kinds[s.Kind]++
			}
			t.Logf("%d requests; kinds %v; missing %v", rig.count(), kinds, r.Missing)
			for k, n := range tc.kinds {
				if kinds[k] != n {
					t.Errorf("%d sensors of kind %s; want %d", kinds[k], k, n)
				}
			}
			for _, want := range tc.want {
				s := find(r, want.Name)
				if s == nil || !sameFloat(s.Reading, want.Reading) || !sameFloat(s.High, want.High) || !sameFloat(s.Low, want.Low) || s.ID != want.ID || s.Kind != want.Kind || s.Unit != want.Unit || s.Context != want.Context || s.Health != want.Health {
					b, _ := json.Marshal(s)
					w, _ := json.Marshal(want)
					t.Errorf("sensor = %s;\nwant %s", b, w)
				}
			}
		})
	}
}

func TestLog(t *testing.T) {
	matrix.Test(t, "fettle, both", "event log, read and cleared")
	rf, lan := newRig(t), newIPMIRig(t, vbmc.Config{})
	for _, tc := range []struct {
		name, says, cleared string
		c                   *Client
	}{
		{"redfish", "Reset On by root.", "Log cleared by root.", rf.open(t)},
		{"ipmi", "initiated by power up", "", lan.open(t)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if es, err := tc.c.Log(t.Context()); err != nil || len(es) != 0 {
				t.Errorf("Log() of a new BMC = %v, %v; want none", es, err)
			}
			for _, a := range []Action{PowerOn, PowerOff} {
				if err := tc.c.SetPower(t.Context(), a); err != nil {
					t.Fatal(err)
				}
			}
			es, err := tc.c.Log(t.Context())
			if err != nil || len(es) != 2 || !strings.Contains(strings.ToLower(es[0].Message), strings.ToLower(tc.says)) || time.Since(es[0].Time).Abs() > time.Minute {
				t.Fatalf("Log() = %+v, %v; want 2 entries, the first %q, of now", es, err, tc.says)
			}
			if err := tc.c.ClearLog(t.Context()); err != nil {
				t.Fatal(err)
			}
			if es, err = tc.c.Log(t.Context()); err != nil || len(es) != 1 || !strings.Contains(es[0].Message, tc.cleared) {
				t.Errorf("Log() after ClearLog = %+v, %v; want one entry that says so", es, err)
			}
		})
	}
}

func TestLogOfTrees(t *testing.T) {
	for _, tc := range []struct {
		name  string
		n     int
		first LogEntry
	}{
		{"dell", 5, LogEntry{ID: "1022", Time: time.Date(2024, 6, 11, 5, 12, 59, 0, time.UTC), Severity: "OK", Message: "An OEM diagnostic event occurred."}},
		{"lenovo", 5, LogEntry{ID: "1", Time: time.Date(2024, 7, 18, 22, 0, 55, 851e6, time.UTC), Severity: "OK", Message: "The connector Front USB Detect has been detected as present or connected."}},
		{"nvidia_gb200", 10, LogEntry{ID: "1001", Time: time.Date(2024, 12, 30, 11, 59, 4, 0, time.UTC), Severity: "OK", Sensor: "Temperature", Message: "OpenBMC.0.1 Deassert, sensor 62"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rig, _ := treeRig(t, tc.name)
			c := rig.open(t)
			es, err := c.Log(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(es) != tc.n || len(es) > 0 && es[0] != tc.first {
				t.Errorf("%d entries, the first %+v; want %d, %+v", len(es), es[0], tc.n, tc.first)
			}
		})
	}
}

// FuzzSensorRecord: no record of a BMC makes the reading of it panic.
func FuzzSensorRecord(f *testing.F) {
	f.Add(make([]byte, 64), []byte{1, 0xc0, 0xc0})
	f.Add([]byte{1, 0, 0x51, 1, 43, 0x20, 0, 1, 0x40, 1, 0x7f, 0x68, 1, 1}, []byte{})
	f.Fuzz(func(t *testing.T, rec, reading []byte) {
		if full, err := fullSensor(rec); err == nil && full != nil {
			ipmiSensor(full, rec[18], reading)
		}
		if len(rec) >= 16 {
			selEntry(rec[:16])
		}
		var s sensorResource
		if json.Unmarshal(rec, &s) == nil {
			s.sensor()
		}
		var e logEntry
		if json.Unmarshal(rec, &e) == nil {
			e.entry()
		}
	})
}
