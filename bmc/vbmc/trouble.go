package vbmc

import (
	"context"
	"fmt"
	"time"
)

// Trouble is what befalls a rack, on demand: of the machine as its BMC sees it,
// and of the BMC itself. The zero Trouble is none.
type Trouble struct {
	// Sensors are readings, by sensor id, in place of the chassis' own.
	Sensors map[string]float64
	// Failed are sensors whose part is broken: critical, whatever they read.
	Failed map[string]bool
	// FailedGPUs are GPUs, by id, that fell off the bus.
	FailedGPUs map[string]bool
	// Hang: requests are not answered until their client gives up.
	Hang bool
	// Delay holds every answer back.
	Delay time.Duration
	// Refuse: every password is wrong. Open sessions end.
	Refuse bool
	// LogFull: the system's log takes no more entries.
	LogFull bool
}

// SetTrouble brings trouble, or ends it with the zero Trouble. what, unless
// empty, is what the event log says of it, critical or, when it ends, not.
func (s *Server) SetTrouble(t Trouble, what string, sel ...byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Refuse {
		clear(s.sessions)
	}
	if t.LogFull && !s.trouble.LogFull {
		for len(s.events["system"]) < maxEvents {
			s.record("system", "Warning", "Filler: a correctable memory error was logged.", 0x0c, 0)
		}
	}
	over := !t.any()
	s.trouble = Trouble{} // what happens is logged, a full log or not
	if what != "" {
		sev := "Critical"
		if over {
			sev = "OK"
		}
		if !t.LogFull {
			s.record("system", sev, what, sel...)
		}
	}
	s.trouble = t
}

func (t Trouble) any() bool {
	return len(t.Sensors)+len(t.Failed)+len(t.FailedGPUs) > 0 || t.Hang || t.Delay > 0 || t.Refuse || t.LogFull
}

// Trouble is what befalls the machine now.
func (s *Server) Trouble() Trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// suffer holds an answer back as the trouble says; false: there is none to give.
// Of the trouble of a BMC all its nodes have their part.
func (s *Server) suffer(ctx context.Context) bool {
	for _, n := range s.nodes {
		if n.s != s && !n.s.suffer(ctx) {
			return false
		}
	}
	t := s.Trouble()
	if t.Hang {
		<-ctx.Done()
		return false
	}
	if t.Delay > 0 {
		timer := time.NewTimer(t.Delay)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
	}
	return true
}

// refuses tells that every password is wrong. s.mu is held.
func (s *Server) refuses() bool {
	for _, n := range s.nodes {
		if n.s.trouble.Refuse {
			return true
		}
	}
	return s.trouble.Refuse
}

// afflict puts the trouble over what the chassis measures.
func (t Trouble) afflict(all []Sensor) []Sensor {
	for i, x := range all {
		if v, ok := t.Sensors[x.ID]; ok {
			all[i].Reading, all[i].Absent = v, false
		}
		all[i].Failed = x.Failed || t.Failed[x.ID]
	}
	return all
}

// UsualSensors are those of a server of such a make-up, on or off: an intake, a
// processor, every GPU, fans, two power supplies and a rail.
func UsualSensors(in Info, on bool) []Sensor {
	all := []Sensor{
		{ID: "InletTemp", Name: "Inlet Temp", Type: "Temperature", Context: "Intake", Reading: 23, Caution: 38, Critical: 42},
		{ID: "CPU1Temp", Name: "CPU1 Temp", Type: "Temperature", Context: "CPU", Reading: 46, Caution: 90, Critical: 95, Absent: !on},
		{ID: "Rail12V", Name: "12V Rail", Type: "Voltage", Context: "SystemBoard", Reading: 12.06, LowCritical: 10.8, Critical: 13.2, Absent: !on},
	}
	watts := 18.0 // the BMC itself
	if on {
		watts = 350
	}
	for i, g := range in.GPUs {
		id := idOf(g.ID, i)
		all = append(all,
			Sensor{ID: id + "Temp", Name: id + " Temp", Type: "Temperature", Context: "GPU", Reading: 34, Caution: 85, Critical: 90, Absent: !on},
			Sensor{ID: id + "Power", Name: id + " Power", Type: "Power", Context: "GPU", Reading: 72, Absent: !on})
		if on {
			watts += 72
		}
	}
	for i := 1; i <= 6; i++ {
		all = append(all, Sensor{ID: fmt.Sprintf("Fan%d", i), Name: fmt.Sprintf("Fan%d", i), Type: "Rotational", Context: "Fan", Reading: 5400, LowCritical: 600, Absent: !on})
	}
	for i := 1; i <= 2; i++ {
		all = append(all, Sensor{ID: fmt.Sprintf("PSU%dInput", i), Name: fmt.Sprintf("PSU%d Input Power", i), Type: "Power", Context: "PowerSupply", Reading: watts / 2})
	}
	return all
}

// TroubleKinds are the kinds of trouble that NewTrouble knows, with what they
// are.
var TroubleKinds = []struct{ Name, Says string }{
	{"fan", "a fan stands still"},
	{"temperature", "the processor is too hot"},
	{"psu", "a power supply has failed"},
	{"gpu", "a GPU fell off the bus"},
	{"bmc-hang", "the BMC answers nothing"},
	{"bmc-slow", "the BMC takes five seconds for every answer"},
	{"wrong-password", "the BMC refuses every password"},
	{"power-loss", "the machine lost its power"},
	{"sel-full", "the system event log is full"},
}

// NewTrouble is a kind of trouble, and what the event log says of it, by the
// sensor types of IPMI 2.0 table 42-3. Power-loss is a log entry alone: see
// Server.LosePower.
func NewTrouble(kind string) (t Trouble, what string, sel []byte, err error) {
	switch kind {
	case "fan":
		return Trouble{Sensors: map[string]float64{"Fan1": 0}, Failed: map[string]bool{"Fan1": true}}, "Fan1: 0 RPM, below the lower critical threshold of 600 RPM.", []byte{0x04, 2}, nil
	case "temperature":
		return Trouble{Sensors: map[string]float64{"CPU1Temp": 99}}, "CPU1 Temp: 99 °C, above the upper critical threshold of 95 °C.", []byte{0x01, 9}, nil
	case "psu":
		return Trouble{Sensors: map[string]float64{"PSU1Input": 0}, Failed: map[string]bool{"PSU1Input": true}}, "Power supply 1 has failed; redundancy is lost.", []byte{0x08, 1}, nil
	case "gpu":
		return Trouble{Failed: map[string]bool{"GPU1Temp": true, "GPU1Power": true}, FailedGPUs: map[string]bool{"GPU1": true}}, "GPU1 has fallen off the bus.", []byte{0x13, 0x0a}, nil
	case "bmc-hang":
		return Trouble{Hang: true}, "", nil, nil
	case "bmc-slow":
		return Trouble{Delay: 5 * time.Second}, "", nil, nil
	case "wrong-password":
		return Trouble{Refuse: true}, "", nil, nil
	case "power-loss":
		return Trouble{}, "AC power was lost.", []byte{0x09, 4}, nil
	case "sel-full":
		return Trouble{LogFull: true}, "", nil, nil
	}
	return t, "", nil, fmt.Errorf("there is no trouble %q", kind)
}
