package vbmc

import (
	"context"
	"crypto/tls"
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
		if n := len(eventBody("system", event{text: strings.Repeat("x", maxBody)}, strings.Repeat("c", 1024))); n > 1<<20 {
			return wrongf("%d bytes", n)
		}
		return nil
	}},
	{name: "SERV_EVENT_METRIC_REPORT_FORMAT", asks: "a pushed metric report is a MetricReport", check: func(j *protocolJudge) []string {
		b, err := j.s.reportBody(j.t.Context(), "x")
		var o obj
		if err != nil || json.Unmarshal(b, &o) != nil || !strings.HasSuffix(fmt.Sprint(o["@odata.type"]), ".MetricReport") || o["Context"] != "x" {
			return wrongf("%s, %v", b, err)
		}
		return nil
	}},
	{name: "SERV_EVENT_OTHER_FORMAT", asks: "a pushed event is an Event with what the schema wants", check: func(j *protocolJudge) []string {
		var o obj
		if err := json.Unmarshal(eventBody("system", event{id: 7, severity: "OK", text: "x"}, ""), &o); err != nil {
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
		if strings.HasSuffix(a.header.Get("Location"), "/"+r.sub.ID) && r.wants(event{}.traits("system")) {
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

const passwords = "an account whose password must be changed "

var securityAssertions = []assertion{
	{name: "SEC_TLS_1_1", asks: "TLS 1.1 or later is spoken", check: func(j *protocolJudge) []string {
		a := j.open(j.t.Context(), "GET", root+"/", j.token, "")
		defer a.Body.Close()
		if a.TLS == nil || a.TLS.Version < tls.VersionTLS11 {
			return wrongf("%+v", a.TLS)
		}
		return nil
	}},
	{name: "SEC_DEFAULT_CERT_REPLACE", asks: "the certificate can be replaced", check: func(j *protocolJudge) []string {
		if j.certs == "" {
			return notHere
		}
		a := j.last(normal, "GET", j.certService)
		if a == nil || at(a.body, "Actions/#CertificateService.ReplaceCertificate") == nil {
			return wrongf("no ReplaceCertificate")
		}
		return nil
	}},
	{name: "SEC_CERTS_CONFORM_X509V3", asks: "it is one of X.509 version 3", check: func(j *protocolJudge) []string {
		a := j.open(j.t.Context(), "GET", root+"/", "", "")
		defer a.Body.Close()
		if v := a.TLS.PeerCertificates[0].Version; v != 3 {
			return wrongf("version %d", v)
		}
		return nil
	}},
	{name: "SEC_BOTH_AUTH_TYPES", asks: "basic authentication and sessions both work", check: func(j *protocolJudge) []string {
		return append(every(j.of(basicAuth, "GET"), successful), j.withURI(j.sessions, successful)...)
	}},
	{name: "SEC_BASIC_AUTH_STANDALONE", asks: "basic authentication needs no session", check: func(j *protocolJudge) []string { return every(j.of(basicAuth, "GET"), successful) }},
	{name: "SEC_WRITE_REQUIRES_AUTH", asks: "nobody writes but to log in", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, ""), func(a answer) bool { return a.method != "GET" && a.method != "HEAD" }), func(a answer) string {
			if a.ok() != (a.method == "POST" && a.uri == j.sessions) {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_READ_REQUIRES_AUTH", asks: "nobody reads but what is open", check: func(j *protocolJudge) []string {
		return every(j.of(noAuth, "GET"), func(a answer) string {
			if a.ok() != slices.Contains(openURIs, a.uri) {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_REDIRECT_ENFORCES_TARGET_PRIVS", na: "there is no HTTP to redirect from: the service speaks HTTPS alone"},
	{name: "SEC_REDIRECT_TO_HTTPS", na: "there is no HTTP to redirect from: the service speaks HTTPS alone"},
	{name: "SEC_NO_PRIV_INFO_IN_MSGS", asks: "a refused login tells no secrets", check: func(j *protocolJudge) []string {
		return every(j.of(badAuth, ""), func(a answer) string {
			if a.ok() {
				return "it was let in"
			}
			for _, s := range j.secrets {
				if strings.Contains(a.text, s) {
					return "the answer shows a secret"
				}
			}
			return ""
		})
	}},
	{name: "SEC_HEADERS_FIRST", asks: "who one is comes before ETags", check: func(j *protocolJudge) []string {
		var all []answer
		for _, a := range j.found(func(a answer) bool { return a.account }) {
			all = append(all, j.do(normal, "GET", a.uri, "", "", "If-None-Match", a.header.Get("ETag")))
		}
		return every(all, isStatus(401))
	}},
	{name: "SEC_NO_AUTH_COOKIES", asks: "no cookies are set", check: func(j *protocolJudge) []string {
		return every(j.of(normal, "POST"), func(a answer) string { return a.header.Get("Set-Cookie") })
	}},
	{name: "SEC_SUPPORT_BASIC_AUTH", asks: "basic authentication works", check: func(j *protocolJudge) []string { return every(j.of(basicAuth, ""), successful) }},
	{name: "SEC_BASIC_AUTH_OVER_HTTPS", na: "there is no HTTP: the service speaks HTTPS alone"},
	{name: "SEC_CHANNEL_AUTH_HEADER", na: "the validator does not test it"},
	{name: "SEC_REQUIRE_LOGIN_SESSIONS", asks: "a login gives a token and a place", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string { return hasHeader("Location")(a) + hasHeader("X-Auth-Token")(a) })
	}},
	{name: "SEC_SESSIONS_URI_LOCATION", asks: "the service root and the SessionService name one place to log in", check: func(j *protocolJudge) []string {
		if got := ref(j.last(normal, "GET", ref(j.root, "SessionService")).body, "Sessions"); got == "" || got != j.sessions {
			return wrongf("%q and %q", got, j.sessions)
		}
		return nil
	}},
	{name: "SEC_SESSION_POST_RESPONSE", asks: "201 with the session's representation", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string {
			for _, k := range []string{"@odata.id", "@odata.type", "Id", "Name", "UserName"} {
				if a.body[k] == nil {
					return "no " + k
				}
			}
			return isStatus(201)(a)
		})
	}},
	{name: "SEC_SESSION_CREATE_HTTPS_ONLY", na: "there is no HTTP: the service speaks HTTPS alone"},
	{name: "SEC_SESSION_TERMINATION_SIDE_EFFECTS", asks: "the end of a session does not end its stream", check: func(j *protocolJudge) []string {
		ctx, cancel := context.WithTimeout(j.t.Context(), 10*time.Second)
		defer cancel()
		a := j.do(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword))
		res, text, ended := j.stream(ctx, a.header.Get("X-Auth-Token"), "")
		defer res.Body.Close()
		wrong := every([]answer{j.do(normal, "DELETE", a.header.Get("Location"), j.token, "")}, successful)
		j.s.logEvent("system", "OK", "after the session")
		waitFor(j.t, "an event after the session's end", func() bool { return strings.Contains(text.String(), "after the session") })
		select {
		case <-ended:
			return append(wrong, "the stream ended")
		default:
		}
		return wrong
	}},
	{name: "SEC_ACCOUNTS_SUPPORT_ETAGS", asks: "a stale ETag keeps an account from being changed", check: func(j *protocolJudge) []string { return every(j.of(badETag, "PATCH"), isStatus(412)) }},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_SESSION_LOGIN", asks: passwords + "may log in, and is told", check: func(j *protocolJudge) []string {
		return every(j.of(pwdChange, "POST"), func(a answer) string {
			if !hasMessage(a, "PasswordChangeRequired") {
				return a.text
			}
			return isStatus(201)(a)
		})
	}},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_GET_ACCOUNT", asks: passwords + "may read itself", check: func(j *protocolJudge) []string {
		return every(where(j.of(pwdChange, "GET"), func(a answer) bool { return a.account }), successful)
	}},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_PATCH_PASSWORD", asks: passwords + "may change it, and is free then", check: func(j *protocolJudge) []string {
		return every(j.of(pwdChange, "PATCH"), func(a answer) string {
			if a.status != 200 || a.body["PasswordChangeRequired"] != false {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PWD_CHANGE_REQ_DISALLOW_ALL_OTHERS", asks: passwords + "may do nothing else", check: func(j *protocolJudge) []string {
		return every(where(j.of(pwdChange, "GET"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string {
			if !hasMessage(a, "PasswordChangeRequired") {
				return a.text
			}
			return isStatus(403)(a)
		})
	}},
	{name: "SEC_PRIV_EQUIVALENT_ROLES", na: "the validator does not test it; there are no roles but the predefined ones"},
	{name: "SEC_PRIV_ONE_ROLE_PRE_USER", asks: "an account has one role", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account }), func(a answer) string {
			if t, _ := a.body["RoleId"].(string); t == "" {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_SUPPORT_PREDEFINED_ROLES", asks: "the three predefined roles have their privileges", check: func(j *protocolJudge) []string {
		seen := 0
		wrong := every(j.found(func(a answer) bool { return a.role }), func(a answer) string {
			want := privileges(fmt.Sprint(a.body["Id"]))
			got, _ := a.body["AssignedPrivileges"].([]any)
			if seen++; len(got) != len(want) {
				return a.text
			}
			return ""
		})
		if seen != 3 {
			return append(wrong, fmt.Sprintf("%d roles", seen))
		}
		return wrong
	}},
	{name: "SEC_PRIV_PREDEFINED_ROLE_NOT_MODIFIABLE", asks: "and cannot be changed", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "PATCH", j.roles+"/ReadOnly", j.token, `{"AssignedPrivileges":["Login","ConfigureManager"]}`)}, func(a answer) string {
			if a.ok() {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_ROLE_ASSIGNED_AT_ACCOUNT_CREATE", asks: "a new account has the role that was given", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account && strings.HasPrefix(fmt.Sprint(a.body["UserName"]), "rfpv") }), func(a answer) string {
			if a.body["RoleId"] != "ReadOnly" {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_MODEL_SAME_FOR_ETAG_AND_ITS_DATA", asks: "who may not read something gets no ETag of it", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "GET"), func(a answer) bool { return a.status == 401 }), func(a answer) string { return a.header.Get("ETag") })
	}},
	{name: "SEC_PRIV_OPERATION_TO_PRIV_MAPPING", asks: "one reader cannot change another's account", check: func(j *protocolJudge) []string {
		return every(j.of(modifyOther, "PATCH"), isStatus(403, 404))
	}},
	{name: "SEC_PRIV_REDFISH_FORUM_PRIV_REGISTRY_DEF", asks: "the privilege registry is what is enforced", check: func(j *protocolJudge) []string { return j.privilegesHold() }},
}

// privilegesHold asks, of every entity of the privilege registry that is at a
// fixed place, whether a reader's PATCH is refused where the registry says so.
func (j *protocolJudge) privilegesHold() []string {
	r := j.do(normal, "GET", j.privileges, j.token, "")
	l, _ := r.body["Mappings"].([]any)
	if len(l) < 5 {
		return wrongf("%d mappings", len(l))
	}
	var all []answer
	for _, e := range entities {
		if !strings.Contains(e.pattern, "{") {
			if a := j.do(normal, "PATCH", e.pattern, "ro:ro", "{}"); a.status != 405 && a.status != 404 {
				all = append(all, a)
			}
		}
	}
	return every(all, isStatus(403))
}
