package vbmc

import (
	"context"
	"net/http"
	"slices"
	"time"
)

const (
	eventsPath        = root + "/EventService"
	subscriptionsPath = eventsPath + "/Subscriptions"
	ssePath           = eventsPath + "/SSE"
	// eventMessage is the one message that this BMC's own log entries have.
	eventMessage = ownRegistry + "LogEntryAdded"
	ownPrefix    = "FettleVirtualBMC"
)

// Bounds of the EventService.
const (
	maxSubscriptions = 20
	maxStreams       = 8
	eventQueue       = 64 // events that wait for a slow receiver; then it is dropped
)

// Subscription is where events go (DSP0268, EventDestination).
type Subscription struct {
	ID          string
	Destination string // URL
	Context     string
	Headers     http.Header // with each push
	Format      string      // "Event" or "MetricReport"
	Stream      bool        // server-sent events: there is no Destination

	choice choice
}

// choice is which events a subscription asked for; what is empty asks nothing.
type choice struct {
	prefixes, messages, kinds, origins []string
	below                              bool // origins and what is below them
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
	tick := time.NewTicker(telemetryTick)
	defer tick.Stop()
	due := dueReports{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.pushReports(ctx, due)
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

// pushReports queues the metric reports that are due for the subscriptions that
// want them, and looks at what triggers look at.
func (s *Server) pushReports(ctx context.Context, due dueReports) {
	s.lookAtTriggers(ctx)
	for _, d := range due.now(s) {
		s.mu.Lock()
		var to []Subscription
		for _, r := range s.subscriptions {
			if r.wants(d.traits()) {
				to = append(to, r.sub)
			}
		}
		s.mu.Unlock()
		for _, x := range to {
			b, err := s.reportBody(ctx, d, x.Context)
			if err != nil {
				s.log.DebugContext(ctx, "virtual BMC: no metric report", "err", err)
				return
			}
			select {
			case s.pushes <- delivery{x, b}:
			default: // the receiver reads the report
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
			var paths []string
			for _, r := range slices.Concat(s.subscriptions, s.streams) {
				paths = append(paths, subscriptionsPath+"/"+r.sub.ID)
			}
			return collection(subscriptionsPath, "EventDestinationCollection", "Event Subscriptions", paths...), nil
		}, post: s.subscribe},
		{pattern: subscriptionsPath + "/{id}", priv: privManager, get: s.subscription, patch: s.patchSubscription, del: func(c *call) (reply, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			next := slices.DeleteFunc(slices.Clone(s.subscriptions), func(r *receiver) bool { return r.sub.ID == c.vars["id"] })
			switch {
			case len(next) < len(s.subscriptions):
				if err := s.change(next); err != nil {
					return reply{}, err
				}
			case !s.closeStream(c.vars["id"]):
				return reply{}, msgNotFound(c.path)
			}
			return reply{status: http.StatusNoContent}, nil
		}},
	}
}

func (s *Server) eventService(*call) (obj, error) {
	return obj{"@odata.id": eventsPath, "@odata.type": "#EventService.v1_10_2.EventService", "Id": "EventService", "Name": "Event Service", "ServiceEnabled": true,
		"Status": statusOK(), "DeliveryRetryAttempts": 3, "DeliveryRetryIntervalSeconds": 1, "EventFormatTypes": s.formats(),
		"RegistryPrefixes": []string{ownPrefix}, "ResourceTypes": eventKinds, "SubordinateResourcesSupported": true, "ServerSentEventUri": ssePath,
		"SSEFilterPropertiesSupported": obj{"EventFormatType": true, "MessageId": true, "RegistryPrefix": true, "OriginResource": true,
			"MetricReportDefinition": s.measures(), "ResourceType": true, "SubordinateResources": false},
		"Subscriptions": link(subscriptionsPath),
		"Actions":       obj{"#EventService.SubmitTestEvent": obj{"target": eventsPath + "/Actions/EventService.SubmitTestEvent"}}}, nil
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
	for _, r := range slices.Concat(s.subscriptions, s.streams) {
		if r.sub.ID == c.vars["id"] {
			return r.sub.resource(), nil
		}
	}
	return nil, msgNotFound(c.path)
}
