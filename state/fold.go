package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// valid reports whether p is one of the phases of this package.
func (p Phase) valid() bool {
	switch p {
	case Unknown, Discovered, PoweringOn, Firmware, Netboot, Agent, Inspected,
		Deploying, Verifying, Seeding, Restarting, FirstBoot, Ready, Failed:
		return true
	default:
		return false
	}
}

// check says whether e may be appended: an event that Fold would have to
// guess about is refused before it is written.
func (e Event) check() error {
	if e.Kind == "" {
		return fmt.Errorf("an event of %q has no kind", e.Machine)
	}
	bad := func(err error) error {
		return fmt.Errorf("the data of event %s of %q: %w", e.Kind, e.Machine, err)
	}
	if len(e.Data) > 0 && !json.Valid(e.Data) {
		return bad(fmt.Errorf("it is not JSON"))
	}
	var err error
	switch e.Kind {
	case KindPhase:
		var d PhaseData
		if err = json.Unmarshal(e.Data, &d); err == nil && !d.Phase.valid() {
			err = fmt.Errorf("there is no phase %q", d.Phase)
		}
	case KindProgress:
		err = json.Unmarshal(e.Data, &ProgressData{})
	case KindPower:
		err = json.Unmarshal(e.Data, &PowerData{})
	case KindRun:
		err = json.Unmarshal(e.Data, &RunData{})
	case KindRunEnd:
		err = json.Unmarshal(e.Data, &RunEndData{})
	case KindInventory:
		if len(e.Data) == 0 {
			err = fmt.Errorf("it is empty")
		}
	case KindHealth:
		err = json.Unmarshal(e.Data, &HealthData{})
	}
	if err != nil {
		return bad(err)
	}
	return nil
}

// Fold returns what is known after e, given what was known before it. It is
// pure: s is not changed, no clock is read, and folding a machine's events in
// order from the zero Status gives its status again.
//
// Seconds holds the time spent in the phases that the latest run entered; a
// run's start empties it, and Ready and Failed, which last, are not counted. Reason
// stays until the next phase, so a failed machine says why until it moves on.
// A run that ends badly leaves its machine Failed. Data that Append would
// have refused changes nothing but LastSeq.
func Fold(s Status, e Event) Status {
	s.Machine = e.Machine
	s.LastSeq = e.Seq
	if s.Phase == "" {
		s.Phase = Unknown
	}
	if e.check() != nil {
		return s
	}
	switch e.Kind {
	case KindPhase:
		var d PhaseData
		_ = json.Unmarshal(e.Data, &d) // checked above
		s = enter(s, d.Phase, d.Reason, e.Time)
	case KindProgress:
		var d ProgressData
		_ = json.Unmarshal(e.Data, &d)
		s.Progress = &d
	case KindInventory:
		s.Inventory = e.Data
	case KindPower:
		var d PowerData
		_ = json.Unmarshal(e.Data, &d)
		s.Power = d.Power
	case KindRun:
		var d RunData
		_ = json.Unmarshal(e.Data, &d)
		s.Run, s.Action = e.Run, d.Action
		s.RunStart, s.RunEnd = e.Time, time.Time{}
		s.Progress, s.Seconds = nil, nil
		if d.Action == "deploy" {
			s.Image, s.Digest = d.Image, d.Digest
			s.Health = nil // of a system that goes
		}
	case KindHealth:
		var d HealthData
		_ = json.Unmarshal(e.Data, &d)
		s.Health = &d
	case KindRunEnd:
		var d RunEndData
		_ = json.Unmarshal(e.Data, &d)
		s = endRun(s, d, e.Time)
	}
	return s
}

// enter moves s to phase at t.
func enter(s Status, phase Phase, reason string, t time.Time) Status {
	if phase != s.Phase || s.Since.IsZero() || s.Since.Before(s.RunStart) {
		s = charge(s, t)
		s.Since = t
	}
	if phase != s.Phase {
		s.Progress = nil
	}
	s.Phase, s.Reason = phase, reason
	return s
}

// charge adds the time from the last change until t to the phase that s is
// in, when a run is under way and the phase was entered in it.
func charge(s Status, t time.Time) Status {
	switch {
	case s.RunStart.IsZero(), !s.RunEnd.IsZero(), // no run under way
		s.Since.Before(s.RunStart),          // entered before the run
		s.Phase == Ready, s.Phase == Failed: // these last
		return s
	}
	d := t.Sub(s.Since).Seconds()
	if d <= 0 {
		return s
	}
	s.Seconds = maps.Clone(s.Seconds)
	if s.Seconds == nil {
		s.Seconds = map[Phase]float64{}
	}
	s.Seconds[s.Phase] += d
	return s
}

// endRun ends the run of s at t.
func endRun(s Status, d RunEndData, t time.Time) Status {
	switch {
	case !d.OK && s.Phase != Failed:
		s = enter(s, Failed, d.Reason, t)
	case !d.OK:
		if d.Reason != "" {
			s.Reason = d.Reason
		}
	default:
		s = charge(s, t)
		if s.Action == "wipe" {
			s.Image, s.Digest, s.Health = "", "", nil
		}
	}
	s.RunEnd = t
	s.Progress = nil
	return s
}
