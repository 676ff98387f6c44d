package vbmc

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// query holds the query parameters (DSP0266 §7.3). Others that begin with $
// are answered with 501; those without are ignored.
type query struct {
	expand    string // "", "*", "." or "~"
	levels    int
	fields    []string
	filter    condition
	skip, top int // top -1: all
	only      bool
	excerpt   bool
	raw       url.Values
}

// shapes tells whether the answer is other than the resource's representation.
func (q query) shapes() bool {
	return q.expand != "" || q.fields != nil || q.only || q.excerpt || q.pages()
}

// pages tells whether members of a collection are chosen.
func (q query) pages() bool { return q.filter != nil || q.skip > 0 || q.top >= 0 }

// maxLevels bounds $expand.
const maxLevels = 3

// features is what ServiceRoot.ProtocolFeaturesSupported says of all this, as
// far as the given version of ServiceRoot has words for it.
func features(odataType string) obj {
	o := obj{"ExpandQuery": obj{"ExpandAll": true, "NoLinks": true, "Links": true, "Levels": true, "MaxLevels": maxLevels}, "SelectQuery": true, "FilterQuery": true}
	minor := 0
	if _, v, ok := strings.Cut(odataType, ".v1_"); ok {
		v, _, _ = strings.Cut(v, "_")
		minor, _ = strconv.Atoi(v) // what is no number has the fewest words
	}
	if minor >= 4 {
		o["OnlyMemberQuery"], o["ExcerptQuery"] = true, true
	}
	if minor >= 7 {
		o["DeepOperations"] = obj{"DeepPATCH": false, "DeepPOST": false}
	}
	if minor >= 14 {
		o["MultipleHTTPRequests"] = true
	}
	if minor >= 17 {
		o["TopSkipQuery"], o["FilterQueryComparisonOperations"], o["FilterQueryCompoundOperations"] = true, true, true
	}
	return o
}

func parseQuery(raw string) (query, error) {
	q := query{top: -1}
	if raw == "" {
		return q, nil
	}
	vals, err := url.ParseQuery(raw)
	if err != nil {
		return q, msgQueryValue("query", raw)
	}
	q.raw = vals
	for k, v := range vals {
		ok := true
		switch k {
		case "$expand":
			q.expand, q.levels, ok = parseExpand(v[0])
		case "$select":
			q.fields = strings.Split(v[0], ",")
			ok = !slices.Contains(q.fields, "")
		case "$filter":
			q.filter, ok = parseFilter(v[0])
		case "$skip":
			q.skip, ok = parseCount(v[0])
		case "$top":
			q.top, ok = parseCount(v[0])
		case "only":
			q.only, ok = true, v[0] == ""
		case "excerpt":
			q.excerpt, ok = true, v[0] == ""
		default:
			if strings.HasPrefix(k, "$") {
				return q, msgQuery(k)
			}
		}
		if !ok {
			return q, msgQueryValue(k, v[0])
		}
	}
	if q.only && (q.expand != "" || q.pages()) {
		return q, bad("QueryCombinationInvalid")
	}
	return q, nil
}

