package bmc

import (
	"context"
	"strconv"
	"strings"
	"unicode"
)

// Kind is what a sensor measures.
type Kind string

// Kinds of sensors.
const (
	Temperature Kind = "temperature"
	Fan         Kind = "fan"
	Watts       Kind = "power"
	Volts       Kind = "voltage"
	Amperes     Kind = "current"
	OtherKind   Kind = "other"
)

// Sensor is one measurement.
type Sensor struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Kind    Kind     `json:"kind"`
	Context string   `json:"context"` // what of the machine, in Redfish's words: GPU, CPU, Intake; "" when unsaid
	Reading *float64 `json:"reading"` // nil: none at present
	Unit    string   `json:"unit"`    // "°C", "RPM", "%", "W", "V", "A"
	Health  string   `json:"health"`  // "OK", "Warning", "Critical"; "" when unsaid
	// Low and High are the critical thresholds, where the BMC tells them.
	Low  *float64 `json:"low,omitempty"`
	High *float64 `json:"high,omitempty"`
}

// Readings are the sensors of a machine.
type Readings struct {
	Sensors []Sensor `json:"sensors"`
	// Missing names what the BMC lists and did not show.
	Missing []string `json:"missing,omitempty"`
}

// Sensors reads temperatures, fans, power and voltages, those of GPUs too.
func (c *Client) Sensors(ctx context.Context) (Readings, error) {
	const doing = "reading the sensors"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return Readings{}, err
	}
	defer cancel()
	r, err := c.drv.sensors(ctx)
	return r, c.t.own(ctx, doing, err)
}

// maybe is a number that may be unsaid: null, or a text that is none.
type maybe struct{ v *float64 }

func (m *maybe) UnmarshalJSON(b []byte) error {
	if f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64); err == nil {
		m.v = &f
	}
	return nil
}

func firstOf(ms ...maybe) *float64 {
	for _, m := range ms {
		if m.v != nil {
			return m.v
		}
	}
	return nil
}

// sensorResource is what we use of Sensor, and of the entries of Thermal and
// Power that came before it (DSP0268).
type sensorResource struct {
	ID              text `json:"Id"`
	MemberID        text `json:"MemberId"`
	Name, FanName   text
	ReadingType     text
	ReadingUnits    text
	PhysicalContext text
	Status          health
	Thresholds      struct {
		LowerCritical, LowerFatal, UpperCritical, UpperFatal struct{ Reading maybe }
	}
	Reading, ReadingCelsius, ReadingVolts       maybe
	PowerConsumedWatts, PowerInputWatts         maybe
	LastPowerOutputWatts                        maybe
	LowerThresholdCritical, LowerThresholdFatal maybe
	UpperThresholdCritical, UpperThresholdFatal maybe
}

// sensor is the resource in our words; ok is false for what measures nothing.
func (s sensorResource) sensor() (Sensor, bool) {
	name := s.Name
	if name == "" {
		name = s.FanName
	}
	id := s.ID
	if id == "" {
		id = s.MemberID
	}
	th := s.Thresholds
	out := Sensor{ID: string(id), Name: string(name), Context: s.PhysicalContext.known(), Health: s.Status.own(), Reading: s.Reading.v,
		Low:  firstOf(th.LowerCritical.Reading, th.LowerFatal.Reading, s.LowerThresholdCritical, s.LowerThresholdFatal),
		High: firstOf(th.UpperCritical.Reading, th.UpperFatal.Reading, s.UpperThresholdCritical, s.UpperThresholdFatal)}
	out.Unit = unit(string(s.ReadingUnits))
	out.Kind = kindOf(string(s.ReadingType), out.Unit, out.Context, out.Name)
	if s.Status.absent() || s.Status.State == "Disabled" {
		return out, false
	}
	// A sensor with neither unit nor kind is a state (Lenovo lists them as
	// sensors of power that read 0): it is told when something is wrong.
	if out.Unit == "" && (out.Health == "OK" || out.Health == "") {
		return out, false
	}
	return out, true
}

