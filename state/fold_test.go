package state

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// at is an event some seconds after the tests' clock began.
func at(second int, e Event) Event {
	e.Time = newClock().t.Add(time.Duration(second) * time.Second)
	e.Seq = int64(second + 1)
	e.Machine = "gpu-01"
	return e
}

func TestFold(t *testing.T) {
	run := func(second int, action string) Event {
		return at(second, Event{Run: "r" + action, Kind: KindRun, Data: data(t, RunData{Action: action, Image: "base", Digest: "sha256:1"})})
	}
	phase := func(second int, p Phase, reason string) Event { return at(second, phaseEvent(t, "gpu-01", p, reason)) }
	progress := func(second int) Event {
		return at(second, Event{Kind: KindProgress, Data: data(t, ProgressData{Phase: Deploying, Done: 5, Total: 10})})
	}
	power := func(second int) Event { return at(second, Event{Kind: KindPower, Data: data(t, PowerData{"on"})}) }
	end := func(second int, ok bool, reason string) Event {
		return at(second, Event{Kind: KindRunEnd, Data: data(t, RunEndData{ok, reason})})
	}
	health := func(second int, problem string) Event {
		return at(second, Event{Kind: KindHealth, Data: data(t, HealthData{Problem: problem})})
	}
	tests := []struct {
		name   string
		events []Event
		check  func(Status) bool
	}{
		{"a first event of another kind leaves the phase unknown", []Event{at(0, Event{Kind: "dhcp.offer"})},
			func(s Status) bool { return s.Phase == Unknown && s.LastSeq == 1 && s.Machine == "gpu-01" }},
		{"seconds of each phase of the run", []Event{
			phase(0, Discovered, ""), run(10, "deploy"), phase(11, PoweringOn, ""), phase(14, Agent, ""),
			phase(16, Deploying, ""), phase(36, Agent, ""), phase(37, Ready, ""), end(40, true, ""), phase(100, Ready, "")},
			func(s Status) bool {
				return reflect.DeepEqual(s.Seconds, map[Phase]float64{PoweringOn: 3, Agent: 3, Deploying: 20}) &&
					s.RunEnd.Sub(s.RunStart) == 30*time.Second && s.Image == "base" && s.Digest == "sha256:1"
			}},
		{"a run's start empties the seconds", []Event{
			run(0, "deploy"), phase(1, Agent, ""), phase(5, Ready, ""), end(5, true, ""), run(50, "inspect"), phase(51, Agent, ""), phase(53, Inspected, "")},
			func(s Status) bool { return reflect.DeepEqual(s.Seconds, map[Phase]float64{Agent: 2}) }},
		{"a phase said again does not begin again", []Event{
			run(0, "deploy"), phase(1, Agent, ""), phase(4, Agent, ""), phase(9, Ready, "")},
			func(s Status) bool { return reflect.DeepEqual(s.Seconds, map[Phase]float64{Agent: 8}) }},
		{"a run that begins in the phase that it enters counts from there", []Event{
			phase(0, Agent, ""), run(10, "inspect"), phase(12, Agent, ""), phase(15, Inspected, "")},
			func(s Status) bool { return reflect.DeepEqual(s.Seconds, map[Phase]float64{Agent: 3}) }},
		{"no seconds without a run", []Event{phase(0, Agent, ""), phase(5, Ready, "")},
			func(s Status) bool { return s.Seconds == nil }},
		{"health stays over an inspection", []Event{run(0, "deploy"), phase(1, Ready, ""), health(2, "a disk is missing"), run(3, "inspect")},
			func(s Status) bool { return s.Health != nil && s.Health.Problem == "a disk is missing" }},
		{"health is the latest", []Event{run(0, "deploy"), health(2, "a disk is missing"), health(3, "")},
			func(s Status) bool { return s.Health != nil && s.Health.Problem == "" }},
		{"a deployment makes another system", []Event{run(0, "deploy"), health(2, "a disk is missing"), run(3, "deploy")},
			func(s Status) bool { return s.Health == nil }},
		{"so does a wipe", []Event{health(2, "a disk is missing"), run(3, "wipe"), end(4, true, "")},
			func(s Status) bool { return s.Health == nil }},
		{"a failed machine keeps its reason", []Event{
			run(0, "deploy"), phase(1, Deploying, ""), progress(2), phase(3, Failed, "disk WD-1 is missing"),
			end(4, false, ""), power(5), at(6, Event{Kind: "dhcp.offer"}), run(7, "deploy")},
			func(s Status) bool {
				return s.Phase == Failed && s.Reason == "disk WD-1 is missing" && s.Power == "on" && s.Progress == nil
			}},
		{"the next phase clears the reason", []Event{phase(0, Failed, "no answer"), phase(1, Netboot, "")},
			func(s Status) bool { return s.Phase == Netboot && s.Reason == "" }},
		{"a run that ends badly fails its machine", []Event{run(0, "deploy"), phase(1, Agent, ""), end(5, false, "cancelled by alice")},
			func(s Status) bool {
				return s.Phase == Failed && s.Reason == "cancelled by alice" && s.Seconds[Agent] == 4 && !s.RunEnd.IsZero()
			}},
		{"progress lasts as long as its phase", []Event{phase(0, Deploying, ""), progress(1), power(2)},
			func(s Status) bool { return s.Progress != nil && s.Progress.Done == 5 }},
		{"progress ends with its phase", []Event{phase(0, Deploying, ""), progress(1), phase(2, Verifying, "")},
			func(s Status) bool { return s.Progress == nil }},
		{"an inspection does not change the image", []Event{run(0, "deploy"), end(1, true, ""),
			at(2, Event{Kind: KindRun, Data: data(t, RunData{Action: "inspect"})})},
			func(s Status) bool { return s.Image == "base" }},
		{"a wipe leaves no image", []Event{run(0, "deploy"), end(1, true, ""), run(2, "wipe"), end(3, true, "")},
			func(s Status) bool { return s.Image == "" && s.Digest == "" }},
		{"data that cannot be read changes nothing", []Event{phase(0, Agent, ""), at(1, Event{Kind: KindPhase, Data: json.RawMessage(`{"phase":"flying"}`)})},
			func(s Status) bool { return s.Phase == Agent && s.LastSeq == 2 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Status
			for _, e := range tt.events {
				before := data(t, s)
				next := Fold(s, e)
				if after := data(t, s); string(after) != string(before) {
					t.Errorf("Fold changed its argument from %s to %s", before, after)
				}
				s = next
			}
			if !tt.check(s) {
				t.Errorf("Fold of %d events = %s", len(tt.events), data(t, s))
			}
		})
	}
}