func parseCount(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

// parseExpand reads "." or "*($levels=2)".
func parseExpand(s string) (op string, levels int, ok bool) {
	op, rest, more := strings.Cut(s, "(")
	if op != "*" && op != "." && op != "~" {
		return "", 0, false
	}
	if !more {
		return op, 1, true
	}
	n, ok := strings.CutPrefix(rest, "$levels=")
	n, closed := strings.CutSuffix(n, ")")
	levels, err := strconv.Atoi(n)
	return op, levels, ok && closed && err == nil && levels >= 1 && levels <= maxLevels
}

// plain is body with nothing in it but what JSON has, so that nested maps and
// slices are alike.
func plain(body obj) (obj, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var out obj
	return out, json.Unmarshal(b, &out)
}

// shape applies the query to a plain body, in the order of DSP0266 §7.3.
func (s *Server) shape(c *call, body obj, q query) (obj, error) {
	members, collected := body["Members"].([]any)
	collected = collected && body["Members@odata.count"] != nil
	if q.only {
		if !collected {
			return nil, msgQueryHere("only")
		}
		if ref := reference(members); len(members) == 1 && ref != "" {
			one, ok := s.fetch(c, ref, q, 0).(obj)
			if ok {
				var err error
				if body, err = plain(one); err != nil {
					return nil, err
				}
			}
		}
	}
	if q.pages() {
		if !collected {
			return nil, msgQueryHere("$filter, $skip or $top")
		}
		s.page(c, body, members, q)
	}
	if q.expand != "" {
		for k, v := range body {
			body[k] = s.expand(c, k, v, q, q.levels)
		}
	}
	if q.excerpt && !excerpted(body) {
		return nil, msgQueryHere("excerpt")
	}
	if q.fields != nil {
		choose(body, chosen(q.fields))
	}
	return body, nil
}

// reference is the URI of the first member.
func reference(members []any) string {
	if len(members) == 0 {
		return ""
	}
	o, _ := members[0].(obj)
	id, _ := o["@odata.id"].(string)
	return id
}

// page chooses members: by $filter, then $skip, then $top. The count stays
// that of all that the filter lets through.
func (s *Server) page(c *call, body obj, members []any, q query) {
	if q.filter != nil {
		members = slices.DeleteFunc(members, func(m any) bool {
			o, _ := m.(obj)
			if id, ok := o["@odata.id"].(string); ok && len(o) == 1 {
				if full, ok := s.fetch(c, id, query{}, 0).(obj); ok {
					if p, err := plain(full); err == nil {
						o = p
					}
				}
			}
			return !q.filter.holds(o)
		})
	}
	all := len(members)
	members = members[min(q.skip, all):]
	if q.top >= 0 && q.top < len(members) {
		members = members[:q.top]
		if q.top > 0 {
			next := url.Values{}
			for k, v := range q.raw {
				next[k] = v
			}
			next.Set("$skip", strconv.Itoa(q.skip+q.top))
			body["Members@odata.nextLink"] = c.path + "?" + next.Encode()
		}
	}
	if members == nil {
		members = []any{}
	}
	body["Members"], body["Members@odata.count"] = members, all
}

// excerpts are the properties of a resource's excerpt, by type (DSP0268).
var excerpts = map[string][]string{
	"Sensor":  {"Reading"},
	"Control": {"ControlMode", "SetPoint", "AllowableMax", "AllowableMin"},
}

// excerpted leaves of a resource, or of the resources in a collection, their
// excerpt; false: there is none.
func excerpted(body obj) bool {
	t, _ := body["@odata.type"].(string)
	keep, ok := excerpts[t[strings.LastIndex(t, ".")+1:]]
	if !ok {
		members, _ := body["Members"].([]any)
		found := false
		for _, m := range members {
			o, _ := m.(obj)
			found = o != nil && excerpted(o) || found
		}
		return found
	}
	for k := range body {
		if !slices.Contains(keep, k) && !strings.HasPrefix(k, "@odata.") {
			delete(body, k)
		}
	}
	return true
}

// selection is what $select names, by property; nil: all of it.
type selection map[string]selection

func chosen(fields []string) selection {
	all := selection{}
	for _, f := range fields {
		at := all
		parts := strings.Split(f, "/")
		for i, p := range parts {
			in, known := at[p]
			switch {
			case i == len(parts)-1 || known && in == nil:
				at[p] = nil // all of it, whatever else is named
			case !known:
				in = selection{}
				at[p] = in
			}
			if at[p] == nil {
				break
			}
			at = at[p]
		}
	}
	return all
}

// choose deletes what is not selected: of objects, and of the objects in arrays.
func choose(o obj, sel selection) {
	if _, all := sel["*"]; all {
		return
	}
	for k, v := range o {
		name, _, _ := strings.Cut(k, "@")
		in, ok := sel[k]
		if !ok && name != "" {
			in, ok = sel[name] // Members@odata.count with Members
		}
		if !ok && !strings.HasPrefix(k, "@odata.") {
			delete(o, k)
		}
		if in == nil {
			continue
		}
		switch v := v.(type) {
		case obj:
			choose(v, in)
		case []any:
			for _, x := range v {
				if x, ok := x.(obj); ok {
					choose(x, in)
				}
			}
		}
	}
}

// expand replaces references in v by the resources that they name. "." leaves
// the Links object alone, "~" expands nothing else, "*" both.
func (s *Server) expand(c *call, key string, v any, q query, levels int) any {
	if strings.HasPrefix(key, "@") {
		return v
	}
	switch t := v.(type) {
	case []any:
		for i := range t {
			t[i] = s.expand(c, key, t[i], q, levels)
		}
	case obj:
		if id, ok := t["@odata.id"].(string); ok && len(t) == 1 {
			if q.expand == "~" && key != "Links" || levels < 1 || strings.Contains(id, "#") {
				return t
			}
			return s.fetch(c, id, q, levels-1)
		}
		if key == "Links" {
			if q.expand == "." {
				return t
			}
			for k := range t {
				t[k] = s.expand(c, "Links", t[k], q, levels)
			}
			return t
		}
		for k := range t {
			t[k] = s.expand(c, k, t[k], q, levels)
		}
	}
	return v
}

// fetch is the resource at id, its own references expanded further; a
// reference when it cannot be read.
func (s *Server) fetch(c *call, id string, q query, levels int) any {
	res, vars := s.find(id)
	if res == nil || res.get == nil {
		return link(id)
	}
	sub := *c
	sub.path, sub.vars = id, vars
	if s.mayRead(&sub, res) != nil {
		return link(id)
	}
	body, err := res.get(&sub)
	if err != nil {
		return link(id)
	}
	body["@odata.etag"] = etag(body)
	if levels < 1 && q.fields == nil { // $select looks into it
		return body
	}
	out, err := plain(body)
	if err != nil {
		return link(id)
	}
	for k, v := range out {
		out[k] = s.expand(c, k, v, q, levels)
	}
	return out
}
