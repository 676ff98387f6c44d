package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// PowerLimit bounds what a machine draws, in watts.
type PowerLimit struct {
	Watts float64  `json:"watts"` // 0 = no limit
	Min   *float64 `json:"min,omitempty"`
	Max   *float64 `json:"max,omitempty"`
	Drawn *float64 `json:"drawn,omitempty"` // now
}

// PowerLimit reads the limit.
func (c *Client) PowerLimit(ctx context.Context) (PowerLimit, error) {
	const doing = "reading the power limit"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return PowerLimit{}, err
	}
	defer cancel()
	l, err := c.drv.powerLimit(ctx)
	return l, c.t.own(ctx, doing, err)
}

// SetPowerLimit sets the limit, in watts; 0 lifts it. It is read back.
func (c *Client) SetPowerLimit(ctx context.Context, watts float64) error {
	doing := fmt.Sprintf("limiting power to %g W", watts)
	if watts == 0 {
		doing = "lifting the power limit"
	}
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	now, err := c.drv.powerLimit(ctx)
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	if watts < 0 || watts > 0 && (now.Min != nil && watts < *now.Min || now.Max != nil && *now.Max > 0 && watts > *now.Max) {
		return c.t.fail(doing, fmt.Errorf("the BMC takes %s to %s W", number0(now.Min), number0(now.Max)))
	}
	if err := c.drv.setPowerLimit(ctx, watts); err != nil {
		return c.t.own(ctx, doing, err)
	}
	last := PowerLimit{}
	err = c.wait(ctx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		var err error
		last, err = c.drv.powerLimit(ctx)
		return math.Abs(last.Watts-watts) < 1, c.t.own(ctx, doing, err)
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: it reads %g W", errNothing, last.Watts))
	}
	return err
}

func number0(f *float64) string {
	if f == nil {
		return "?"
	}
	return fmt.Sprintf("%g", *f)
}

// limitPlace is where a Redfish service keeps the limit: EnvironmentMetrics of
// the host's chassis, or Power, which came before it.
type limitPlace struct {
	path string
	old  bool
}

func (d *redfishDriver) findLimit(ctx context.Context) (limitPlace, PowerLimit, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return limitPlace{}, PowerLimit{}, err
	}
	places := s.Links.Chassis
	if len(places) == 0 {
		var coll struct{ Members refs }
		if err := d.optional(ctx, d.root.Chassis.path(), &coll); err != nil {
			return limitPlace{}, PowerLimit{}, err
		}
		places = coll.Members
	}
	for _, c := range places {
		var ch struct{ EnvironmentMetrics, Power ref }
		if err := d.optional(ctx, c.path(), &ch); err != nil {
			return limitPlace{}, PowerLimit{}, err
		}
		if p := ch.EnvironmentMetrics.path(); p != "" {
			var m struct {
				PowerWatts struct{ Reading maybe }
				Limit      *struct {
					SetPoint, AllowableMin, AllowableMax maybe
					ControlMode                          text
				} `json:"PowerLimitWatts"`
			}
			if err := d.optional(ctx, p, &m); err != nil {
				return limitPlace{}, PowerLimit{}, err
			}
			if m.Limit != nil {
				l := PowerLimit{Min: m.Limit.AllowableMin.v, Max: m.Limit.AllowableMax.v, Drawn: m.PowerWatts.Reading.v}
				if m.Limit.SetPoint.v != nil && m.Limit.ControlMode != "Disabled" {
					l.Watts = *m.Limit.SetPoint.v
				}
				return limitPlace{path: p}, l, nil
			}
		}
		if p := ch.Power.path(); p != "" {
			var m struct {
				PowerControl []struct {
					PowerConsumedWatts maybe
					PowerLimit         *struct{ LimitInWatts maybe }
				}
			}
			if err := d.optional(ctx, p, &m); err != nil {
				return limitPlace{}, PowerLimit{}, err
			}
			if len(m.PowerControl) > 0 && m.PowerControl[0].PowerLimit != nil {
				l := PowerLimit{Drawn: m.PowerControl[0].PowerConsumedWatts.v}
				if v := m.PowerControl[0].PowerLimit.LimitInWatts.v; v != nil {
					l.Watts = *v
				}
				return limitPlace{p, true}, l, nil
			}
		}
	}
	return limitPlace{}, PowerLimit{}, fmt.Errorf("%w: it shows no power limit in EnvironmentMetrics or Power", ErrUnsupported)
}

func (d *redfishDriver) powerLimit(ctx context.Context) (PowerLimit, error) {
	_, l, err := d.findLimit(ctx)
	return l, err
}

func (d *redfishDriver) setPowerLimit(ctx context.Context, watts float64) error {
	at, _, err := d.findLimit(ctx)
	if err != nil {
		return err
	}
	if at.old {
		var v any
		if watts > 0 {
			v = watts
		}
		return d.change(ctx, at.path, map[string]any{"PowerControl": []any{map[string]any{"PowerLimit": map[string]any{"LimitInWatts": v}}}})
	}
	set := map[string]any{"ControlMode": "Disabled"}
	if watts > 0 {
		set = map[string]any{"SetPoint": watts, "ControlMode": "Automatic"}
	}
	return d.change(ctx, at.path, map[string]any{"PowerLimitWatts": set})
}

