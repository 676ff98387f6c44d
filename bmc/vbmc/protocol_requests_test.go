package vbmc

import (
	"fmt"
	"slices"
	"strings"
)

// accepted judges GETs of a URI with each of the Accept headers.
func (j *protocolJudge) acceptsEach(uri string, values ...string) []string {
	var all []answer
	for _, v := range values {
		all = append(all, j.do(normal, "GET", uri, j.token, "", "Accept", v))
	}
	return every(all, successful)
}

// patchNTP writes the NTP servers, then again, and gives what is there then.
func (j *protocolJudge) patchNTP(second string) ([]any, []string) {
	if a := j.last(normal, "GET", j.netProto); a == nil || at(a.body, "NTP/NTPServers") == nil {
		return nil, notHere
	}
	var a answer
	for _, list := range []string{`["time-a-b.example.org","time-b-b.example.org"]`, second} {
		a = j.do(normal, "PATCH", j.netProto, j.token, `{"NTP":{"NTPServers":`+list+`}}`, j.etagOf(j.netProto, j.token)...)
		if !a.ok() {
			return nil, wrongf("PATCH of %s = %d %s", list, a.status, a.text)
		}
	}
	now, ok := at(j.do(normal, "GET", j.netProto, j.token, "").body, "NTP/NTPServers").([]any)
	if !ok {
		return nil, wrongf("no array afterwards: %s", a.text)
	}
	return now, nil
}

