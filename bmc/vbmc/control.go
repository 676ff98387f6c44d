package vbmc

import (
	"context"
	"errors"
	"fmt"
)

// PowerLimit bounds what the machine draws. Watts 0 is no limit.
type PowerLimit struct {
	Watts    float64
	Min, Max float64 // what can be set
}

// PowerLimiter is a Chassis whose power can be limited (DSP0268, Control;
// DCMI 1.5 §6.6).
type PowerLimiter interface {
	PowerLimit(ctx context.Context) (PowerLimit, error)
	SetPowerLimit(ctx context.Context, watts float64) error
}

const (
	controlsPath = chassisPath + "/Controls"
	limitPath    = controlsPath + "/PowerLimit"
)

func (s *Server) controlRoutes() []*resource {
	if _, ok := s.chassis.(PowerLimiter); !ok {
		return nil
	}
	get := func(c *call) (obj, error) {
		l, err := s.powerLimit(c.ctx)
		if err != nil {
			return nil, err
		}
		all, err := s.sensors(c.ctx)
		if err != nil {
			return nil, err
		}
		o := obj{"@odata.id": limitPath, "@odata.type": "#Control.v1_5_0.Control", "Id": "PowerLimit", "Name": "System Power Limit", "ControlType": "Power",
			"SetPointUnits": "W", "PhysicalContext": "Chassis", "Status": statusOK(), "Sensor": obj{"Reading": drawn(all)}}
		for k, v := range l.excerpt() {
			if k != "DataSourceUri" {
				o[k] = v
			}
		}
		return o, nil
	}
	return []*resource{
		{pattern: controlsPath, get: func(*call) (obj, error) {
			return collection(controlsPath, "ControlCollection", "Controls", limitPath), nil
		}},
		{pattern: limitPath, priv: privComponents, get: get, patch: func(c *call) ([]*message, error) {
			return patch(c, get, s.limitSetters(c, ""))
		}},
	}
}

func (s *Server) powerLimit(ctx context.Context) (PowerLimit, error) {
	l, err := s.chassis.(PowerLimiter).PowerLimit(ctx)
	if err != nil {
		return l, fmt.Errorf("reading the power limit: %w", err)
	}
	return l, nil
}

// excerpt is the limit in another resource.
func (l PowerLimit) excerpt() obj {
	o := obj{"DataSourceUri": limitPath, "AllowableMin": l.Min, "AllowableMax": l.Max, "SetPoint": nil, "ControlMode": "Disabled"}
	if l.Watts > 0 {
		o["SetPoint"], o["ControlMode"] = l.Watts, "Automatic"
	}
	return o
}

// limitSetters write the limit below a path: SetPoint in watts, ControlMode.
func (s *Server) limitSetters(c *call, prefix string) map[string]setter {
	return map[string]setter{
		prefix + "SetPoint": func(v any) (func() error, error) { return s.setLimit(c, prefix+"SetPoint", v) },
		prefix + "ControlMode": func(v any) (func() error, error) {
			switch v {
			case "Disabled":
				return s.setLimit(c, prefix+"ControlMode", nil)
			case "Automatic":
				return func() error { return nil }, nil // SetPoint says how much
			}
			return nil, msgNotInList(prefix+"ControlMode", v)
		},
	}
}

// setLimit checks a limit in watts; nil lifts it.
func (s *Server) setLimit(c *call, full string, v any) (func() error, error) {
	watts, ok := v.(float64)
	if !ok && v != nil {
		return nil, msgPropertyType(full, v)
	}
	l, err := s.powerLimit(c.ctx)
	if err != nil {
		return nil, err
	}
	if v != nil && (watts < l.Min || watts > l.Max) {
		return nil, msgOutOfRange(full, v)
	}
	return func() error {
		err := s.chassis.(PowerLimiter).SetPowerLimit(c.ctx, watts)
		if errors.Is(err, ErrUnsupported) {
			return msgReadOnly(full)
		}
		if err != nil {
			return fmt.Errorf("setting the power limit: %w", err)
		}
		what := "lifted"
		if watts > 0 {
			what = fmt.Sprintf("set to %g W", watts)
		}
		s.logEvent("system", "OK", fmt.Sprintf("Power limit %s by %s.", what, c.who.name))
		return nil
	}, nil
}

// drawn is what the power supplies take in, in watts.
func drawn(all []Sensor) float64 {
	watts := 0.0
	for _, x := range all {
		if x.Type == "Power" && x.Context == "PowerSupply" {
			watts += x.Reading
		}
	}
	return watts
}

// PowerLimit is the limit in force.
func (m *Memory) PowerLimit(ctx context.Context) (PowerLimit, error) {
	if err := m.enter(ctx); err != nil {
		return PowerLimit{}, err
	}
	defer m.mu.Unlock()
	return PowerLimit{Watts: m.limit, Min: 200, Max: 350 + 700*float64(len(m.info.GPUs))}, nil
}

// SetPowerLimit sets it; 0 lifts it.
func (m *Memory) SetPowerLimit(ctx context.Context, watts float64) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.fault.Lie {
		m.limit = watts
	}
	return nil
}
