package vbmc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	eventsPath        = root + "/EventService"
	subscriptionsPath = eventsPath + "/Subscriptions"
	ssePath           = eventsPath + "/SSE"
	// eventRegistry holds the one message that this BMC's own log entries have.
	eventRegistry = "FettleVirtualBMC.1.0"
	eventMessage  = eventRegistry + ".LogEntryAdded"
)

// Bounds of the EventService.
const (
	maxSubscriptions = 20
	maxStreams       = 8
	eventQueue       = 64 // events that wait for a slow receiver; then it is dropped
)

// Subscription is where events are pushed to (DSP0268, EventDestination).
type Subscription struct {
	ID          string
	Destination string // URL
	Context     string
	Headers     http.Header // with each push
}

// receiver is a subscription or a stream with events that wait for it.
type receiver struct {
	sub    Subscription
	queue  chan []byte
	filter func(e event, log string) bool // nil: all
	lost   bool                           // its queue ran over
}

// delivery is an event on its way to a subscription.
type delivery struct {
	to   Subscription
	body []byte
}

// publish hands a new log entry to whoever listens. s.mu is held.
func (s *Server) publish(log string, e event) {
	for _, r := range s.streams {
		if r.filter == nil || r.filter(e, log) {
			select {
			case r.queue <- eventBody(log, e, r.sub.Context):
			default:
				r.lost = true // the stream ends when it sees this
			}
		}
	}
	for _, r := range s.subscriptions {
		select {
		case s.pushes <- delivery{r.sub, eventBody(log, e, r.sub.Context)}:
		default: // the receiver reads the log
		}
	}
}

// eventBody is an Event (DSP0268, Event.v1_10).
func eventBody(log string, e event, context string) []byte {
	origin := managerPath
	if log == "system" {
		origin = systemPath
	}
	id := strconv.Itoa(e.id)
	record := obj{"MemberId": id, "EventId": id, "EventType": "Other", "EventTimestamp": e.at.UTC().Format(time.RFC3339), "Message": e.text,
		"MessageId": eventMessage, "MessageArgs": []string{e.text}, "MessageSeverity": e.severity, "Severity": e.severity, "OriginOfCondition": link(origin)}
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

// DeliverEvents pushes events to subscriptions by deliver until ctx ends; its
// error is ctx's. Only while it runs can subscriptions be made: the server
// opens no connection of its own. An event that cannot be delivered is tried
// three times, then dropped.
func (s *Server) DeliverEvents(ctx context.Context, deliver func(ctx context.Context, to Subscription, body []byte) error) error {
	s.mu.Lock()
	s.delivering++
	if s.pushes == nil { // most servers push nothing: no queue for them
		s.pushes = make(chan delivery, eventQueue)
	}
	pushes := s.pushes
	s.mu.Unlock()
	defer func() { s.mu.Lock(); defer s.mu.Unlock(); s.delivering-- }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d := <-pushes:
			for try := range 3 {
				c, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := deliver(c, d.to, d.body)
				cancel()
				if err == nil || ctx.Err() != nil {
					break
				}
				s.log.DebugContext(ctx, "virtual BMC: event not delivered", "to", d.to.Destination, "try", try+1, "err", err)
			}
		}
	}
}

func (s *Server) eventRoutes() []*resource {
	return []*resource{
		{pattern: eventsPath, get: s.eventService},
		{pattern: eventsPath + "/Actions/EventService.SubmitTestEvent", priv: privManager, post: s.testEvent},
		{pattern: ssePath, sse: s.serveEvents},
		{pattern: subscriptionsPath, priv: privManager, get: func(*call) (obj, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			paths := make([]string, len(s.subscriptions))
			for i, r := range s.subscriptions {
				paths[i] = subscriptionsPath + "/" + r.sub.ID
			}
			return collection(subscriptionsPath, "EventDestinationCollection", "Event Subscriptions", paths...), nil
		}, post: s.subscribe},
		{pattern: subscriptionsPath + "/{id}", priv: privManager, get: s.subscription, del: func(c *call) (reply, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			n := len(s.subscriptions)
			s.subscriptions = slices.DeleteFunc(s.subscriptions, func(r *receiver) bool { return r.sub.ID == c.vars["id"] })
			if len(s.subscriptions) == n {
				return reply{}, msgNotFound(c.path)
			}
			return reply{status: http.StatusNoContent}, nil
		}},
	}
}

