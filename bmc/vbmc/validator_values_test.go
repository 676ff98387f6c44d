package vbmc

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
)

// value judges one value: a member of an array, or the property's own.
func (k *validator) value(uri string, body obj, key string, v any, resource string, def *objectDef, p *propertyDef, excerpt *string, at string) *finding {
	if excerpt != nil {
		if p.excerpts == nil || *p.excerpts != "" && !slices.Contains(strings.Split(*p.excerpts, ","), *excerpt) {
			return failf("not in the excerpt %q", *excerpt)
		}
	} else if p.copyOnly {
		return failf("only in excerpts")
	}
	if v == nil {
		if !p.null {
			return failf("null is not allowed")
		}
		return p.passed()
	}
	t := typeDef{base: p.typ, pattern: p.pattern, min: p.min, max: p.max}
	if !strings.HasPrefix(p.typ, "Edm.") {
		if d := k.c.object(resource, p.typ, false); d != nil {
			o, ok := v.(obj)
			if !ok {
				return failf("%v is no object", v)
			}
			if p.navigation {
				if p.excerptCopy != nil {
					excerpt = p.excerptCopy
				} else if !p.expand {
					if f := k.reference(o, p.typ); f != nil {
						return f
					}
					return p.passed()
				}
			}
			k.object(uri, o, resource, p.typ, excerpt, at)
			return p.passed()
		}
		d := k.c.types[p.typ]
		if d == nil {
			return failf("no schema defines %s", p.typ)
		}
		t = *d
	}
	if p.permission == "None" || p.permission == "Write" {
		return failf("is write-only and must be null")
	}
	if f := t.basic(v); f != nil {
		return f
	}
	if f := k.identifiers(uri, body, key, v, def, &t, at); f != nil {
		return f
	}
	if text, ok := v.(string); ok {
		if t.pattern != "" && !matches(t.pattern, text) {
			return failf("%q does not follow %s", text, t.pattern)
		}
		if t.values != nil {
			if f := t.enumerated(text, resource, p.typ); f != nil {
				return f
			}
		}
		if p.permission == "Read" && text == "" {
			return warnf("is an empty string")
		}
	}
	if n, ok := v.(float64); ok {
		if t.min != nil && n < *t.min || t.max != nil && n > *t.max {
			return failf("%v is out of range", n)
		}
	}
	return p.passed()
}

// reference judges a link: one property, and a resource of the right type behind it.
func (k *validator) reference(o obj, typ string) *finding {
	id, ok := o["@odata.id"].(string)
	if !ok {
		return failf("has no @odata.id")
	}
	if strings.HasPrefix(id, "/") && !strings.Contains(id, "#") {
		r := k.get(id)
		is, _ := r.body["@odata.type"].(string)
		if r.StatusCode != 200 || is == "" {
			return failf("%s answers %d, @odata.type %q", id, r.StatusCode, is)
		}
		d := k.c.object(is[1:], is[1:], true)
		if d == nil {
			return failf("no schema defines %s of %s", is, id)
		}
		if !slices.Contains(d.tree, typ) {
			return failf("%s is %s; want %s", id, is, typ)
		}
	}
	if len(o) != 1 {
		return failf("a link holds @odata.id and no more")
	}
	return nil
}

var edmPatterns = map[string]string{
	"Edm.DateTimeOffset": `\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|(\+|-)\d{2}:\d{2})$`,
	"Edm.Duration":       `P(\d+D)?(T(\d+H)?(\d+M)?(\d+(.\d+)?S)?)?$`,
	"Edm.TimeOfDay":      `([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(.[0-9]{1,12})?$`,
	"Edm.Guid":           `[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`,
}

// basic judges the kind of a value.
func (t *typeDef) basic(v any) *finding {
	if t.pattern == "" {
		t.pattern = edmPatterns[t.base]
	}
	_, isText := v.(string)
	_, isBool := v.(bool)
	n, isNum := v.(float64)
	ok := true
	switch t.base {
	case "Edm.String", "Edm.DateTimeOffset", "Edm.Duration", "Edm.TimeOfDay", "Edm.Guid":
		ok = isText
	case "Edm.Boolean":
		ok = isBool
	case "Edm.Int64", "Edm.Int32", "Edm.Int16", "Edm.SByte":
		ok = isNum && n == math.Trunc(n)
	case "Edm.Decimal", "Edm.Double":
		ok = isNum
	case "Edm.PrimitiveType", "Edm.Primitive":
		ok = isText || isBool || isNum
	}
	if !ok {
		return failf("%v is no %s", v, t.base)
	}
	return nil
}

// identifiers judges what hangs together with the URI.
func (k *validator) identifiers(uri string, body obj, key string, v any, def *objectDef, t *typeDef, at string) *finding {
	text, _ := v.(string)
	allowed := func(s string) *regexp.Regexp {
		i := slices.IndexFunc(def.uris, func(re *regexp.Regexp) bool { return re.MatchString(s) })
		if i < 0 {
			return nil
		}
		return def.uris[i]
	}
	switch {
	case at == "/@odata.id" && !k.annotation[text]:
		if def.uris != nil {
			re := allowed(text)
			if re == nil {
				return &finding{strings.Contains(text, "/Oem/"), "the URI is none of those of the schema"}
			}
			if slices.ContainsFunc(def.old, func(o *regexp.Regexp) bool { return o.String() == re.String() }) {
				return warnf("the URI is deprecated")
			}
		}
		if strings.HasSuffix(text, "/") && text != root+"/" {
			return warnf("the URI has a trailing slash")
		}
	case at == "/Id" && !k.annotation[uri]:
		self, _ := body["@odata.id"].(string)
		re := allowed(self)
		if re != nil && strings.HasSuffix(re.String(), "]+/?$") && text != self[strings.LastIndex(strings.TrimSuffix(self, "/"), "/")+1:] {
			return failf("Id %q is not the last part of %s", text, self)
		}
	case key == "@odata.id" && body["MemberId"] != nil:
		if want := uri + "#" + strings.TrimSuffix(at, "/@odata.id"); text != want {
			return failf("%q; want %s", text, want)
		}
	case key == "MemberId":
		parts := strings.Split(at, "/")
		if want := parts[len(parts)-2]; text != want {
			return failf("MemberId %q; want %s", text, want)
		}
	case key == "DurableName":
		if re, ok := durableNames[fmt.Sprint(body["DurableNameFormat"])]; ok {
			t.pattern = re
		}
	}
	return nil
}

var durableNames = map[string]string{
	"NAA": `(([0-9A-Fa-f]{2}){8}){1,2}$`, "FC_WWN": `([0-9A-Fa-f]{2}[:-]){7}([0-9A-Fa-f]{2})$`,
	"UUID": `([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})`, "EUI": `([0-9A-Fa-f]{2}[:-]){7}([0-9A-Fa-f]{2})$`,
	"NGUID": `([0-9A-Fa-f]{2}){16}$`, "MACAddress": `([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$`,
}

// enumerated judges a value of an enumeration by the resource's version.
func (t *typeDef) enumerated(text, resource, typ string) *finding {
	i := slices.IndexFunc(t.values, func(e enumValue) bool { return e.name == text })
	if i < 0 {
		return failf("%q is none of %s", text, typ)
	}
	e := t.values[i]
	_, have := version(resource)
	if strings.Split(resource, ".")[0] == strings.Split(typ, ".")[0] && have != [3]int{} {
		if _, need := version(e.added); older(have, need) {
			return failf("%q came with %s of the schema", text, e.added)
		}
	}
	if e.deprecated != "" {
		return warnf("the value %q was deprecated in %s", text, e.deprecated)
	}
	return nil
}
