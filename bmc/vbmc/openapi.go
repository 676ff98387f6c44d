package vbmc

import (
	"fmt"
	"slices"
	"strings"
)

const openAPIPath = root + "/openapi.yaml"

// errorSchema is DMTF's schema of an error answer.
const errorSchema = "http://redfish.dmtf.org/schemas/v1/redfish-error.v1_0_2.yaml#/components/schemas/RedfishError"

// openAPI is the OpenAPI document (DSP0266 §8.5): which URIs there are, and
// what can be done with them. What a resource holds, its @odata.type says.
func (s *Server) openAPI() string {
	var b strings.Builder
	fmt.Fprintf(&b, "openapi: 3.0.1\ninfo:\n  title: fettle virtual BMC\n  description: Redfish service of a virtual BMC\n  version: %q\n", strings.TrimSuffix(ownRegistry[len(ownPrefix)+1:], "."))
	b.WriteString("components:\n  securitySchemes:\n    basicAuth: {type: http, scheme: basic}\n    redfishAuth: {type: apiKey, in: header, name: X-Auth-Token}\n")
	b.WriteString("security:\n- basicAuth: []\n- redfishAuth: []\npaths:\n")
	rs := slices.Clone(s.table())
	slices.SortStableFunc(rs, func(a, b *resource) int { return strings.Compare(a.pattern, b.pattern) })
	for i, r := range rs {
		if i > 0 && rs[i-1].pattern == r.pattern {
			continue
		}
		uri := r.pattern
		if s.nodes != nil { // all have the same resources
			uri = (&nodeServer{id: "{node}"}).outer(uri)
		}
		fmt.Fprintf(&b, "  %q:\n", uri)
		var params []string
		for _, part := range strings.Split(uri, "/") {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				params = append(params, strings.TrimSuffix(name, "}"))
			}
		}
		if len(params) > 0 {
			b.WriteString("    parameters:\n")
			for _, p := range params {
				fmt.Fprintf(&b, "    - {name: %s, in: path, required: true, schema: {type: string}}\n", p)
			}
		}
		for _, m := range strings.Split(r.allow(), ", ") {
			fmt.Fprintf(&b, "    %s:\n", strings.ToLower(m))
			if r.open && (m == "GET" || m == "HEAD") || r.openPut && m == "POST" {
				b.WriteString("      security: []\n")
			}
			if (m == "PATCH" || m == "POST") && !r.stream {
				b.WriteString("      requestBody: {content: {application/json: {schema: {type: object}}}}\n")
			}
			b.WriteString("      responses:\n        \"2XX\": {description: It was done.}\n")
			fmt.Fprintf(&b, "        default: {description: It was not, content: {application/json: {schema: {$ref: %q}}}}\n", errorSchema)
		}
	}
	return b.String()
}
