package vbmc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

const loopback = "the service opens no sockets: discovery on the network is its program's, and fettle's virtual BMCs have no multicast"

var serviceAssertions = []assertion{
	{name: "SERV_EVENT_POST_RESP", asks: "a subscription is created with 201 and its place", check: func(j *protocolJudge) []string {
		a := j.keep(subscription, "POST", j.subs, j.token, `{"Context":"RPV test subscription","Protocol":"Redfish","Destination":"https://listener.example.org/Destination1"}`)
		wrong := every([]answer{a}, func(a answer) string { return isStatus(201)(a) + hasHeader("Location")(a) })
		return append(wrong, every([]answer{j.do(subscription, "DELETE", a.header.Get("Location"), j.token, "")}, successful)...)
	}},
	{name: "SERV_EVENT_PUSH_STYLE", asks: "events are pushed to subscriptions", check: func(j *protocolJudge) []string { return j.pushed() }},
	{name: "SERV_EVENT_ERROR_ON_BAD_REQUEST", asks: "a subscription by FTP is refused", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(subscription, "POST", j.subs, j.token, `{"Protocol":"FTP","Destination":"https://listener.example.org/Destination1"}`)}, isStatus(400))
	}},
	{name: "SERV_EVENT_ERROR_MUTUALLY_EXCL_PROPS", asks: "so is one with RegistryPrefixes and MessageIds", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(subscription, "POST", j.subs, j.token, `{"Protocol":"Redfish","Destination":"https://listener.example.org/1","RegistryPrefixes":["FettleVirtualBMC"],"MessageIds":["FettleVirtualBMC.1.0.LogEntryAdded"]}`)},
			func(a answer) string { return isStatus(400)(a) + errorBody(a) })
	}},
	{name: "SERV_EVENT_PERSISTENT_ACROSS_RESTARTS", na: "the validator does not test it; a virtual BMC keeps nothing across its program's end"},
	{name: "SERV_EVENT_PUSH_ONLY_ON_SUBSCRIPTION", asks: "nothing is pushed without a subscription", check: func(j *protocolJudge) []string {
		j.s.logEvent("system", "OK", "nobody listens")
		if n := len(j.s.pushes); n > 0 {
			return wrongf("%d pushes wait", n)
		}
		return nil
	}},
	{name: "SERV_EVENT_PAYLOAD_SIZE_LIMIT", asks: "a push is smaller than 1 MiB", check: func(j *protocolJudge) []string {
		if n := len(eventBody(systemPath, event{text: strings.Repeat("x", maxBody)}, strings.Repeat("c", 1024))); n > 1<<20 {
			return wrongf("%d bytes", n)
		}
		return nil
	}},
	{name: "SERV_EVENT_METRIC_REPORT_FORMAT", asks: "a pushed metric report is a MetricReport", check: func(j *protocolJudge) []string {
		b, err := j.s.reportBody(j.t.Context(), platform(), "x")
		var o obj
		if err != nil || json.Unmarshal(b, &o) != nil || !strings.HasSuffix(fmt.Sprint(o["@odata.type"]), ".MetricReport") || o["Context"] != "x" {
			return wrongf("%s, %v", b, err)
		}
		return nil
	}},
	{name: "SERV_EVENT_OTHER_FORMAT", asks: "a pushed event is an Event with what the schema wants", check: func(j *protocolJudge) []string {
		var o obj
		if err := json.Unmarshal(eventBody(systemPath, event{id: 7, severity: "OK", text: "x"}, ""), &o); err != nil {
			return wrongf("%v", err)
		}
		l, _ := o["Events"].([]any)
		if len(l) != 1 {
			return wrongf("%v", o)
		}
		for _, k := range []string{"MemberId", "EventType", "MessageId"} {
			if at(l[0].(obj), k) == nil {
				return wrongf("no %s", k)
			}
		}
		return nil
	}},
	{name: "SERV_EVENT_MESSAGE_KEY_FORMAT", asks: "message keys hold no blanks, periods or special characters", check: func(*protocolJudge) []string {
		var wrong []string
		for _, m := range []map[string]entry{ownMessages, baseMessages} {
			for k := range m {
				if strings.ContainsAny(k, " .,;:-_/()") {
					wrong = append(wrong, k)
				}
			}
		}
		return wrong
	}},
	{name: "SERV_EVENT_OEM_NO_ADDITIONAL_MESSAGE_ARGS", asks: "messages have as many arguments as their registry says", check: func(j *protocolJudge) []string {
		return every(where(j.answers, func(a answer) bool { return len(extended(a)) > 0 }), func(a answer) string {
			for _, x := range extended(a) {
				if w := checkMessage(x.(obj)); w != "" {
					return w
				}
			}
			return ""
		})
	}},
	{name: "SERV_EVENT_OEM_NO_CHANGED_REGISTRY_VALUES", na: "the Base registry is DMTF's, by reference; TestBaseMessages compares what is sent of it"},
	{name: "SERV_SSDP_CAN_BE_DISABLED", na: loopback},
	{name: "SERV_SSDP_USN_MATCHES_SERVICE_ROOT_UUID", na: loopback},
	{name: "SERV_SSDP_UUID_STATIC", na: loopback},
	{name: "SERV_SSDP_UUID_IN_CANONICAL_FORMAT", na: loopback},
	{name: "SERV_SSDP_MSEARCH_RESPONDS_TO_REDFISH_OR_ALL", na: loopback},
	{name: "SERV_SSDP_ST_HEADER_FORMAT", na: loopback},
	{name: "SERV_SSDP_AL_HEADER_POINTS_TO_SERVICE_ROOT", na: loopback},
	{name: "SERV_SSDP_M_SEARCH_RESPONSE_FORMAT", na: loopback},
	{name: "SERV_SSDP_DISABLE_ADDITIONAL_UPNP_MESSAGES", na: loopback},
	{name: "SERV_SSE_SUCCESSFUL_RESPONSE", asks: "a stream answers 200 and text/event-stream", check: func(j *protocolJudge) []string {
		return j.streamed("", func(s *streamSeen) []string {
			if s.status != 200 || s.contentType != "text/event-stream" {
				return wrongf("%d %s", s.status, s.contentType)
			}
			return nil
		})
	}},
	{name: "SERV_SSE_UNSUCCESSFUL_RESPONSE", asks: "a stream that is not accepted answers 400 or more, in JSON, with an extended error", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(streaming, "GET", j.sse, j.token, "", "Accept", "application/json")}, func(a answer) string {
			if a.status < 400 {
				return "it was answered"
			}
			return errorBody(a)
		})
	}},
	{name: "SERV_SSE_BLANK_LINES_BETWEEN_EVENTS", asks: "blank lines part the events", check: streamedEvents},
	{name: "SERV_SSE_CONNECTION_OPEN_UNTIL_CLOSED", asks: "the stream stays open until the client ends it", check: func(j *protocolJudge) []string {
		return j.streamed("", func(s *streamSeen) []string {
			if s.endedItself {
				return wrongf("the service ended it")
			}
			return nil
		})
	}},
	{name: "SERV_SSE_EVENTS_SENT_VIA_OPEN_CONNECTION", asks: "events come by it", check: streamedEvents},
	{name: "SERV_SSE_OPEN_CREATES_EVENT_DEST", asks: "it is an EventDestination", check: func(j *protocolJudge) []string {
		return j.streamed("", func(s *streamSeen) []string {
			if s.destination.status != 200 || s.destination.body["SubscriptionType"] != "SSE" {
				return wrongf("%s", s.destination.text)
			}
			return nil
		})
	}},
	{name: "SERV_SSE_EVENT_DEST_CONTEXT_OPAQUE_STR", asks: "with a Context", check: func(j *protocolJudge) []string {
		return j.streamed("", func(s *streamSeen) []string {
			if t, _ := s.destination.body["Context"].(string); t == "" {
				return wrongf("%s", s.destination.text)
			}
			return nil
		})
	}},
	{name: "SERV_SSE_EVENT_DEST_DELETED_ON_CLOSE", asks: "which is gone when the stream ends", check: func(j *protocolJudge) []string {
		var uri string
		wrong := j.streamed("", func(s *streamSeen) []string { uri = s.destination.uri; return nil })
		waitFor(j.t, "the EventDestination to go", func() bool { return j.do(normal, "GET", uri, j.token, "").status == 404 })
		return wrong
	}},
	{name: "SERV_SSE_CLOSE_CONNECTION_IF_EVENT_DEST_DELETED", asks: "and whose deletion ends the stream", check: func(j *protocolJudge) []string {
		ctx, cancel := context.WithTimeout(j.t.Context(), 10*time.Second)
		defer cancel()
		before := members(j.do(normal, "GET", j.subs, j.token, "").body)
		res, _, ended := j.stream(ctx, j.token, "")
		defer res.Body.Close()
		fresh := slices.DeleteFunc(members(j.do(normal, "GET", j.subs, j.token, "").body), func(m string) bool { return slices.Contains(before, m) })
		if len(fresh) != 1 {
			return wrongf("new destinations: %v", fresh)
		}
		wrong := every([]answer{j.do(normal, "DELETE", fresh[0], j.token, "")}, successful)
		select {
		case <-ended:
		case <-ctx.Done():
			return append(wrong, "the stream went on")
		}
		return wrong
	}},
	{name: "SERV_SSE_ID_FIELD_UNIQUELY_IDENTIFIES_PAYLOAD", asks: "every payload has its own id", check: streamedEvents},
	{name: "SERV_SSE_DATA_FIELD_BASED_ON_PAYLOAD_FORMAT", asks: "a payload is an Event or a MetricReport", check: streamedEvents},
	{name: "SERV_SSE_JSON_EVENT_MESSAGE_FORMAT", asks: "an Event in JSON", check: streamedEvents},
	{name: "SERV_SSE_JSON_METRIC_REPORT_FORMAT", asks: "a MetricReport in JSON, for those that ask", check: func(j *protocolJudge) []string {
		return j.streamed("?$filter=EventFormatType%20eq%20'MetricReport'", func(s *streamSeen) []string {
			if len(s.payloads) == 0 || !strings.HasSuffix(fmt.Sprint(s.payloads[0]["@odata.type"]), ".MetricReport") {
				return wrongf("payloads: %v", s.payloads)
			}
			return nil
		})
	}},
}

