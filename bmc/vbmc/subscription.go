package vbmc

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// eventKinds are the types of the resources that events tell of.
var eventKinds = []string{"ComputerSystem", "Manager", "Triggers"}

// eventMessages are the messages that events have.
var eventMessages = []string{"LogEntryAdded", "TriggerCrossed"}

// under is a condition that the origin is below a resource.
type under string

func (u under) holds(o obj) bool {
	at, _ := o["OriginResource"].(string)
	return strings.HasPrefix(at, string(u)+"/")
}

// formats are what can be sent.
func (s *Server) formats() []string {
	if s.measures() {
		return []string{formatEvent, formatReport}
	}
	return []string{formatEvent}
}

// measures tells whether there are metric reports.
func (s *Server) measures() bool {
	_, ok := s.chassis.(SensorReader)
	return ok
}

// resource is the EventDestination (DSP0268).
func (x Subscription) resource() obj {
	o := obj{"@odata.id": subscriptionsPath + "/" + x.ID, "@odata.type": "#EventDestination.v1_14_1.EventDestination", "Id": x.ID,
		"Name": "Event Subscription " + x.ID, "Destination": nullable(x.Destination), "Context": x.Context, "Protocol": "Redfish", "Status": statusOK()}
	if x.Stream {
		o["SubscriptionType"] = "SSE"
		return o
	}
	o["SubscriptionType"], o["EventFormatType"], o["HttpHeaders"] = "RedfishEvent", x.Format, []obj{}
	o["DeliveryRetryPolicy"], o["VerifyCertificate"] = "RetryForever", false
	for name, list := range map[string][]string{"RegistryPrefixes": x.choice.prefixes, "MessageIds": x.choice.messages, "ResourceTypes": x.choice.kinds} {
		if len(list) > 0 {
			o[name] = list
		}
	}
	if len(x.choice.origins) > 0 {
		o["OriginResources"], o["OriginResources@odata.count"] = links(x.choice.origins...), len(x.choice.origins)
		o["SubordinateResources"] = x.choice.below
	}
	return o
}

// condition is what the choice means for events.
func (x Subscription) condition() condition {
	var messages []string
	for _, id := range x.choice.messages {
		_, key := keyOf(id)
		messages = append(messages, ownRegistry+key)
	}
	origins := anyOf("OriginResource", x.choice.origins)
	if x.choice.below {
		for _, o := range x.choice.origins {
			origins = either{origins, under(o)}
		}
	}
	return allOf(anyOf("EventFormatType", []string{x.Format}), anyOf("RegistryPrefix", x.choice.prefixes), anyOf("MessageId", messages),
		anyOf("ResourceType", x.choice.kinds), origins)
}

// texts reads an array of texts, each of which ok lets pass.
func texts(name string, v any, ok func(string) bool) ([]string, error) {
	l, is := v.([]any)
	if !is {
		return nil, msgPropertyType(name, v)
	}
	var out []string
	for _, x := range l {
		t, is := x.(string)
		if !is {
			return nil, msgPropertyType(name, x)
		}
		if !ok(t) {
			return nil, msgNotInList(name, t)
		}
		out = append(out, t)
	}
	return out, nil
}

// parse takes a property of the request.
func (x *Subscription) parse(s *Server, k string, v any) error {
	t, isText := v.(string)
	var err error
	switch k {
	case "Destination":
		u, err := url.Parse(t)
		if !isText || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return msgPropertyFormat(k, v)
		}
		x.Destination = t
	case "Protocol":
		if t != "Redfish" {
			return msgNotInList(k, v)
		}
	case "Context":
		if !isText || len(t) > 1024 {
			return msgPropertyType(k, v)
		}
		x.Context = t
	case "HttpHeaders":
		return x.parseHeaders(v)
	case "EventFormatType":
		if !slices.Contains(s.formats(), t) {
			return msgNotInList(k, v)
		}
		x.Format = t
	case "SubscriptionType":
		if t != "RedfishEvent" {
			return msgNotInList(k, v)
		}
	case "DeliveryRetryPolicy":
		if t != "RetryForever" {
			return msgNotInList(k, v)
		}
	case "RegistryPrefixes":
		x.choice.prefixes, err = texts(k, v, func(t string) bool { return t == ownPrefix })
	case "MessageIds":
		x.choice.messages, err = texts(k, v, func(t string) bool {
			p, key := keyOf(t)
			return slices.Contains(eventMessages, key) && (p == ownPrefix || p == key)
		})
	case "ResourceTypes":
		x.choice.kinds, err = texts(k, v, func(t string) bool { return slices.Contains(eventKinds, t) })
	case "OriginResources":
		return x.parseOrigins(s, v)
	case "SubordinateResources":
		b, ok := v.(bool)
		if !ok {
			return msgPropertyType(k, v)
		}
		x.choice.below = b
	case "EventTypes": // deprecated; ours are all of one type
		_, err = texts(k, v, func(string) bool { return true })
	case "Name", "VerifyCertificate":
	default:
		return msgUnknownProperty(k)
	}
	return err
}

