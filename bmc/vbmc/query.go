package vbmc

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
)

// query holds the query parameters that are honoured (DSP0266 §7.3): $expand
// and $select. Others that begin with $ are answered with 501; those without
// are ignored.
type query struct {
	expand string // "", "*", "." or "~"
	levels int
	fields []string
}

func (q query) shapes() bool { return q.expand != "" || q.fields != nil }

// maxLevels bounds $expand.
const maxLevels = 3

func parseQuery(raw string) (query, error) {
	var q query
	if raw == "" {
		return q, nil
	}
	vals, err := url.ParseQuery(raw)
	if err != nil {
		return q, msgQueryValue("query", raw)
	}
	for k, v := range vals {
		switch k {
		case "$expand":
			op, rest, _ := strings.Cut(v[0], "(")
			if op != "*" && op != "." && op != "~" {
				return q, msgQueryValue(k, v[0])
			}
			q.expand, q.levels = op, 1
			if rest != "" {
				n, ok := strings.CutPrefix(strings.TrimSuffix(rest, ")"), "$levels=")
				l, err := strconv.Atoi(n)
				if !ok || err != nil || l < 1 || l > maxLevels {
					return q, msgQueryValue(k, v[0])
				}
				q.levels = l
			}
		case "$select":
			q.fields = strings.Split(v[0], ",")
			for _, f := range q.fields {
				if f == "" {
					return q, msgQueryValue(k, v[0])
				}
			}
		default:
			if strings.HasPrefix(k, "$") {
				return q, msgQuery(k)
			}
		}
	}
	return q, nil
}

// shape applies $expand and $select to body.
func (s *Server) shape(c *call, body obj, q query) error {
	if q.expand != "" {
		// Plain trees only, so that links in nested maps and slices are alike.
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		var plain obj
		if err := json.Unmarshal(b, &plain); err != nil {
			return err
		}
		for k := range body {
			delete(body, k)
		}
		for k, v := range plain {
			body[k] = s.expand(c, k, v, q, q.levels)
		}
	}
	if q.fields == nil {
		return nil
	}
	keep := map[string]bool{}
	for _, f := range q.fields {
		f, _, _ = strings.Cut(f, "/")
		keep[f] = true
	}
	for k := range body {
		if !keep[k] && !strings.HasPrefix(k, "@odata.") {
			delete(body, k)
		}
	}
	return nil
}

// expand replaces references in v by the resources that they name. "." leaves
// the Links object alone, "~" expands nothing else, "*" both.
func (s *Server) expand(c *call, key string, v any, q query, levels int) any {
	switch t := v.(type) {
	case []any:
		for i := range t {
			t[i] = s.expand(c, key, t[i], q, levels)
		}
	case obj:
		if id, ok := t["@odata.id"].(string); ok && len(t) == 1 {
			if q.expand == "~" && key != "Links" || levels < 1 {
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
	body, err := res.get(&sub)
	if err != nil {
		return link(id)
	}
	body["@odata.etag"] = etag(body)
	if levels < 1 {
		return body
	}
	b, err := json.Marshal(body)
	if err != nil {
		return link(id)
	}
	var plain obj
	if err := json.Unmarshal(b, &plain); err != nil {
		return link(id)
	}
	for k, v := range plain {
		plain[k] = s.expand(c, k, v, q, levels)
	}
	return plain
}