// randomEvent is any event that Append takes.
func randomEvent(t testing.TB, r *rand.Rand, c *clock) Event {
	c.add(time.Duration(r.IntN(5000)) * time.Millisecond)
	machine := []string{"gpu-01", "gpu-02", "52:54:00:12:34:56", "odd/na me", ""}[r.IntN(5)]
	phases := []Phase{Discovered, Netboot, Agent, Deploying, Verifying, Ready, Failed}
	e := Event{Machine: machine, Time: c.now(), Text: "something happened"}
	switch r.IntN(8) {
	case 0:
		e.Kind, e.Run = KindRun, "r1"
		e.Data = data(t, RunData{Action: []string{"deploy", "wipe", "inspect"}[r.IntN(3)], Image: "base"})
	case 1:
		e.Kind, e.Data = KindRunEnd, data(t, RunEndData{OK: r.IntN(2) == 0, Reason: "because"})
	case 2:
		e.Kind, e.Data = KindPower, data(t, PowerData{"on"})
	case 3:
		e.Kind, e.Data = KindInventory, data(t, map[string]int{"cpus": r.IntN(100)})
	case 4, 5:
		e.Kind, e.Data = KindProgress, data(t, ProgressData{Phase: Deploying, Done: r.Int64N(100)})
	case 6:
		e.Kind = "dhcp.offer"
	default:
		p := phases[r.IntN(len(phases))]
		e.Kind, e.Data = KindPhase, data(t, PhaseData{Phase: p})
	}
	return e
}

// The stored status is the fold of the stored events, although history keeps
// only the latest progress event.
func TestStatusIsFoldOfEvents(t *testing.T) {
	s := openTest(t)
	r, c := rand.New(rand.NewPCG(1, 2)), newClock()
	for range 120 {
		var batch []Event
		for range 1 + r.IntN(MaxAppend) {
			batch = append(batch, randomEvent(t, r, c))
		}
		mustAppend(t, s, batch...)
	}
	events, err := s.Events(t.Context(), Query{})
	if err != nil {
		t.Fatal(err)
	}
	folded, progress := map[string]Status{}, map[string]int{}
	for _, e := range events {
		if e.Machine != "" {
			folded[e.Machine] = Fold(folded[e.Machine], e)
			if e.Kind == KindProgress {
				progress[e.Machine]++
			}
		}
	}
	statuses, err := s.Statuses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(statuses) != 4 || len(folded) != 4 {
		t.Fatalf("%d statuses, %d machines with events; want 4", len(statuses), len(folded))
	}
	brief, err := s.Overview(t.Context())
	if err != nil || len(brief) != len(statuses) {
		t.Fatalf("Overview() = %d, %v; want %d", len(brief), err, len(statuses))
	}
	if last, err := s.LastSeq(t.Context()); err != nil || last != events[len(events)-1].Seq {
		t.Errorf("LastSeq() = %d, %v; want %d", last, err, events[len(events)-1].Seq)
	}
	for i, got := range statuses {
		without := got
		without.Inventory = nil
		if got.Inventory == nil || string(data(t, brief[i])) != string(data(t, without)) {
			t.Errorf("Overview()[%d] = %s; want %s without its inventory", i, data(t, brief[i]), data(t, got))
		}
		if want := folded[got.Machine]; string(data(t, got)) != string(data(t, want)) {
			t.Errorf("Statuses()[%d] = %s; want the fold of its events, %s", i, data(t, got), data(t, want))
		}
		if progress[got.Machine] != 1 {
			t.Errorf("history has %d progress events of %s; want 1", progress[got.Machine], got.Machine)
		}
		one, err := s.Status(t.Context(), got.Machine)
		if err != nil || string(data(t, one)) != string(data(t, got)) {
			t.Errorf("Status(%s) = %s, %v; want %s", got.Machine, data(t, one), err, data(t, got))
		}
		if i > 0 && statuses[i-1].Machine >= got.Machine {
			t.Errorf("Statuses()[%d] is %s after %s; want them sorted", i, got.Machine, statuses[i-1].Machine)
		}
	}
}

func FuzzFold(f *testing.F) {
	f.Add("machine.phase", []byte(`{"phase":"agent"}`))
	f.Add("run.end", []byte(`null`))
	f.Add("machine.progress", []byte(`[]`))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		e := at(5, Event{Kind: Kind(kind), Data: data})
		s := Fold(Status{Phase: Agent, Since: e.Time.Add(-time.Second)}, e)
		if s.LastSeq != e.Seq || !s.Phase.valid() {
			t.Errorf("Fold(%s %q) = %+v; want LastSeq %d and a known phase", kind, data, s, e.Seq)
		}
	})
}