func (s *Server) eventService(*call) (obj, error) {
	return obj{"@odata.id": eventsPath, "@odata.type": "#EventService.v1_10_2.EventService", "Id": "EventService", "Name": "Event Service", "ServiceEnabled": true,
		"Status": statusOK(), "DeliveryRetryAttempts": 3, "DeliveryRetryIntervalSeconds": 1, "EventFormatTypes": []string{"Event"},
		"RegistryPrefixes": []string{"FettleVirtualBMC"}, "ServerSentEventUri": ssePath,
		"SSEFilterPropertiesSupported": obj{"EventFormatType": true, "MessageId": true, "RegistryPrefix": true, "OriginResource": true, "MetricReportDefinition": false, "ResourceType": false},
		"Subscriptions":                link(subscriptionsPath),
		"Actions":                      obj{"#EventService.SubmitTestEvent": obj{"target": eventsPath + "/Actions/EventService.SubmitTestEvent"}}}, nil
}

// testEvent is EventService.SubmitTestEvent: an entry of the manager's log.
func (s *Server) testEvent(c *call) (reply, error) {
	text, sev := "This is a test event.", "OK"
	for k, v := range c.body {
		t, ok := v.(string)
		switch k {
		case "Message":
			if !ok {
				return reply{}, msgActionParamType("EventService.SubmitTestEvent", k, v)
			}
			text = t
		case "Severity", "MessageSeverity":
			if t != "OK" && t != "Warning" && t != "Critical" {
				return reply{}, msgActionParam("EventService.SubmitTestEvent", k, v)
			}
			sev = t
		}
	}
	s.logEvent("manager", sev, text)
	return reply{status: http.StatusNoContent}, nil
}

func (s *Server) subscription(c *call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.subscriptions {
		if r.sub.ID == c.vars["id"] {
			return r.sub.resource(), nil
		}
	}
	return nil, msgNotFound(c.path)
}

func (x Subscription) resource() obj {
	return obj{"@odata.id": subscriptionsPath + "/" + x.ID, "@odata.type": "#EventDestination.v1_14_1.EventDestination", "Id": x.ID,
		"Name": "Event Subscription " + x.ID, "Destination": x.Destination, "Context": x.Context, "Protocol": "Redfish", "SubscriptionType": "RedfishEvent",
		"EventFormatType": "Event", "HttpHeaders": []obj{}, "Status": statusOK(), "DeliveryRetryPolicy": "RetryForever", "VerifyCertificate": false}
}

