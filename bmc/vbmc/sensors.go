package vbmc

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Sensor is one measurement of a chassis.
type Sensor struct {
	ID      string // e.g. "GPU1Temp"; unique in the chassis
	Name    string
	Type    string // Redfish Sensor.ReadingType: "Temperature", "Rotational", "Power", "Voltage"
	Context string // Redfish PhysicalContext: "Intake", "CPU", "GPU", "Fan", "PowerSupply"
	Reading float64
	// Thresholds; 0 is none. Low ones are for fans and voltages.
	LowCritical, Caution, Critical float64
	// Absent: the sensor reads nothing at present, as those of a machine that is off.
	Absent bool
	// Failed: the part that it is of is broken.
	Failed bool
}

// SensorReader is a Chassis that measures.
type SensorReader interface {
	Sensors(ctx context.Context) ([]Sensor, error)
}

// health is what a reading means by its thresholds.
func (s Sensor) health() string {
	switch {
	case s.Failed:
		return "Critical"
	case s.Absent:
		return "OK"
	case s.Critical != 0 && s.Reading >= s.Critical, s.LowCritical != 0 && s.Reading <= s.LowCritical:
		return "Critical"
	case s.Caution != 0 && s.Reading >= s.Caution:
		return "Warning"
	}
	return "OK"
}

func (s Sensor) unit() string {
	return map[string]string{"Temperature": "Cel", "Rotational": "RPM", "Power": "W", "Voltage": "V"}[s.Type]
}

// sensors are those of the chassis; none where it measures nothing.
func (s *Server) sensors(ctx context.Context) ([]Sensor, error) {
	r, ok := s.chassis.(SensorReader)
	if !ok {
		return nil, nil
	}
	all, err := r.Sensors(ctx)
	if errors.Is(err, ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sensors: %w", err)
	}
	all = s.limited(s.Trouble().afflict(all))
	s.crossed(all)
	return all, nil
}

// resource is a Sensor (DSP0268).
func (s Sensor) resource() obj {
	state := "Enabled"
	var reading any = s.Reading
	if s.Absent {
		state, reading = "UnavailableOffline", nil
	}
	th := obj{}
	for name, v := range map[string]float64{"LowerCritical": s.LowCritical, "UpperCaution": s.Caution, "UpperCritical": s.Critical} {
		if v != 0 {
			th[name] = obj{"Reading": v}
		}
	}
	return obj{"@odata.id": sensorsPath + "/" + s.ID, "@odata.type": "#Sensor.v1_9_0.Sensor", "Id": s.ID, "Name": s.Name, "ReadingType": s.Type,
		"ReadingUnits": s.unit(), "PhysicalContext": nullable(s.Context), "Reading": reading, "Thresholds": th,
		"Status": obj{"State": state, "Health": s.health()}}
}

const (
	sensorsPath = chassisPath + "/Sensors"
	thermalPath = chassisPath + "/ThermalSubsystem"
	powerPath   = chassisPath + "/PowerSubsystem"
)

// excerpt is a reading in another resource, with where it comes from.
func (s Sensor) excerpt() obj {
	o := obj{"DataSourceUri": sensorsPath + "/" + s.ID, "Reading": s.Reading}
	if s.Absent {
		o["Reading"] = nil
	}
	return o
}

