package vbmc

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// formats of what is sent (DSP0268, EventDestination.EventFormatType).
const (
	formatEvent  = "Event"
	formatReport = "MetricReport"
)

// receiver is a subscription or a stream with events that wait for it.
type receiver struct {
	sub    Subscription
	queue  chan []byte
	filter condition     // on event.traits; nil: every event, and no metric report
	gone   chan struct{} // of a stream: closed when its EventDestination is deleted
	lost   bool          // its queue ran over
}

// wants tells whether something with these traits is for the receiver.
func (r *receiver) wants(traits obj) bool {
	if r.filter == nil {
		return traits["EventFormatType"] == formatEvent
	}
	return r.filter.holds(traits)
}

// delivery is an event on its way to a subscription.
type delivery struct {
	to   Subscription
	body []byte
}

// eventProperties are what a filter can ask of an event (DSP0266 §13.6.2.2).
var eventProperties = []string{"EventFormatType", "MessageId", "MetricReportDefinition", "OriginResource", "RegistryPrefix", "ResourceType"}

// originOf is the resource that a log tells of, and its type.
func (s *Server) originOf(log string) (path, kind string) {
	if log == "system" {
		return s.outward(systemPath), "ComputerSystem"
	}
	return managerPath, "Manager"
}

// traits are what filters ask of an entry of a log.
func (s *Server) traits(log string) obj {
	path, kind := s.originOf(log)
	return obj{"EventFormatType": formatEvent, "MessageId": eventMessage, "OriginResource": path, "RegistryPrefix": ownPrefix, "ResourceType": kind}
}

func (d *reportDef) traits() obj {
	return obj{"EventFormatType": formatReport, "MetricReportDefinition": reportDefs + "/" + d.id}
}

// eventFilter reads $filter of a stream; nil for none.
func eventFilter(text string) (condition, error) {
	if text == "" {
		return nil, nil
	}
	c, ok := parseFilter(text)
	if ok {
		properties(c, func(path []string) { ok = ok && len(path) == 1 && slices.Contains(eventProperties, path[0]) })
	}
	if !ok {
		return nil, msgQueryValue("$filter", text)
	}
	return c, nil
}

// anyOf is a condition that a trait is one of the values; nil for none.
func anyOf(trait string, values []string) condition {
	var c condition
	for _, v := range values {
		is := condition(comparison{[]string{trait}, "eq", v})
		if c == nil {
			c = is
		} else {
			c = either{c, is}
		}
	}
	return c
}

// allOf joins conditions; nil ones do not count.
func allOf(cs ...condition) condition {
	var out condition
	for _, c := range cs {
		switch {
		case c == nil:
		case out == nil:
			out = c
		default:
			out = both{out, c}
		}
	}
	return out
}

// publish hands a new log entry to whoever listens. s.mu is held.
func (s *Server) publish(log string, e event) {
	origin, _ := s.originOf(log)
	s.hand(s.traits(log), func(context string) []byte { return eventBody(origin, e, context) })
}

// hand hands something to whoever wants what has these traits. s.mu is held.
func (s *Server) hand(traits obj, body func(context string) []byte) {
	f := s.shared()
	for _, r := range f.streams {
		if r.wants(traits) {
			select {
			case r.queue <- body(r.sub.Context):
			default:
				r.lost = true // the stream ends when it sees this
			}
		}
	}
	for _, r := range f.subscriptions {
		if !r.wants(traits) {
			continue
		}
		select {
		case f.pushes <- delivery{r.sub, body(r.sub.Context)}:
		default: // the receiver reads the log
		}
	}
}

// eventBody is an Event (DSP0268, Event.v1_10); origin is what it tells of.
func eventBody(origin string, e event, context string) []byte {
	id, message, args := strconv.Itoa(e.id), eventMessage, []string{e.text}
	if e.args != nil {
		message, args = ownRegistry+"TriggerCrossed", e.args
	}
	record := obj{"MemberId": "0", "EventId": id, "EventType": "Other", "EventTimestamp": e.at.UTC().Format(time.RFC3339), "Message": e.text,
		"MessageId": message, "MessageArgs": args, "MessageSeverity": e.severity, "Severity": e.severity, "OriginOfCondition": link(origin)}
	o := obj{"@odata.type": "#Event.v1_10_1.Event", "Id": id, "Name": "Event", "Events": []obj{record}}
	if context != "" {
		o["Context"] = context
	}
	b, err := json.Marshal(o)
	if err != nil { // our own maps of strings always marshal
		return []byte("{}")
	}
	return b
}

// reportBody is a metric report, as streams and subscriptions get it.
func (s *Server) reportBody(ctx context.Context, d *reportDef, context string) ([]byte, error) {
	o, err := s.metricReport(ctx, d)
	if err != nil {
		return nil, err
	}
	if s.node != nil {
		o = s.node.told(o)
	}
	if context != "" {
		o["Context"] = context
	}
	return json.Marshal(o)
}

// keyOf is a message's registry prefix and key, without the version between:
// clients give it with and without.
func keyOf(messageID string) (prefix, key string) {
	parts := strings.Split(messageID, ".")
	return parts[0], parts[len(parts)-1]
}
