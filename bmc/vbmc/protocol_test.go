package vbmc

import (
	"encoding/xml"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// assertion is one of the validator's: what it asks in our words, and the check,
// which tells what is wrong; or why it does not apply.
type assertion struct {
	name, asks string
	check      func(j *protocolJudge) []string
	na         string
}

// notHere: the service has nothing that the assertion is about.
var notHere = []string{"-"}

// wrongf is one thing that is wrong.
func wrongf(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }

// every judges all of the answers; at least one there must be.
func every(all []answer, f func(a answer) string) []string {
	if len(all) == 0 {
		return wrongf("there was no such answer to judge")
	}
	var wrong []string
	for _, a := range all {
		if w := f(a); w != "" {
			wrong = append(wrong, fmt.Sprintf("%s %s = %d: %s", a.method, a.uri, a.status, w))
		}
	}
	return wrong
}

func isStatus(want ...int) func(answer) string {
	return func(a answer) string {
		if slices.Contains(want, a.status) {
			return ""
		}
		return fmt.Sprintf("want %v; %s", want, a.text)
	}
}

func successful(a answer) string {
	if a.ok() {
		return ""
	}
	return "refused: " + a.text
}

func hasHeader(name string) func(answer) string {
	return func(a answer) string {
		if a.header.Get(name) == "" {
			return "no " + name
		}
		return ""
	}
}

func where(all []answer, f func(answer) bool) []answer {
	return slices.DeleteFunc(slices.Clone(all), func(a answer) bool { return !f(a) })
}

func mediaType(a answer) string {
	t, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}

func isJSON(a answer) string {
	if a.body == nil || mediaType(a) != "application/json" {
		return "no JSON, but " + a.header.Get("Content-Type")
	}
	return ""
}

// extended is the error's entries, or the resource's own.
func extended(a answer) []any {
	if l, ok := at(a.body, "error/@Message.ExtendedInfo").([]any); ok {
		return l
	}
	l, _ := a.body["@Message.ExtendedInfo"].([]any)
	return l
}

func hasMessage(a answer, key string) bool {
	return slices.ContainsFunc(extended(a), func(x any) bool {
		m, _ := x.(obj)
		return strings.HasSuffix(fmt.Sprint(m["MessageId"]), "."+key)
	})
}

// errorBody judges an extended error (DSP0266 §8.6).
func errorBody(a answer) string {
	if mediaType(a) != "application/json" {
		return "the error is no JSON"
	}
	e, _ := a.body["error"].(obj)
	if e["code"] == nil || e["message"] == nil {
		return "the error has no code or no message"
	}
	for _, x := range extended(a) {
		m, _ := x.(obj)
		if w := checkMessage(m); w != "" {
			return w
		}
	}
	return ""
}

var (
	safeText    = regexp.MustCompile(`^([A-Za-z0-9!$&'()*+,\-./:;=@_]|%[A-Fa-f0-9]{2})*$`)
	encodedText = regexp.MustCompile(`%[A-Fa-f0-9]{2}`)
	entityTag   = regexp.MustCompile(`^(W/)?"[\x21\x23-\xFF]*"$`)
)

func (j *protocolJudge) withURI(uri string, f func(answer) string) []string {
	return every(where(j.of(normal, "GET"), func(a answer) bool { return a.uri == uri }), f)
}

// found are those GETs that gave a resource.
func (j *protocolJudge) found(f func(answer) bool) []answer {
	return where(j.of(normal, "GET"), func(a answer) bool { return a.status == 200 && f(a) })
}

var openURIs = []string{"/redfish", root, root + "/", root + "/odata", root + "/$metadata"}

var detailAssertions = []assertion{
	{name: "PROTO_URI_SAFE_CHARS", asks: "URIs hold no unsafe characters", check: func(j *protocolJudge) []string {
		return every(j.of(normal, ""), func(a answer) string {
			if !safeText.MatchString(a.uri) {
				return "unsafe"
			}
			return ""
		})
	}},
	{name: "PROTO_URI_NO_ENCODED_CHARS", asks: "URIs hold nothing percent-encoded", check: func(j *protocolJudge) []string {
		return every(j.of(normal, ""), func(a answer) string {
			if encodedText.MatchString(a.uri) {
				return "encoded"
			}
			return ""
		})
	}},
	{name: "PROTO_URI_RELATIVE_REFS", asks: "references begin with one slash, or with two and a host", check: func(j *protocolJudge) []string {
		return every(j.of(normal, ""), func(a answer) string {
			u, err := url.Parse(a.uri)
			if err != nil || !strings.HasPrefix(a.uri, "/") || strings.HasPrefix(a.uri, "//") && (u.Host == "" || u.Path == "") {
				return "neither"
			}
			return ""
		})
	}},
	{name: "PROTO_HTTP_SUPPORTED_METHODS", asks: "GET, POST, PATCH and DELETE work somewhere", check: func(j *protocolJudge) []string {
		var wrong []string
		for _, m := range []string{"GET", "POST", "PATCH", "DELETE"} {
			if !slices.ContainsFunc(j.of(normal, m), func(a answer) bool { return a.status >= 200 && a.status < 300 }) {
				wrong = append(wrong, m+" never succeeded")
			}
		}
		return wrong
	}},
	{name: "PROTO_HTTP_UNSUPPORTED_METHODS", asks: "a method that is not supported gets 405 or 501", check: func(j *protocolJudge) []string {
		return every(j.of(unsupported, ""), isStatus(405, 501))
	}},
	{name: "PROTO_JSON_ALL_RESOURCES", asks: "every resource is to be had as application/json", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.uri != root+"/$metadata" }), isJSON)
	}},
	{name: "PROTO_JSON_RFC", asks: "that JSON can be parsed", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.uri != root+"/$metadata" }), isJSON)
	}},
	{name: "PROTO_JSON_ACCEPTED", asks: "a request in JSON is not refused for being that, and is answered in JSON", check: func(j *protocolJudge) []string {
		return every(where(j.of(normal, ""), func(a answer) bool { return a.request != "" && slices.Contains([]int{200, 201, 406, 415}, a.status) }), isJSON)
	}},
	{name: "PROTO_ETAG_ON_GET_ACCOUNT", asks: "an account has an ETag", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account }), hasHeader("ETag"))
	}},
	{name: "PROTO_ETAG_RFC7232", asks: "ETags have their form", check: func(j *protocolJudge) []string {
		return every(where(j.of(normal, ""), func(a answer) bool { return a.header.Get("ETag") != "" && a.status < 300 }), func(a answer) string {
			if !entityTag.MatchString(a.header.Get("ETag")) {
				return a.header.Get("ETag")
			}
			if in, ok := a.body["@odata.etag"]; ok && in != a.header.Get("ETag") {
				return fmt.Sprintf("@odata.etag is %v", in)
			}
			return ""
		})
	}},
	{name: "PROTO_STD_URI_SERVICE_ROOT", asks: "the service root is at /redfish/v1/", check: func(j *protocolJudge) []string { return j.withURI(root+"/", isJSON) }},
	{name: "PROTO_STD_URI_VERSION", asks: "/redfish says {\"v1\": \"/redfish/v1/\"} and no more", check: func(j *protocolJudge) []string {
		return j.withURI("/redfish", func(a answer) string {
			if len(a.body) != 1 || a.body["v1"] != "/redfish/v1/" {
				return a.text
			}
			return ""
		})
	}},
	{name: "PROTO_STD_URIS_SUPPORTED", asks: "the four defined URIs are there", check: func(j *protocolJudge) []string {
		var wrong []string
		for _, uri := range []string{"/redfish", root + "/", root + "/odata"} {
			wrong = append(wrong, j.withURI(uri, isJSON)...)
		}
		return append(wrong, j.withURI(root+"/$metadata", isXML)...)
	}},
	{name: "PROTO_STD_URI_SERVICE_ROOT_REDIRECT", asks: "/redfish/v1 is as good as with a slash", check: func(j *protocolJudge) []string { return j.withURI(root, isJSON) }},
}