// sensorRoutes are Sensors, the ThermalSubsystem and PowerSubsystem, and
// Thermal and Power, which came before them.
func (s *Server) sensorRoutes() []*resource {
	with := func(f func(c *call, all []Sensor) obj) func(*call) (obj, error) {
		return func(c *call) (obj, error) {
			all, err := s.sensors(c.ctx)
			if err != nil {
				return nil, err
			}
			o := f(c, all)
			if o == nil {
				return nil, msgNotFound(c.path)
			}
			return o, nil
		}
	}
	paths := func(base string, all []Sensor, kind, context string) []string {
		var out []string
		for _, x := range all {
			if (kind == "" || x.Type == kind) && (context == "" || x.Context == context) {
				out = append(out, base+"/"+x.ID)
			}
		}
		return out
	}
	find := func(all []Sensor, id, kind string) *Sensor {
		for i := range all {
			if all[i].ID == id && (kind == "" || all[i].Type == kind) {
				return &all[i]
			}
		}
		return nil
	}
	return []*resource{
		{pattern: sensorsPath, get: with(func(_ *call, all []Sensor) obj {
			return collection(sensorsPath, "SensorCollection", "Sensors", paths(sensorsPath, all, "", "")...)
		})},
		{pattern: sensorsPath + "/{id}", get: with(func(c *call, all []Sensor) obj {
			if x := find(all, c.vars["id"], ""); x != nil {
				return x.resource()
			}
			return nil
		})},
		{pattern: thermalPath, get: func(*call) (obj, error) {
			return obj{"@odata.id": thermalPath, "@odata.type": "#ThermalSubsystem.v1_3_2.ThermalSubsystem", "Id": "ThermalSubsystem", "Name": "Thermal Subsystem",
				"Status": statusOK(), "Fans": link(thermalPath + "/Fans"), "ThermalMetrics": link(thermalPath + "/ThermalMetrics")}, nil
		}},
		{pattern: thermalPath + "/ThermalMetrics", get: with(func(c *call, all []Sensor) obj {
			temps := []obj{}
			for _, x := range all {
				if x.Type == "Temperature" {
					e := x.excerpt()
					e["DeviceName"], e["PhysicalContext"] = x.Name, nullable(x.Context)
					temps = append(temps, e)
				}
			}
			return obj{"@odata.id": c.path, "@odata.type": "#ThermalMetrics.v1_3_1.ThermalMetrics", "Id": "ThermalMetrics", "Name": "Thermal Metrics",
				"TemperatureReadingsCelsius": temps}
		})},
		{pattern: thermalPath + "/Fans", get: with(func(c *call, all []Sensor) obj {
			return collection(c.path, "FanCollection", "Fans", paths(c.path, all, "Rotational", "")...)
		})},
		{pattern: thermalPath + "/Fans/{id}", get: with(func(c *call, all []Sensor) obj {
			x := find(all, c.vars["id"], "Rotational")
			if x == nil {
				return nil
			}
			speed := x.excerpt()
			speed["SpeedRPM"] = speed["Reading"]
			delete(speed, "Reading")
			return obj{"@odata.id": c.path, "@odata.type": "#Fan.v1_5_2.Fan", "Id": x.ID, "Name": x.Name, "PhysicalContext": "Chassis",
				"SpeedPercent": speed, "Status": obj{"State": "Enabled", "Health": x.health()}}
		})},
		{pattern: powerPath, get: func(*call) (obj, error) {
			return obj{"@odata.id": powerPath, "@odata.type": "#PowerSubsystem.v1_1_2.PowerSubsystem", "Id": "PowerSubsystem", "Name": "Power Subsystem",
				"Status": statusOK(), "PowerSupplies": link(powerPath + "/PowerSupplies")}, nil
		}},
		{pattern: powerPath + "/PowerSupplies", get: with(func(c *call, all []Sensor) obj {
			return collection(c.path, "PowerSupplyCollection", "Power Supplies", paths(c.path, all, "Power", "PowerSupply")...)
		})},
		{pattern: powerPath + "/PowerSupplies/{id}", get: with(func(c *call, all []Sensor) obj {
			x := find(all, c.vars["id"], "Power")
			if x == nil || x.Context != "PowerSupply" {
				return nil
			}
			return obj{"@odata.id": c.path, "@odata.type": "#PowerSupply.v1_6_0.PowerSupply", "Id": x.ID, "Name": strings.TrimSuffix(x.Name, " Input Power"),
				"PowerSupplyType": "AC", "Status": obj{"State": "Enabled", "Health": x.health()}}
		})},
		{pattern: chassisPath + "/EnvironmentMetrics", priv: privComponents, get: s.environment, patch: s.patchEnvironment},
		{pattern: chassisPath + "/Thermal", get: with(oldThermal)},
		{pattern: chassisPath + "/Power", priv: privComponents, get: s.oldPower, patch: s.patchOldPower},
	}
}

// environment is EnvironmentMetrics of the chassis.
func (s *Server) environment(c *call) (obj, error) {
	all, err := s.sensors(c.ctx)
	if err != nil {
		return nil, err
	}
	o := obj{"@odata.id": c.path, "@odata.type": "#EnvironmentMetrics.v1_3_1.EnvironmentMetrics", "Id": "EnvironmentMetrics", "Name": "Environment Metrics"}
	for _, x := range all {
		if x.Type == "Temperature" && x.Context == "Intake" {
			o["TemperatureCelsius"] = x.excerpt()
		}
	}
	o["PowerWatts"] = obj{"Reading": drawn(all)}
	if _, ok := s.chassis.(PowerLimiter); ok {
		l, err := s.powerLimit(c.ctx)
		if err != nil {
			return nil, err
		}
		o["PowerLimitWatts"] = l.excerpt()
	}
	return o, nil
}