// DCMI commands of the group extension (DCMI 1.5 §6.6).
const (
	netGroup        = 0x2c
	groupDCMI       = 0xdc
	cmdPowerReading = 0x02
	cmdGetLimit     = 0x03
	cmdSetLimit     = 0x04
	cmdUseLimit     = 0x05
	ccNoLimit       = 0x80 // of Get Power Limit: none is active
)

func (d *ipmiDriver) powerLimit(ctx context.Context) (PowerLimit, error) {
	var l PowerLimit
	if b, err := d.s.command(ctx, netGroup, cmdPowerReading, groupDCMI, 1, 0, 0); err == nil && len(b) >= 3 {
		w := float64(binary.LittleEndian.Uint16(b[1:]))
		l.Drawn = &w
	}
	b, err := d.s.command(ctx, netGroup, cmdGetLimit, groupDCMI, 0, 0)
	var cc *ccError
	switch {
	case errors.As(err, &cc) && cc.code == ccNoLimit:
		return l, nil
	case errors.As(err, &cc) && (cc.code == 0xc1 || cc.code == 0xd6):
		return l, fmt.Errorf("%w: it has no DCMI power limit: %w", ErrUnsupported, err)
	case err != nil:
		return l, d.explain(ctx, err)
	case len(b) < 6:
		return l, fmt.Errorf("its power limit has %d bytes instead of 14", len(b))
	}
	l.Watts = float64(binary.LittleEndian.Uint16(b[4:]))
	return l, nil
}

// setPowerLimit sets the limit and makes it active, or inactive (DCMI 1.5
// §6.6.3, §6.6.4): no action but the limit itself, within a second.
func (d *ipmiDriver) setPowerLimit(ctx context.Context, watts float64) error {
	if watts > math.MaxUint16 {
		return fmt.Errorf("IPMI takes %d W at most", math.MaxUint16)
	}
	on := byte(0)
	if watts > 0 {
		on = 1
		le := binary.LittleEndian
		data := []byte{groupDCMI, 0, 0, 0, 0}
		data = le.AppendUint16(data, uint16(watts))
		data = le.AppendUint32(data, 1000)      // correction within, ms
		data = append(data, 0, 0)               // reserved
		data = le.AppendUint16(data, uint16(1)) // sampled every second
		if _, err := d.s.command(ctx, netGroup, cmdSetLimit, data...); err != nil {
			return d.explain(ctx, err)
		}
	}
	if _, err := d.s.command(ctx, netGroup, cmdUseLimit, groupDCMI, on, 0, 0); err != nil {
		return d.explain(ctx, err)
	}
	return nil
}

// MetricValue is one value of the BMC's telemetry (DSP0268, MetricReport).
type MetricValue struct {
	Report   string `json:"report"`
	ID       string `json:"id"`
	Property string `json:"property"` // URI of what was measured
	Value    string `json:"value"`
	Time     string `json:"time,omitempty"`
}

// Telemetry reads the metric reports: on GPU baseboards one GET gives what
// hundreds of sensors would.
func (c *Client) Telemetry(ctx context.Context) ([]MetricValue, error) {
	const doing = "reading the telemetry"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	vs, err := d.telemetry(ctx)
	return vs, c.t.own(ctx, doing, err)
}

func (d *redfishDriver) telemetry(ctx context.Context) ([]MetricValue, error) {
	if d.root.TelemetryService.path() == "" {
		return nil, fmt.Errorf("%w: its Redfish service has no TelemetryService", ErrUnsupported)
	}
	var svc struct{ MetricReports ref }
	if _, err := d.get(ctx, d.root.TelemetryService.path(), &svc); err != nil {
		return nil, err
	}
	if svc.MetricReports.path() == "" {
		return nil, fmt.Errorf("%w: its TelemetryService has no reports", ErrUnsupported)
	}
	raw, missing, err := d.members(ctx, svc.MetricReports.path())
	if err != nil {
		return nil, err
	}
	out := []MetricValue{}
	for _, b := range raw {
		var r struct {
			ID     text `json:"Id"`
			Values []struct {
				ID        text `json:"MetricId"`
				Property  text `json:"MetricProperty"`
				Value     text `json:"MetricValue"`
				Timestamp text
			} `json:"MetricValues"`
		}
		if unmarshal(b, &r) != nil {
			continue
		}
		for _, v := range r.Values {
			out = append(out, MetricValue{string(r.ID), string(v.ID), string(v.Property), string(v.Value), string(v.Timestamp)})
		}
	}
	if len(out) == 0 && len(missing) > 0 {
		return nil, fmt.Errorf("none of its reports can be read: %s", missing[0])
	}
	return out, nil
}