func (x *Subscription) parseHeaders(v any) error {
	l, ok := v.([]any)
	if !ok {
		return msgPropertyType("HttpHeaders", "(a value that is no array)")
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
	return nil
}

func (x *Subscription) parseOrigins(s *Server, v any) error {
	l, ok := v.([]any)
	if !ok {
		return msgPropertyType("OriginResources", v)
	}
	for _, r := range l {
		o, _ := r.(obj)
		id, ok := o["@odata.id"].(string)
		id = strings.TrimSuffix(id, "/")
		if !ok {
			return msgPropertyType("OriginResources", r)
		}
		if res, _ := s.find(id); res == nil {
			return msgNotInList("OriginResources", id)
		}
		x.choice.origins = append(x.choice.origins, id)
	}
	return nil
}

// patchSubscription writes what of a subscription can change without making
// another one of it.
func (s *Server) patchSubscription(c *call) ([]*message, error) {
	var x Subscription
	with := func(name string, set func(*Subscription)) setter {
		return func(v any) (func() error, error) {
			if err := x.parse(s, name, v); err != nil {
				return nil, err
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				found, err := s.changeOne(c.vars["id"], set)
				if err == nil && !found {
					return msgNotFound(c.path)
				}
				return err
			}, nil
		}
	}
	s.mu.Lock()
	stream := slices.ContainsFunc(s.streams, func(r *receiver) bool { return r.sub.ID == c.vars["id"] })
	s.mu.Unlock()
	if stream { // it belongs to who reads it
		return patch(c, s.subscription, nil)
	}
	return patch(c, s.subscription, map[string]setter{
		"Context":             with("Context", func(o *Subscription) { o.Context = x.Context }),
		"HttpHeaders":         with("HttpHeaders", func(o *Subscription) { o.Headers = x.Headers }),
		"DeliveryRetryPolicy": with("DeliveryRetryPolicy", func(*Subscription) {}),
	})
}

// subscribe is a POST to the subscriptions (DSP0266 §13.6.1).
func (s *Server) subscribe(c *call) (reply, error) {
	x := Subscription{Format: formatEvent}
	for _, k := range []string{"Destination", "Protocol"} {
		if _, ok := c.body[k]; !ok {
			return reply{}, msgMissing(k)
		}
	}
	for k, v := range c.body {
		if err := x.parse(s, k, v); err != nil {
			return reply{}, err
		}
	}
	if len(x.choice.prefixes) > 0 && len(x.choice.messages) > 0 {
		return reply{}, msgConflict("RegistryPrefixes", "MessageIds")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivering == 0 {
		return reply{}, &message{Status: http.StatusServiceUnavailable, ID: "ServiceTemporarilyUnavailable", Args: []string{"60"},
			Resolution: "This virtual BMC pushes no events: read them as server-sent events at " + ssePath + "."}
	}
	if len(s.subscriptions) >= maxSubscriptions {
		return reply{}, bad("EventSubscriptionLimitExceeded")
	}
	s.nextID++
	x.ID = strconv.Itoa(s.nextID)
	if err := s.change(append(slices.Clone(s.subscriptions), &receiver{sub: x, filter: x.condition()})); err != nil {
		return reply{}, err
	}
	body := x.resource()
	return created(subscriptionsPath+"/"+x.ID, body), nil
}
