package bmc

import (
	"context"
	"slices"
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
	ctx, cancel, err := c.beginLong(ctx, doing)
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
	if f, ok := parseNumber(b); ok {
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
	Units           text // iLO 4
	PhysicalContext text
	Status          health
	Thresholds      struct {
		LowerCritical, LowerFatal, UpperCritical, UpperFatal struct{ Reading maybe }
	}
	Reading, ReadingCelsius, ReadingVolts  maybe
	ReadingRPM, CurrentReading             maybe // of fans: Redfish 1.0, iLO 4
	PowerConsumedWatts, PowerInputWatts    maybe
	LastPowerOutputWatts, PowerOutputWatts maybe
	// What is measured in a resource that has more than that (Excerpts).
	SpeedPercent, SpeedRPM                      excerpt
	InputPowerWatts                             excerpt
	OutputPowerWatts                            excerpt
	Metrics                                     ref
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
	if name == "" {
		name = id
	}
	th := s.Thresholds
	out := Sensor{ID: string(id), Name: string(name), Context: s.PhysicalContext.known(), Health: s.Status.own(), Reading: s.Reading.v,
		Low:  firstOf(th.LowerCritical.Reading, th.LowerFatal.Reading, s.LowerThresholdCritical, s.LowerThresholdFatal),
		High: firstOf(th.UpperCritical.Reading, th.UpperFatal.Reading, s.UpperThresholdCritical, s.UpperThresholdFatal)}
	out.Unit = unit(string(s.ReadingUnits))
	if out.Unit == "" && out.Reading != nil && *out.Reading != 0 {
		out.Unit = unitOf[string(s.ReadingType)]
	}
	out.Kind = kindOf(string(s.ReadingType), out.Unit, out.Context, out.Name)
	if name == "" || s.Status.absent() || s.Status.State == "Disabled" {
		return out, false
	}
	// A sensor with neither unit nor kind is a state (Lenovo lists them as
	// sensors of power that read 0): it is told when something is wrong.
	if out.Unit == "" && (out.Health == "OK" || out.Health == "") {
		return out, false
	}
	return out, true
}

// unitOf are the units of readings that tell their kind alone: those that the
// schema gives them (DSP0268, Sensor.ReadingType).
var unitOf = map[string]string{"Temperature": "°C", "Rotational": "RPM", "Power": "W", "Voltage": "V", "Current": "A", "Percent": "%"}

// unit is a unit of UCUM or of older services, in our words.
func unit(s string) string {
	switch strings.ToLower(s) {
	case "cel", "celsius", "degrees c", "degreesc", "degrees celsius", "c", "°c":
		return "°C"
	case "rpm", "rpms", "{rev}/min", "rev/min":
		return "RPM"
	case "%", "percent":
		return "%"
	case "w", "watt", "watts":
		return "W"
	case "v", "volt", "volts":
		return "V"
	case "a", "amp", "amps", "amperes":
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

// key is what two resources call the same measurement.
func (s Sensor) key() string { return string(s.Kind) + sameName(s.Name) }

// sameName compares names of one sensor in two resources.
func sameName(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// sensors reads Sensors of every chassis, and adds what only its other
// resources tell: the older Thermal and Power (Dell: voltages), or the fans and
// power supplies that came after them.
func (d *redfishDriver) sensors(ctx context.Context) (Readings, error) {
	r := &reader{redfishDriver: d, ctx: ctx}
	out := Readings{Sensors: []Sensor{}}
	for _, ch := range r.ownChassis() {
		have := map[string]bool{}
		add := func(from []sensorResource) {
			now := map[string]int{} // in this resource; two of one name in it are two
			at := len(out.Sensors)
			for _, s := range from {
				x, ok := s.sensor()
				if key := x.key(); ok && !have[key] {
					now[key]++
					out.Sensors = append(out.Sensors, x)
				}
			}
			for i, x := range out.Sensors[at:] { // iDRAC calls each supply's InputPowerSensor
				if key := x.key(); now[key] > 1 && x.ID != "" {
					out.Sensors[at+i].Name += " (" + x.ID + ")"
				}
			}
			for key := range now {
				have[key] = true
			}
		}
		add(list[sensorResource](r, ch.Sensors))
		if ch.Thermal.path() != "" {
			temps, fans := r.thermal(ch.Thermal)
			add(temps)
			add(fans)
		} else {
			add(r.fans(ch.ThermalSubsystem, have))
		}
		if ch.Power.path() != "" {
			for _, s := range r.power(ch.Power) {
				add(s)
			}
		} else {
			add(r.supplies(ch.PowerSubsystem))
		}
	}
	out.Missing = r.missing
	return out, r.err
}

// chassisSensors is what we use of Chassis for sensors.
type chassisSensors struct {
	ID                               string `json:"@odata.id"`
	Sensors, Thermal, Power          ref
	ThermalSubsystem, PowerSubsystem ref
	Links                            struct{ ComputerSystems refs }
}

// ownChassis are the chassis of the service; where it has several nodes, without
// those that are other nodes' alone.
func (r *reader) ownChassis() []chassisSensors {
	all := list[chassisSensors](r, r.root.Chassis)
	if r.t.System == "" || r.err != nil {
		return all
	}
	s, _, err := r.system(r.ctx)
	if err != nil {
		r.err = err
		return nil
	}
	return slices.DeleteFunc(all, func(c chassisSensors) bool {
		return len(c.Links.ComputerSystems) > 0 &&
			!slices.ContainsFunc(c.Links.ComputerSystems, func(x ref) bool { return same(x.path(), s.ID) }) &&
			!slices.ContainsFunc(s.Links.Chassis, func(x ref) bool { return same(x.path(), c.ID) })
	})
}

// thermal reads Thermal; the units are in the names of its properties.
func (r *reader) thermal(from ref) (temps, fans []sensorResource) {
	var t struct{ Temperatures, Fans []sensorResource }
	if !r.one(from, &t) {
		return nil, nil
	}
	for _, s := range t.Temperatures {
		s.Reading, s.ReadingUnits = maybe{firstOf(s.ReadingCelsius, s.CurrentReading)}, "Cel"
		temps = append(temps, s)
	}
	for _, s := range t.Fans {
		s.Reading = maybe{firstOf(s.Reading, s.ReadingRPM, s.CurrentReading)}
		if s.ReadingUnits == "" {
			s.ReadingUnits = s.Units
		}
		if s.ReadingUnits == "" {
			s.ReadingUnits = "RPM"
		}
		s.ReadingType = "Rotational"
		fans = append(fans, s)
	}
	return temps, fans
}

// power reads Power: what is drawn, what the supplies take, and voltages.
func (r *reader) power(from ref) (all [][]sensorResource) {
	var p struct{ PowerControl, PowerSupplies, Voltages []sensorResource }
	if !r.one(from, &p) {
		return nil
	}
	var drawn []sensorResource
	for _, s := range p.PowerControl {
		if s.PowerConsumedWatts.v != nil {
			s.Reading, s.ReadingUnits = s.PowerConsumedWatts, "W"
			drawn = append(drawn, s)
		}
	}
	for i, s := range p.PowerSupplies {
		p.PowerSupplies[i].Reading, p.PowerSupplies[i].ReadingUnits = maybe{firstOf(s.PowerInputWatts, s.LastPowerOutputWatts, s.PowerOutputWatts)}, "W"
	}
	for i, s := range p.Voltages {
		p.Voltages[i].Reading, p.Voltages[i].ReadingUnits = s.ReadingVolts, "V"
	}
	return [][]sensorResource{drawn, p.PowerSupplies, p.Voltages}
}

// excerpt is a sensor's reading within another resource (DSP0266 §9.10).
type excerpt struct {
	Reading  maybe
	SpeedRPM maybe
}

// fans reads the fans of a ThermalSubsystem (DSP0268) that Sensors does not tell;
// have are those that are known.
func (r *reader) fans(from ref, have map[string]bool) (out []sensorResource) {
	for key := range have {
		if strings.HasPrefix(key, string(Fan)) {
			return nil // Sensors has them, under names of its own
		}
	}
	var t struct{ Fans ref }
	if !r.one(from, &t) {
		return nil
	}
	for _, s := range list[sensorResource](r, t.Fans) {
		s.ReadingType = "Rotational"
		switch {
		case s.SpeedRPM.Reading.v != nil:
			s.Reading, s.ReadingUnits = s.SpeedRPM.Reading, "RPM"
		case s.SpeedPercent.SpeedRPM.v != nil:
			s.Reading, s.ReadingUnits = s.SpeedPercent.SpeedRPM, "RPM"
		default:
			s.Reading, s.ReadingUnits = s.SpeedPercent.Reading, "%"
		}
		out = append(out, s)
	}
	return out
}

// supplies reads the power supplies of a PowerSubsystem: their health is told
// nowhere else.
func (r *reader) supplies(from ref) (out []sensorResource) {
	var p struct{ PowerSupplies ref }
	if !r.one(from, &p) {
		return nil
	}
	for _, s := range list[sensorResource](r, p.PowerSupplies) {
		s.ReadingUnits, s.ReadingType = "W", "Power"
		var m sensorResource
		if !s.Status.absent() && s.Metrics.path() != "" {
			r.one(s.Metrics, &m)
		}
		s.Reading = maybe{firstOf(m.InputPowerWatts.Reading, m.OutputPowerWatts.Reading)}
		out = append(out, s)
	}
	return out
}