func (s *Server) patchEnvironment(c *call) ([]*message, error) {
	set := map[string]setter{}
	if _, ok := s.chassis.(PowerLimiter); ok {
		set = s.limitSetters(c, "PowerLimitWatts/")
	}
	return patch(c, s.environment, set)
}

// oldThermal is Thermal, deprecated by the DMTF and read by many.
func oldThermal(c *call, all []Sensor) obj {
	temps, fans := []obj{}, []obj{}
	for _, x := range all {
		r := x.resource()
		o := obj{"Name": x.Name, "PhysicalContext": r["PhysicalContext"], "Status": r["Status"]}
		switch x.Type {
		case "Temperature":
			o["@odata.id"], o["MemberId"] = fmt.Sprintf("%s#/Temperatures/%d", c.path, len(temps)), fmt.Sprint(len(temps))
			o["ReadingCelsius"], o["UpperThresholdCritical"] = r["Reading"], number(x.Critical)
			temps = append(temps, o)
		case "Rotational":
			o["@odata.id"], o["MemberId"] = fmt.Sprintf("%s#/Fans/%d", c.path, len(fans)), fmt.Sprint(len(fans))
			o["Reading"], o["ReadingUnits"], o["LowerThresholdCritical"] = r["Reading"], "RPM", number(x.LowCritical)
			fans = append(fans, o)
		}
	}
	return obj{"@odata.id": c.path, "@odata.type": "#Thermal.v1_7_3.Thermal", "Id": "Thermal", "Name": "Thermal",
		"Temperatures": temps, "Fans": fans, "Redundancy": []obj{}}
}

// oldPower is Power, deprecated as well.
func (s *Server) oldPower(c *call) (obj, error) {
	all, err := s.sensors(c.ctx)
	if err != nil {
		return nil, err
	}
	volts, supplies := []obj{}, []obj{}
	for _, x := range all {
		r := x.resource()
		o := obj{"Name": x.Name, "Status": r["Status"]}
		switch {
		case x.Type == "Voltage":
			o["@odata.id"], o["MemberId"] = fmt.Sprintf("%s#/Voltages/%d", c.path, len(volts)), fmt.Sprint(len(volts))
			o["ReadingVolts"], o["LowerThresholdCritical"] = r["Reading"], number(x.LowCritical)
			volts = append(volts, o)
		case x.Type == "Power" && x.Context == "PowerSupply":
			o["@odata.id"], o["MemberId"] = fmt.Sprintf("%s#/PowerSupplies/%d", c.path, len(supplies)), fmt.Sprint(len(supplies))
			o["PowerInputWatts"] = r["Reading"]
			supplies = append(supplies, o)
		}
	}
	control := []obj{}
	if len(supplies) > 0 {
		control = append(control, obj{"@odata.id": c.path + "#/PowerControl/0", "MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": drawn(all)})
	}
	if _, ok := s.chassis.(PowerLimiter); ok && len(control) > 0 {
		l, err := s.powerLimit(c.ctx)
		if err != nil {
			return nil, err
		}
		control[0]["PowerLimit"] = obj{"LimitInWatts": number(l.Watts)}
	}
	return obj{"@odata.id": c.path, "@odata.type": "#Power.v1_7_3.Power", "Id": "Power", "Name": "Power",
		"PowerControl": control, "Voltages": volts, "PowerSupplies": supplies, "Redundancy": []obj{}}, nil
}

// patchOldPower writes PowerControl[0].PowerLimit.LimitInWatts.
func (s *Server) patchOldPower(c *call) ([]*message, error) {
	set := map[string]setter{}
	if _, ok := s.chassis.(PowerLimiter); ok {
		const full = "PowerControl/0/PowerLimit/LimitInWatts"
		set[full] = func(v any) (func() error, error) { return s.setLimit(c, full, v) }
	}
	return patch(c, s.oldPower, set)
}

// number is nil for a threshold that there is not.
func number(f float64) any {
	if f == 0 {
		return nil
	}
	return f
}

// Sensors are those of a server of the chassis' make-up: an intake, a processor,
// every GPU, fans, two power supplies and a rail. They follow the power state.
func (m *Memory) Sensors(ctx context.Context) ([]Sensor, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	all := UsualSensors(m.info, m.power == On)
	for i, s := range all {
		if v, ok := m.fault.Sensors[s.ID]; ok {
			all[i].Reading, all[i].Absent = v, false
		}
	}
	return all, nil
}
