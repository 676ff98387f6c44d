package vbmc

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const triggersPath = telemetryPath + "/Triggers"

// trigger is a Triggers (DSP0268): what is to happen when a reading crosses a
// threshold. What clients said of it never changes: another takes its place.
type trigger struct {
	id, name   string
	enabled    bool
	actions    []string // of TriggerActions
	metrics    metrics
	thresholds map[string]threshold // by name

	sides map[string]side // by sensor and threshold: where it was last; under the Server's lock
}

// threshold is a Triggers.Threshold.
type threshold struct {
	reading    float64
	activation string
	dwell      time.Duration
}

// side is on which side of a threshold a reading is.
type side struct {
	above, next bool // as it was told; as it reads since
	since       time.Time
}

// thresholdNames are those that a trigger may have, and what crossing means.
var thresholdNames = []struct {
	name, severity string
	upper          bool
}{{"LowerCritical", "Critical", false}, {"LowerWarning", "Warning", false}, {"UpperCritical", "Critical", true}, {"UpperWarning", "Warning", true}}

// actionLogEntry is what TriggerActions may have beside RedfishEvent.
const actionLogEntry = "LogToLogService"

func (s *Server) triggerRoutes() []*resource {
	return []*resource{
		{pattern: triggersPath, priv: privManager, get: func(*call) (obj, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			paths := make([]string, len(s.triggers))
			for i, t := range s.triggers {
				paths[i] = triggersPath + "/" + t.id
			}
			return collection(triggersPath, "TriggersCollection", "Triggers", paths...), nil
		}, post: s.createTrigger},
		{pattern: triggersPath + "/{trigger}", priv: privManager, get: s.triggerResource, patch: s.patchTrigger, del: func(c *call) (reply, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			n := len(s.triggers)
			if s.triggers = slices.DeleteFunc(slices.Clone(s.triggers), func(t *trigger) bool { return t.id == c.vars["trigger"] }); len(s.triggers) == n {
				return reply{}, msgNotFound(c.path)
			}
			return reply{status: http.StatusNoContent}, nil
		}},
	}
}

// trigger is one of them, or nil.
func (s *Server) trigger(id string) *trigger {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.triggers, func(t *trigger) bool { return t.id == id }); i >= 0 {
		return s.triggers[i]
	}
	return nil
}

func (t *trigger) resource() obj {
	ths := obj{}
	for name, th := range t.thresholds {
		ths[name] = obj{"Reading": th.reading, "Activation": th.activation, "DwellTime": isoDuration(th.dwell)}
	}
	o := obj{"@odata.id": triggersPath + "/" + t.id, "@odata.type": "#Triggers.v1_4_0.Triggers", "Id": t.id, "Name": t.name, "MetricType": "Numeric",
		"TriggerActions": t.actions, "TriggerEnabled": t.enabled, "NumericThresholds": ths, "Status": statusOK()}
	t.metrics.show(o, false)
	return o
}

func (s *Server) triggerResource(c *call) (obj, error) {
	t := s.trigger(c.vars["trigger"])
	if t == nil {
		return nil, msgNotFound(c.path)
	}
	return t.resource(), nil
}

// parse takes a property of a trigger.
func (t *trigger) parse(name string, v any) (err error) {
	text, isText := v.(string)
	switch name {
	case "Name":
		if !isText {
			return msgPropertyType(name, v)
		}
		t.name = text
	case "MetricType":
		if text != "Numeric" {
			return msgNotInList(name, v)
		}
	case "TriggerEnabled":
		on, ok := v.(bool)
		if !ok {
			return msgPropertyType(name, v)
		}
		t.enabled = on
	case "TriggerActions":
		t.actions, err = texts(name, v, func(x string) bool { return x == actionEvent || x == actionLogEntry })
	case "NumericThresholds":
		return t.parseThresholds(v)
	case "Metrics":
		return msgUnknownProperty(name)
	default:
		return t.metrics.parse(name, v)
	}
	return err
}

// parseThresholds: of a threshold that is given only what stands in it changes;
// null takes it away (DSP0266 §7.6).
func (t *trigger) parseThresholds(v any) (err error) {
	const name = "NumericThresholds"
	in, ok := v.(obj)
	if !ok {
		return msgPropertyType(name, v)
	}
	next := maps.Clone(t.thresholds)
	if next == nil {
		next = map[string]threshold{}
	}
	for k, x := range in {
		at := name + "/" + k
		if !slices.ContainsFunc(thresholdNames, func(n struct {
			name, severity string
			upper          bool
		}) bool {
			return n.name == k
		}) {
			return msgUnknownProperty(at)
		}
		if x == nil {
			delete(next, k)
			continue
		}
		o, ok := x.(obj)
		if !ok {
			return msgPropertyType(at, x)
		}
		th, had := next[k]
		if !had {
			th.activation = "Either"
			if _, ok := o["Reading"]; !ok {
				return msgMissing(at + "/Reading")
			}
		}
		for p, y := range o {
			switch p {
			case "Reading":
				if th.reading, ok = y.(float64); !ok {
					return msgPropertyType(at+"/"+p, y)
				}
			case "Activation":
				a, _ := y.(string)
				if !slices.Contains([]string{"Increasing", "Decreasing", "Either", "Disabled"}, a) {
					return msgNotInList(at+"/"+p, y)
				}
				th.activation = a
			case "DwellTime":
				if th.dwell, err = parseDuration(at+"/"+p, y); err != nil {
					return err
				}
			default:
				return msgUnknownProperty(at + "/" + p)
			}
		}
		next[k] = th
	}
	t.thresholds = next
	return nil
}