func isXML(a answer) string {
	var n node
	if err := xml.Unmarshal([]byte(a.text), &n); err != nil {
		return err.Error()
	}
	return ""
}

// protocolClient is what the conformance table calls it.
const protocolClient = "DMTF protocol validator (its assertions)"

// judge asks every assertion of a service, as subtests.
func (j *protocolJudge) judge(t *testing.T, note func(a assertion, ok bool)) {
	j.login()
	j.readAll()
	j.modify()
	for _, a := range slices.Concat(detailAssertions, requestAssertions, responseAssertions, serviceAssertions, securityAssertions) {
		if a.check == nil {
			note(a, true)
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			j.t = t
			wrong := a.check(j)
			if slices.Equal(wrong, notHere) {
				t.Skip("this service has nothing of the kind")
			}
			for _, w := range wrong {
				t.Errorf("it asks: %s; but %.400s", a.asks, w)
			}
			note(a, len(wrong) == 0)
		})
	}
}

// TestProtocolValidator: the DMTF's protocol validator finds no failure. One
// case for an assertion of its, by its name.
func TestProtocolValidator(t *testing.T) {
	for _, what := range append([]string{"generic"}, Personalities()...) {
		mod := func(c *Config) { c.Tree = personality(t, what) }
		if what == "generic" {
			mod = func(c *Config) { c.Identity = testIdentity(t) }
		}
		t.Run(what, func(t *testing.T) {
			newProtocolJudge(t, mod).judge(t, func(a assertion, ok bool) {
				if a.check == nil {
					matrix.Leave(protocolClient, a.name, a.na)
					return
				}
				matrix.Note(protocolClient, a.name+": "+a.asks, what, ok)
			})
		})
	}
}

// TestProtocolValidatorTwins: nor in the twins of the crawled servers.
func TestProtocolValidatorTwins(t *testing.T) {
	for _, name := range []string{"dell", "lenovo", "nvidia_gb200"} {
		t.Run(name, func(t *testing.T) {
			newProtocolJudge(t, func(c *Config) { c.Tree = crawledTree(t, name) }).judge(t, func(assertion, bool) {})
			matrix.Note(protocolClient, "all of them, of the twin of a crawled "+name, "", !t.Failed())
		})
	}
}
