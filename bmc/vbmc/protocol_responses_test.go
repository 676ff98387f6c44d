package vbmc

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

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