// checked is a trigger that can be kept: it begins anew.
func (t trigger) checked(c *call, s *Server) (*trigger, error) {
	if len(t.thresholds) == 0 {
		return nil, msgMissing("NumericThresholds")
	}
	if len(t.actions) == 0 {
		t.actions = []string{actionEvent}
	}
	t.sides = map[string]side{}
	return &t, t.metrics.check(c, s)
}

func (s *Server) createTrigger(c *call) (reply, error) {
	t := trigger{enabled: true}
	id, err := parseNew(c.body, t.parse)
	if err != nil {
		return reply{}, err
	}
	made, err := t.checked(c, s)
	if err != nil {
		return reply{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if made.id, err = s.newID(id, "Triggers", func(id string) bool {
		return slices.ContainsFunc(s.triggers, func(o *trigger) bool { return o.id == id })
	}); err != nil {
		return reply{}, err
	}
	if len(s.triggers) >= maxTriggers {
		return reply{}, msgLimit()
	}
	if made.name == "" {
		made.name = made.id
	}
	s.triggers = append(s.triggers, made)
	o := made.resource()
	return created(triggersPath+"/"+made.id, o), nil
}

func (s *Server) patchTrigger(c *call) ([]*message, error) {
	t := s.trigger(c.vars["trigger"])
	if t == nil {
		return nil, msgNotFound(c.path)
	}
	next := *t
	var made *trigger
	set := map[string]setter{}
	for _, name := range []string{"TriggerEnabled", "NumericThresholds", "MetricProperties", "Wildcards"} { // the rest is read-only in DSP0268
		set[name] = func(v any) (func() error, error) {
			if err := next.parse(name, v); err != nil {
				return nil, err
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				i := slices.IndexFunc(s.triggers, func(o *trigger) bool { return o.id == t.id })
				if i < 0 {
					return msgNotFound(c.path)
				}
				s.triggers[i] = made
				return nil
			}, nil
		}
	}
	return patch(c, s.triggerResource, set, func() (err error) { made, err = next.checked(c, s); return err })
}

// lookAtTriggers reads the sensors where a trigger looks at them.
func (s *Server) lookAtTriggers(ctx context.Context) {
	s.mu.Lock()
	some := len(s.triggers) > 0
	s.mu.Unlock()
	if !some {
		return
	}
	if _, err := s.sensors(ctx); err != nil { // which looks at triggers
		s.log.DebugContext(ctx, "virtual BMC: triggers cannot look at sensors", "err", err)
	}
}

// crossed compares readings with the thresholds of triggers, whoever reads them.
func (s *Server) crossed(all []Sensor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.triggers {
		if !t.enabled {
			continue
		}
		for _, x := range all {
			if _, ok := t.metrics.has(x); !ok || x.Absent {
				continue
			}
			for _, n := range thresholdNames {
				if th, ok := t.thresholds[n.name]; ok && th.activation != "Disabled" {
					s.crosses(t, x, n.name, n.severity, n.upper, th)
				}
			}
		}
	}
}

// crosses looks at one reading and one threshold. A reading that is wrong at
// the first look has crossed. s.mu is held.
func (s *Server) crosses(t *trigger, x Sensor, name, severity string, upper bool, th threshold) {
	key, now := name+" "+x.ID, s.now()
	is := x.Reading > th.reading || !upper && x.Reading == th.reading // a lower one is crossed below it
	w, seen := t.sides[key]
	if !seen {
		w = side{above: !upper, next: !upper, since: now}
	}
	if is != w.next {
		w.next, w.since = is, now
	}
	tell := w.next != w.above && now.Sub(w.since) >= th.dwell
	if tell {
		w.above = w.next
	}
	t.sides[key] = w
	how := "Decreasing"
	word := "below"
	if is {
		how, word = "Increasing", "above"
	}
	if !tell || th.activation != "Either" && th.activation != how {
		return
	}
	if is != upper { // back where it should be
		severity = "OK"
	}
	args := []string{s.outward(readingOf(x)), strconv.FormatFloat(x.Reading, 'f', -1, 64), word, strconv.FormatFloat(th.reading, 'f', -1, 64), name, t.id}
	text := fmt.Sprintf("%s reads %s: %s the threshold %s (%s) of trigger %s.", args[0], args[1], args[2], args[3], args[4], args[5])
	if slices.Contains(t.actions, actionLogEntry) {
		s.record("manager", severity, text)
	}
	if slices.Contains(t.actions, actionEvent) {
		s.eventSeq++
		e := event{id: s.eventSeq, at: s.clock(), severity: severity, text: text, args: args}
		origin := triggersPath + "/" + t.id
		s.hand(obj{"EventFormatType": formatEvent, "MessageId": ownRegistry + "TriggerCrossed", "OriginResource": origin, "RegistryPrefix": ownPrefix, "ResourceType": "Triggers"},
			func(context string) []byte { return eventBody(origin, e, context) })
	}
}
