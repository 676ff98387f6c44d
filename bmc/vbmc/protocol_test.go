package vbmc

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
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

var responseAssertions = []assertion{
	{name: "RESP_HEADERS_ACCESS_CONTROL_ALLOW_ORIGIN", na: "the validator does not test it; no cross-origin access is given"},
	{name: "RESP_HEADERS_ALLOW_METHOD_NOT_ALLOWED", asks: "405 names the methods that are allowed", check: func(j *protocolJudge) []string {
		return every(where(j.answers, func(a answer) bool { return a.status == 405 }), hasHeader("Allow"))
	}},
	{name: "RESP_HEADERS_ALLOW_GET_OR_HEAD", asks: "GET and HEAD name them too", check: func(j *protocolJudge) []string {
		return every(where(j.of(normal, ""), func(a answer) bool { return a.uri == root+"/" }), hasHeader("Allow"))
	}},
	{name: "RESP_HEADERS_CACHE_CONTROL", asks: "Cache-Control is there", check: func(j *protocolJudge) []string { return j.withURI(root+"/", hasHeader("Cache-Control")) }},
	{name: "RESP_HEADERS_CONTENT_TYPE", asks: "JSON, XML, YAML and event streams say what they are", check: func(j *protocolJudge) []string {
		is := func(want string) func(answer) string {
			return func(a answer) string {
				if mediaType(a) != want {
					return mediaType(a)
				}
				return ""
			}
		}
		return append(append(j.withURI(root+"/", is("application/json")), j.withURI(root+"/$metadata", is("application/xml"))...),
			every(j.of(openapi, "GET"), func(a answer) string {
				if a.status == 404 { // then there is nothing to say of it
					return ""
				}
				return is("application/yaml")(a)
			})...)
	}},
	{name: "RESP_HEADERS_ETAG", asks: "an account's GET has an ETag", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account }), hasHeader("ETag"))
	}},
	{name: "RESP_HEADERS_LINK_REL_DESCRIBED_BY", asks: "GET and HEAD link to the schema", check: func(j *protocolJudge) []string {
		uris := []string{root + "/", j.sessions, j.netProto, j.systems, j.accounts, j.accountService, j.privileges}
		return every(where(j.of(normal, ""), func(a answer) bool { return (a.method == "GET" || a.method == "HEAD") && slices.Contains(uris, a.uri) }), func(a answer) string {
			if l := a.header.Get("Link"); !strings.HasPrefix(l, "<http") || !strings.Contains(l, "rel=describedby") {
				return "Link is " + l
			}
			return ""
		})
	}},
	{name: "RESP_HEADERS_LINK_SCHEMA_VER_MATCH", asks: "of the version that @odata.type says", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.header.Get("Link") != "" }), func(a answer) string {
			typ := strings.TrimPrefix(fmt.Sprint(a.body["@odata.type"]), "#")
			if want := "/" + typ[:strings.LastIndex(typ, ".")] + ".json>"; !strings.Contains(a.header.Get("Link"), want) {
				return a.header.Get("Link") + " for " + typ
			}
			return ""
		})
	}},
	{name: "RESP_HEADERS_LOCATION", asks: "what was created says where, and a session its token", check: func(j *protocolJudge) []string {
		return every(where(j.of(normal, "POST"), func(a answer) bool { return a.status == 201 }), func(a answer) string {
			if a.header.Get("Location") == "" || a.uri == j.sessions && a.header.Get("X-Auth-Token") == "" {
				return "no Location, or no token"
			}
			return ""
		})
	}},
	{name: "RESP_HEADERS_ODATA_VERSION", asks: "OData-Version is 4.0", check: func(j *protocolJudge) []string {
		return every(j.answers, func(a answer) string {
			if a.header.Get("OData-Version") != "4.0" {
				return "OData-Version " + a.header.Get("OData-Version")
			}
			return ""
		})
	}},
	{name: "RESP_HEADERS_WWW_AUTHENTICATE", asks: "401 says how to authenticate", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, ""), func(a answer) bool { return a.status == 401 }), hasHeader("WWW-Authenticate"))
	}},
	{name: "RESP_HEADERS_X_AUTH_TOKEN", asks: "the token cannot be told from random: hexadecimal, as many ones as zeros, as many runs as chance makes", check: func(j *protocolJudge) []string {
		token := j.last(noAuth, "POST", j.sessions).header.Get("X-Auth-Token")
		var bits []int
		for _, r := range token {
			n, err := strconv.ParseUint(string(r), 16, 8)
			if err != nil {
				return wrongf("the token is not hexadecimal")
			}
			for b := 3; b >= 0; b-- {
				bits = append(bits, int(n>>b)&1)
			}
		}
		ones, runs := 0, 1
		for i, b := range bits {
			ones += b
			if i > 0 && b != bits[i-1] {
				runs++
			}
		}
		n := float64(len(bits))
		// The validator's NIST tests fail one token of a hundred by chance; a
		// millionth is what is judged here.
		if p := math.Erfc(math.Abs(2*float64(ones)-n) / math.Sqrt(2*n)); len(bits) < 128 || p < 1e-6 {
			return wrongf("%d bits, %d ones", len(bits), ones)
		}
		pi := float64(ones) / n
		if p := math.Erfc(math.Abs(float64(runs)-2*n*pi*(1-pi)) / (2 * math.Sqrt(2*n) * pi * (1 - pi))); p < 1e-6 {
			return wrongf("%d runs of %d bits", runs, len(bits))
		}
		return nil
	}},
	{name: "RESP_STATUS_BAD_REQUEST", asks: "400 comes with an extended error", check: func(j *protocolJudge) []string {
		return every(where(j.answers, func(a answer) bool { return a.status == 400 }), errorBody)
	}},
	{name: "RESP_STATUS_INTERNAL_SERVER_ERROR", asks: "so does 500", check: func(j *protocolJudge) []string {
		j.s.mem.SetFault(Fault{Err: errors.New("the chassis is broken")})
		defer j.s.mem.SetFault(Fault{})
		a := j.do(normal, "GET", members(j.last(normal, "GET", j.systems).body)[0], j.token, "")
		return every([]answer{a}, func(a answer) string { return isStatus(500)(a) + errorBody(a) })
	}},
	{name: "RESP_ODATA_METADATA_MIME_TYPE", asks: "the metadata document is application/xml", check: func(j *protocolJudge) []string {
		return j.withURI(root+"/$metadata", func(a answer) string {
			if t := strings.ToLower(a.header.Get("Content-Type")); t != "application/xml" && t != "application/xml;charset=utf-8" {
				return t
			}
			return ""
		})
	}},
	{name: "RESP_ODATA_METADATA_ENTITY_CONTAINER", asks: "it has an EntityContainer, and the alias Redfish", check: func(j *protocolJudge) []string {
		return j.withURI(root+"/$metadata", func(a answer) string {
			var doc node
			found, alias := false, false
			if err := xml.Unmarshal([]byte(a.text), &doc); err != nil {
				return err.Error()
			}
			doc.each("EntityContainer", func(node) { found = true })
			doc.each("Include", func(n node) {
				alias = alias || n.attr("Alias") == "Redfish" && n.attr("Namespace") == "RedfishExtensions.v1_0_0"
			})
			if !found || !alias {
				return fmt.Sprintf("EntityContainer %v, alias %v", found, alias)
			}
			return ""
		})
	}},
	{name: "RESP_ODATA_SERVICE_MIME_TYPE", asks: "the service document is JSON", check: func(j *protocolJudge) []string { return j.withURI(root+"/odata", isJSON) }},
	{name: "RESP_ODATA_SERVICE_CONTEXT", asks: "its context is the metadata document", check: func(j *protocolJudge) []string {
		return j.withURI(root+"/odata", func(a answer) string {
			if a.body["@odata.context"] != root+"/$metadata" {
				return a.text
			}
			return ""
		})
	}},
	{name: "RESP_ODATA_SERVICE_VALUE_PROP", asks: "it lists the service root and what is right below it", check: func(j *protocolJudge) []string {
		return j.withURI(root+"/odata", func(a answer) string {
			l, _ := a.body["value"].([]any)
			b, _ := json.Marshal(l) // of JSON
			for _, prop := range []string{"Systems", "Chassis", "Managers", "SessionService", "AccountService", "EventService"} {
				if uri := ref(j.root, prop); uri != "" && !strings.Contains(string(b), `"`+uri+`"`) {
					return prop + " is missing"
				}
			}
			return ""
		})
	}},
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
	kinds := map[string]func(*Config){"generic": func(c *Config) { c.Identity = testIdentity(t) }}
	for _, name := range Personalities() {
		kinds[name] = func(c *Config) { c.Tree = personality(t, name) }
	}
	for what, mod := range kinds {
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