// pushed tells whether an event reaches a subscription's queue.
func (j *protocolJudge) pushed() []string {
	a := j.do(subscription, "POST", j.subs, j.token, `{"Protocol":"Redfish","Destination":"https://listener.example.org/2"}`)
	defer j.do(subscription, "DELETE", a.header.Get("Location"), j.token, "")
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	for _, r := range j.s.subscriptions {
		if strings.HasSuffix(a.header.Get("Location"), "/"+r.sub.ID) && r.wants((&Server{}).traits("system")) {
			return nil
		}
	}
	return wrongf("the subscription gets no events: %d %s", a.status, a.text)
}

// streamSeen is what a stream showed.
type streamSeen struct {
	status      int
	contentType string
	destination answer
	ids         []string
	payloads    []obj
	badData     []string
	endedItself bool
}

// streamed opens a stream, lets an event happen, and judges what came.
func (j *protocolJudge) streamed(query string, judge func(*streamSeen) []string) []string {
	ctx, cancel := context.WithTimeout(j.t.Context(), 10*time.Second)
	defer cancel()
	before := members(j.do(normal, "GET", j.subs, j.token, "").body)
	res, buf, ended := j.stream(ctx, j.token, query)
	s := &streamSeen{status: res.StatusCode, contentType: res.Header.Get("Content-Type")}
	for _, m := range members(j.do(normal, "GET", j.subs, j.token, "").body) {
		if !slices.Contains(before, m) {
			s.destination = j.do(normal, "GET", m, j.token, "")
		}
	}
	want := 1 // a metric report comes by itself
	if query == "" {
		j.s.logEvent("system", "OK", "something happened")
		j.s.logEvent("system", "OK", "and something else")
		want = 2
	}
	waitFor(j.t, "payloads to arrive", func() bool { return strings.Count(buf.String(), "\ndata: ") >= want })
	select {
	case <-ended:
		s.endedItself = true
	default:
	}
	cancel()
	res.Body.Close()
	<-ended
	for _, part := range strings.Split(buf.String(), "\n\n") {
		var id, data string
		for line := range strings.Lines(part) {
			line = strings.TrimSuffix(line, "\n")
			if v, ok := strings.CutPrefix(line, "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(line, "data: "); ok {
				data += v
			}
		}
		if data == "" {
			continue
		}
		var o obj
		if json.Unmarshal([]byte(data), &o) != nil {
			s.badData = append(s.badData, data)
		}
		s.ids, s.payloads = append(s.ids, id), append(s.payloads, o)
	}
	return judge(s)
}

// streamedEvents judges the events of a stream.
func streamedEvents(j *protocolJudge) []string {
	return j.streamed("", func(s *streamSeen) []string {
		if len(s.payloads) == 0 || len(s.badData) > 0 {
			return wrongf("%d payloads, bad: %v", len(s.payloads), s.badData)
		}
		for i, p := range s.payloads {
			if s.ids[i] == "" || slices.Contains(s.ids[:i], s.ids[i]) {
				return wrongf("ids %v", s.ids)
			}
			if !strings.HasSuffix(fmt.Sprint(p["@odata.type"]), ".Event") {
				return wrongf("%v", p)
			}
		}
		return nil
	})
}