var requestAssertions = []assertion{
	{name: "REQ_HEADERS_ACCEPT", asks: "Accept is honoured: JSON, XML, YAML, event streams, and what stands for them", check: func(j *protocolJudge) []string {
		wrong := j.acceptsEach(root+"/", "application/json", "application/json;charset=utf-8", "application/*", "application/*;charset=utf-8", "*/*", "*/*;charset=utf-8")
		wrong = append(wrong, j.acceptsEach(root+"/$metadata", "application/xml", "application/xml;charset=utf-8", "application/*", "*/*", "*/*;charset=utf-8")...)
		if j.last(openapi, "GET", root+"/openapi.yaml").status == 200 {
			wrong = append(wrong, j.acceptsEach(root+"/openapi.yaml", "application/yaml", "application/yaml;charset=utf-8", "application/*", "*/*")...)
		}
		for _, v := range []string{"text/event-stream", "text/event-stream;charset=utf-8"} {
			res := j.open(j.t.Context(), "GET", j.sse, j.token, "", "Accept", v)
			if res.Body.Close(); res.StatusCode != 200 {
				wrong = append(wrong, fmt.Sprintf("%s with %s = %d", j.sse, v, res.StatusCode))
			}
		}
		return wrong
	}},
	{name: "REQ_HEADERS_AUTHORIZATION", asks: "a user and password in Authorization open what is protected", check: func(j *protocolJudge) []string {
		return every(j.of(basicAuth, "GET"), successful)
	}},
	{name: "REQ_HEADERS_CONTENT_TYPE", asks: "application/json is read, with charset=utf-8 and without", check: func(j *protocolJudge) []string {
		var wrong []string
		for _, ct := range []string{"application/json", "application/json;charset=utf-8"} {
			if !slices.ContainsFunc(j.of(normal, ""), func(a answer) bool { return a.ok() && a.request != "" && a.sent.Get("Content-Type") == ct }) {
				wrong = append(wrong, ct+" was never read")
			}
		}
		return wrong
	}},
	{name: "REQ_HEADERS_HOST", asks: "a request with Host is answered", check: func(j *protocolJudge) []string { return j.withURI(root+"/", successful) }},
	{name: "REQ_HEADERS_IF_MATCH", asks: "a PATCH under its ETag passes, under another gets 412", check: func(j *protocolJudge) []string {
		good := where(j.of(normal, "PATCH"), func(a answer) bool { return a.sent.Get("If-Match") != "" })
		return append(every(good, successful), every(j.of(badETag, "PATCH"), isStatus(412))...)
	}},
	{name: "REQ_HEADERS_ODATA_VERSION", asks: "OData-Version 4.0 passes, 4.1 gets 412", check: func(j *protocolJudge) []string {
		return append(every([]answer{j.do(normal, "GET", root+"/", j.token, "", "OData-Version", "4.0")}, successful),
			every([]answer{j.do(normal, "GET", root+"/", j.token, "", "OData-Version", "4.1")}, isStatus(412))...)
	}},
	{name: "REQ_HEADERS_ORIGIN", na: "the validator does not test it; no cross-origin access is given"},
	{name: "REQ_HEADERS_USER_AGENT", asks: "a request with User-Agent is answered", check: func(j *protocolJudge) []string {
		return j.withURI(root+"/", func(a answer) string { return successful(a) })
	}},
	{name: "REQ_HEADERS_X_AUTH_TOKEN", asks: "a session's token opens what is protected", check: func(j *protocolJudge) []string { return j.withURI(j.sessions, successful) }},
	{name: "REQ_GET_NO_ACCEPT_HEADER", asks: "without Accept the answer is JSON", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", root+"/", j.token, "", "Accept", "")}, isJSON)
	}},
	{name: "REQ_GET_IGNORE_BODY", asks: "the body of a GET is ignored", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", root+"/", j.token, "{}"), j.do(normal, "GET", j.systems, j.token, "no JSON")}, successful)
	}},
	{name: "REQ_GET_COLLECTION_COUNT_PROP_REQUIRED", asks: "a collection counts its members", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.body["Members"] != nil }), func(a answer) string {
			if _, ok := a.body["Members@odata.count"].(float64); !ok {
				return "no Members@odata.count"
			}
			return ""
		})
	}},
	{name: "REQ_GET_COLLECTION_COUNT_PROP_TOTAL", asks: "the count is that of all members, on a page too", check: func(j *protocolJudge) []string {
		count := func(a answer) string {
			n, _ := a.body["Members@odata.count"].(float64)
			l, _ := a.body["Members"].([]any)
			if _, more := a.body["Members@odata.nextLink"]; int(n) != len(l) && !more || more && int(n) <= len(l) {
				return fmt.Sprintf("count %v of %d members", n, len(l))
			}
			return ""
		}
		page := j.do(normal, "GET", j.roles+"?$top=1", j.token, "")
		if page.body["Members@odata.nextLink"] == nil {
			return wrongf("a page has no next link: %s", page.text)
		}
		return every(append(j.found(func(a answer) bool { return a.body["Members"] != nil }), page), count)
	}},
	{name: "REQ_GET_SERVICE_ROOT_URL", asks: "the service root is where it must be", check: func(j *protocolJudge) []string { return j.withURI(root+"/", successful) }},
	{name: "REQ_GET_SERVICE_ROOT_NO_AUTH", asks: "it and /redfish need no login", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "GET"), func(a answer) bool { return a.uri == "/redfish" || a.uri == root+"/" }), successful)
	}},
	{name: "REQ_GET_METADATA_URI", asks: "the metadata document is where it must be", check: func(j *protocolJudge) []string { return j.withURI(root+"/$metadata", successful) }},
	{name: "REQ_GET_ODATA_URI", asks: "so is the service document", check: func(j *protocolJudge) []string { return j.withURI(root+"/odata", successful) }},
	{name: "REQ_GET_METADATA_ODATA_NO_AUTH", asks: "neither needs a login", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "GET"), func(a answer) bool { return a.uri == root+"/$metadata" || a.uri == root+"/odata" }), successful)
	}},
	{name: "REQ_QUERY_PROTOCOL_FEATURES_SUPPORTED", asks: "the service root says which queries there are, and they are there", check: func(j *protocolJudge) []string {
		f, _ := j.root["ProtocolFeaturesSupported"].(obj)
		if f == nil {
			return wrongf("no ProtocolFeaturesSupported")
		}
		var all []answer
		for feature, q := range map[string]string{"SelectQuery": "$select=Name", "FilterQuery": "$filter=Name%20ne%20'x'", "OnlyMemberQuery": "only", "TopSkipQuery": "$top=1&$skip=0",
			"ExpandQuery/ExpandAll": "$expand=*", "ExpandQuery/NoLinks": "$expand=.", "ExpandQuery/Links": "$expand=~", "ExpandQuery/Levels": "$expand=.($levels=2)"} {
			if at(f, feature) == true {
				all = append(all, j.do(normal, "GET", j.systems+"?"+q, j.token, ""))
			}
		}
		return every(all, successful)
	}},
	{name: "REQ_QUERY_IGNORE_UNSUPPORTED", asks: "an unknown parameter without $ is ignored", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", root+"/?rpvunknown", j.token, "")}, successful)
	}},
	{name: "REQ_QUERY_UNSUPPORTED_DOLLAR_PARAMS", asks: "one with $ gets 501", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", root+"/?$rpvunknown", j.token, "")}, isStatus(501))
	}},
	{name: "REQ_QUERY_UNSUPPORTED_PARAMS_EXT_ERROR", asks: "and is named in the error", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", root+"/?$rpvunknown", j.token, "")}, func(a answer) string {
			if !strings.Contains(a.text, "rpvunknown") {
				return a.text
			}
			return errorBody(a)
		})
	}},
	{name: "REQ_QUERY_INVALID_VALUES", asks: "a value for a parameter that has none gets 400", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "GET", j.sessions+"?only=foo", j.token, ""), j.do(normal, "GET", root+"/?excerpt=foo", j.token, "")}, isStatus(400))
	}},
	{name: "REQ_HEAD_DIFFERS_FROM_GET", asks: "HEAD has no body", check: func(j *protocolJudge) []string {
		return every(j.of(normal, "HEAD"), func(a answer) string { return successful(a) + a.text })
	}},
	{name: "REQ_DATA_MOD_NOT_SUPPORTED", asks: "what cannot be deleted answers 405", check: func(j *protocolJudge) []string {
		return every(j.of(unsupported, "DELETE"), isStatus(405))
	}},
	{name: "REQ_DATA_MOD_ERRORS", asks: "a POST that fails creates nothing", check: func(j *protocolJudge) []string {
		failed := append(where(j.of(noAuth, "POST"), func(a answer) bool { return !a.ok() }), j.keep(normal, "POST", j.sessions, "", "{}"))
		return every(failed, func(a answer) string {
			if a.ok() || a.header.Get("Location") != "" {
				return "something was created"
			}
			return ""
		})
	}},
	{name: "REQ_PATCH_MIXED_PROPS", asks: "what can be written is, the rest is named", check: func(j *protocolJudge) []string {
		return every(j.of(mixedProps, "PATCH"), func(a answer) string {
			if a.status != 400 && (a.status != 200 || a.body["@odata.id"] == nil || len(extended(a)) == 0) {
				return a.text
			}
			return ""
		})
	}},
	{name: "REQ_PATCH_BAD_PROP", asks: "when nothing can be written: 400, and the property is named", check: func(j *protocolJudge) []string {
		return every(j.of(badProp, "PATCH"), func(a answer) string {
			if a.status != 400 || !strings.Contains(a.text, "BogusProp") {
				return a.text
			}
			return errorBody(a)
		})
	}},
	{name: "REQ_PATCH_RO_RESOURCE", asks: "a resource that can never be written answers 405", check: func(j *protocolJudge) []string { return every(j.of(readOnlyResource, "PATCH"), isStatus(405)) }},
	{name: "REQ_PATCH_COLLECTION", asks: "so does a collection", check: func(j *protocolJudge) []string { return every(j.of(patchCollection, "PATCH"), isStatus(405)) }},
	{name: "REQ_PATCH_ODATA_PROPS", asks: "annotations alone are no operation", check: func(j *protocolJudge) []string {
		return every(j.of(odataProps, "PATCH"), func(a answer) string {
			if a.status != 400 || !hasMessage(a, "NoOperation") {
				return a.text
			}
			return ""
		})
	}},
	{name: "REQ_PATCH_ARRAY_ELEMENT_REMOVE", asks: "null removes an element", check: func(j *protocolJudge) []string {
		now, wrong := j.patchNTP(`[null,"time-b-b.example.org"]`)
		if wrong == nil && slices.Contains(now, any("time-a-b.example.org")) {
			return wrongf("%v", now)
		}
		return wrong
	}},
	{name: "REQ_PATCH_ARRAY_ELEMENT_UNCHANGED", asks: "{} leaves an element as it is", check: func(j *protocolJudge) []string {
		now, wrong := j.patchNTP(`[{},"time-d-b.example.org"]`)
		if wrong == nil && !slices.Equal(now, []any{"time-a-b.example.org", "time-d-b.example.org"}) {
			return wrongf("%v", now)
		}
		return wrong
	}},
	{name: "REQ_PATCH_ARRAY_OPERATIONS_ORDER", asks: "changes, then removals, then additions", check: func(j *protocolJudge) []string {
		now, wrong := j.patchNTP(`[null,{},"time-e-b.example.org"]`)
		if wrong == nil && !slices.Equal(now, []any{"time-b-b.example.org", "time-e-b.example.org"}) {
			return wrongf("%v", now)
		}
		return wrong
	}},
	{name: "REQ_PATCH_ARRAY_TRUNCATE", asks: "a shorter array cuts off the rest", check: func(j *protocolJudge) []string {
		now, wrong := j.patchNTP(`["time-b-b.example.org"]`)
		if wrong == nil && !slices.Equal(now, []any{"time-b-b.example.org"}) {
			return wrongf("%v", now)
		}
		return wrong
	}},
	{name: "REQ_PUT_NOT_IMPLEMENTED", asks: "PUT answers 405 where there is none", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "PUT", members(j.last(normal, "GET", j.systems).body)[0], j.token, "{}")}, isStatus(405))
	}},
	{name: "REQ_POST_CREATE_VIA_COLLECTION", asks: "a POST to a collection creates", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), successful)
	}},
	{name: "REQ_POST_CREATE_URI_IN_LOCATION_HDR", asks: "and says where", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), hasHeader("Location"))
	}},
	{name: "REQ_POST_CREATE_TO_MEMBERS_PROP", asks: "a POST to its Members does the same", check: func(j *protocolJudge) []string {
		a := j.do(normal, "POST", j.sessions+"/Members", "", j.credentials(judgeUser, judgePassword))
		j.do(normal, "DELETE", a.header.Get("Location"), j.token, "")
		b := j.do(normal, "POST", j.accounts+"/Members", j.token, `{"UserName":"members","Password":"Members123","RoleId":"ReadOnly"}`)
		j.do(normal, "DELETE", b.header.Get("Location"), j.token, "")
		return every([]answer{a, b}, isStatus(201))
	}},
	{name: "REQ_POST_CREATE_NOT_SUPPORTED", asks: "a collection that nothing is added to answers 405", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "POST", j.systems, j.token, "{}"), j.do(normal, "POST", j.roles, j.token, "{}")}, isStatus(405))
	}},
	{name: "REQ_POST_CREATE_NOT_IDEMPOTENT", asks: "two POSTs make two", check: func(j *protocolJudge) []string {
		a := j.do(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword)).header.Get("Location")
		b := j.do(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword)).header.Get("Location")
		if a == "" || a == b {
			return wrongf("%q and %q", a, b)
		}
		return every([]answer{j.do(normal, "DELETE", a, j.token, ""), j.do(normal, "DELETE", b, j.token, "")}, successful)
	}},
	{name: "REQ_DELETE_METHOD_REQUIRED", asks: "what was created can be deleted", check: func(j *protocolJudge) []string {
		return every(j.of(normal, "DELETE"), successful)
	}},
	{name: "REQ_DELETE_NON_DELETABLE_RESOURCE", asks: "what never can be answers 405", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "DELETE", members(j.last(normal, "GET", j.systems).body)[0], j.token, "")}, isStatus(405))
	}},
}