// unit is a unit of UCUM or of older services, in our words.
func unit(s string) string {
	switch strings.ToLower(s) {
	case "cel", "celsius", "degrees c", "c":
		return "°C"
	case "rpm", "{rev}/min":
		return "RPM"
	case "%", "percent":
		return "%"
	case "w", "watts":
		return "W"
	case "v", "volts":
		return "V"
	case "a", "amps":
		return "A"
	}
	return s
}

// kindOf goes by what is said, then by the unit.
func kindOf(reading, unit, context, name string) Kind {
	fan := context == "Fan" || context == "SystemBoard/Fan" || strings.Contains(strings.ToLower(name), "fan")
	switch {
	case unit == "RPM", unit == "%" && (fan || reading == "Rotational"):
		return Fan
	case reading == "Temperature", unit == "°C":
		return Temperature
	case reading == "Power" && unit != "%", unit == "W":
		return Watts
	case reading == "Voltage", unit == "V":
		return Volts
	case reading == "Current", unit == "A":
		return Amperes
	}
	return OtherKind
}

// sameName compares names of one sensor in two resources.
func sameName(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// sensors reads Sensors of every chassis, and adds what only the older Thermal
// and Power tell (Dell: voltages).
func (d *redfishDriver) sensors(ctx context.Context) (Readings, error) {
	r := &reader{redfishDriver: d, ctx: ctx}
	var out Readings
	for _, ch := range list[chassisSensors](r, d.root.Chassis) {
		have := map[string]bool{}
		add := func(s sensorResource) {
			x, ok := s.sensor()
			if key := sameName(x.Name); ok && !have[key] {
				have[key] = true
				out.Sensors = append(out.Sensors, x)
			}
		}
		for _, s := range list[sensorResource](r, ch.Sensors) {
			add(s)
		}
		for _, s := range r.thermal(ch.Thermal) {
			add(s)
		}
		for _, s := range r.power(ch.Power) {
			add(s)
		}
	}
	out.Missing = r.missing
	return out, r.err
}

// chassisSensors is what we use of Chassis for sensors.
type chassisSensors struct {
	Sensors, Thermal, Power ref
}

// thermal reads Thermal; the units are in the names of its properties.
func (r *reader) thermal(from ref) (all []sensorResource) {
	var t struct{ Temperatures, Fans []sensorResource }
	if !r.one(from, &t) {
		return nil
	}
	for _, s := range t.Temperatures {
		s.Reading, s.ReadingUnits = s.ReadingCelsius, "Cel"
		all = append(all, s)
	}
	for _, s := range t.Fans {
		if s.ReadingUnits == "" {
			s.ReadingUnits = "RPM"
		}
		s.ReadingType = "Rotational"
		all = append(all, s)
	}
	return all
}

// power reads Power.
func (r *reader) power(from ref) (all []sensorResource) {
	var p struct{ PowerControl, PowerSupplies, Voltages []sensorResource }
	if !r.one(from, &p) {
		return nil
	}
	for _, s := range p.PowerControl {
		if s.PowerConsumedWatts.v != nil {
			s.Reading, s.ReadingUnits = s.PowerConsumedWatts, "W"
			all = append(all, s)
		}
	}
	for _, s := range p.PowerSupplies {
		s.Reading, s.ReadingUnits = maybe{firstOf(s.PowerInputWatts, s.LastPowerOutputWatts)}, "W"
		all = append(all, s)
	}
	for _, s := range p.Voltages {
		s.Reading, s.ReadingUnits = s.ReadingVolts, "V"
		all = append(all, s)
	}
	return all
}

// one reads a resource that may be missing.
func (r *reader) one(from ref, v any) bool {
	if r.err != nil || from.path() == "" {
		return false
	}
	if _, err := r.get(r.ctx, from.path(), v); err != nil {
		r.note(from.path(), err)
		return false
	}
	return true
}