// subscribe is a POST to the subscriptions (DSP0266 §13.6.1).
func (s *Server) subscribe(c *call) (reply, error) {
	var x Subscription
	for _, k := range []string{"Destination", "Protocol"} {
		if _, ok := c.body[k]; !ok {
			return reply{}, msgMissing(k)
		}
	}
	for k, v := range c.body {
		t, isText := v.(string)
		switch k {
		case "Destination":
			u, err := url.Parse(t)
			if !isText || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return reply{}, msgPropertyFormat(k, v)
			}
			x.Destination = t
		case "Protocol":
			if t != "Redfish" {
				return reply{}, msgNotInList(k, v)
			}
		case "Context":
			if !isText || len(t) > 1024 {
				return reply{}, msgPropertyType(k, v)
			}
			x.Context = t
		case "HttpHeaders":
			l, ok := v.([]any)
			if !ok {
				return reply{}, msgPropertyType(k, v)
			}
			x.Headers = http.Header{}
			for _, h := range l {
				o, _ := h.(obj)
				for name, val := range o {
					if t, ok := val.(string); ok && len(x.Headers) < 16 && !strings.ContainsAny(name+t, "\r\n") {
						x.Headers.Set(name, t)
					}
				}
			}
		case "EventFormatType":
			if t != "Event" {
				return reply{}, msgNotInList(k, v)
			}
		case "SubscriptionType":
			if t != "RedfishEvent" {
				return reply{}, msgNotInList(k, v)
			}
		case "EventTypes", "RegistryPrefixes", "MessageIds", "OriginResources", "ResourceTypes", "DeliveryRetryPolicy", "Name", "VerifyCertificate":
		default:
			return reply{}, msgUnknownProperty(k)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivering == 0 {
		return reply{}, &message{Status: http.StatusServiceUnavailable, ID: "ServiceTemporarilyUnavailable", Severity: "Critical", Args: []string{"60"},
			Text: "This virtual BMC pushes no events: read them as server-sent events at " + ssePath + "."}
	}
	if len(s.subscriptions) >= maxSubscriptions {
		return reply{}, msgLimit()
	}
	s.nextID++
	x.ID = strconv.Itoa(s.nextID)
	s.subscriptions = append(s.subscriptions, &receiver{sub: x})
	body := x.resource()
	return reply{http.StatusCreated, body, map[string]string{"Location": subscriptionsPath + "/" + x.ID, "ETag": etag(body)}}, nil
}

// serveEvents streams events (DSP0266 §13.6.2; WHATWG HTML §9.2) until the
// client goes, or falls too far behind.
func (s *Server) serveEvents(w http.ResponseWriter, c *call) error {
	filter, err := eventFilter(c.r.URL.Query().Get("$filter"))
	if err != nil {
		return err
	}
	r := &receiver{queue: make(chan []byte, eventQueue), filter: filter}
	s.mu.Lock()
	if len(s.streams) >= maxStreams {
		s.mu.Unlock()
		return msgLimit()
	}
	s.streams = append(s.streams, r)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams = slices.DeleteFunc(s.streams, func(x *receiver) bool { return x == r })
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	send := func(text string) error {
		// A client that reads nothing must not hold the stream for ever.
		_ = rc.SetWriteDeadline(time.Now().Add(30 * time.Second)) // not every writer has deadlines
		if _, err := fmt.Fprint(w, text); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := send(": fettle virtual BMC\n\n"); err != nil {
		return nil // the client is gone
	}
	alive := time.NewTicker(30 * time.Second)
	defer alive.Stop()
	for n := 1; ; n++ {
		select {
		case <-c.ctx.Done():
			return nil
		case <-alive.C:
			if err := send(": alive\n\n"); err != nil {
				return nil
			}
		case b := <-r.queue:
			if err := send(fmt.Sprintf("id: %d\ndata: %s\n\n", n, b)); err != nil {
				return nil
			}
		}
		s.mu.Lock()
		lost := r.lost
		s.mu.Unlock()
		if lost && len(r.queue) == 0 {
			return nil
		}
	}
}

// eventFilter reads $filter of a stream: comparisons by eq, joined by or.
func eventFilter(text string) (func(event, string) bool, error) {
	if text == "" {
		return nil, nil
	}
	var any []func(event, string) bool
	for _, part := range strings.Split(strings.Trim(text, "()"), " or ") {
		f := strings.Fields(strings.Trim(part, "() "))
		if len(f) != 3 || f[1] != "eq" {
			return nil, msgQueryValue("$filter", text)
		}
		want := strings.Trim(f[2], "'\"")
		switch f[0] {
		case "EventFormatType":
			any = append(any, func(event, string) bool { return want == "Event" })
		case "MessageId":
			any = append(any, func(event, string) bool { return want == eventMessage })
		case "RegistryPrefix":
			any = append(any, func(event, string) bool { return want == "FettleVirtualBMC" })
		case "OriginResource":
			any = append(any, func(_ event, log string) bool {
				return want == map[string]string{"system": systemPath, "manager": managerPath}[log]
			})
		default:
			return nil, msgQueryValue("$filter", text)
		}
	}
	return func(e event, log string) bool {
		return slices.ContainsFunc(any, func(f func(event, string) bool) bool { return f(e, log) })
	}, nil
}
