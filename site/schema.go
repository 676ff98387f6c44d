package site

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"

	"gopkg.in/yaml.v3"
)

// Schema is the JSON Schema (draft 2020-12) of site.yaml, made from the
// parser's own table. It knows shapes, not what must agree between things:
// Load checks that.
func Schema() []byte { return schemaOf(format(), true) }

// PartSchema is the schema of the files beside site.yaml, such as
// machines/*.yaml.
func PartSchema() []byte { return schemaOf(format(), false) }

func schemaOf(site *object, main bool) []byte {
	defs := map[string]any{}
	top := define(site, defs)
	delete(defs, "site")
	properties := top["properties"].(map[string]any) // define's own
	name := "fettle site file (site.yaml)"
	if main {
		include := list{of: kindText("file pattern")}.schema()
		include["description"] = "files that belong to the site; machines/*.yaml, networks/*.yaml and profiles/*.yaml do so unasked"
		properties["include"] = include
	} else {
		name = "fettle site file (a part, such as machines/*.yaml)"
		delete(top, "required")
		for _, def := range []string{"policy", "packages", "bundle"} {
			delete(defs, def)
		}
		keep := map[string]any{}
		for _, k := range partKeys() {
			keep[k] = properties[k]
		}
		properties = keep
	}
	// An empty section ("machines:") is a list that is being begun.
	for _, f := range site.fields {
		if p, ok := properties[f.key].(map[string]any); ok && isList(f.kind) {
			p["type"] = []string{"array", "null"}
		}
	}
	top["properties"] = properties
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = name
	top["$defs"] = defs
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(top); err != nil {
		panic(err) // a table of constants
	}
	return b.Bytes()
}

// define adds the definition of an object and of all that it holds.
func define(o *object, defs map[string]any) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range o.fields {
		p := maps.Clone(f.kind.schema())
		p["description"] = f.doc
		if f.def != "" {
			var def any
			if err := yaml.Unmarshal([]byte(f.def), &def); err != nil {
				panic(err) // the table's own text
			}
			p["default"] = def
		}
		properties[f.key] = p
		if f.required {
			required = append(required, f.key)
		}
		k := f.kind
		if l, ok := k.(list); ok {
			k = l.of
			if f.required {
				p["minItems"] = 1
			}
		}
		if inner, ok := k.(*object); ok {
			define(inner, defs)
		}
	}
	schema := map[string]any{"type": "object", "description": o.doc, "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		schema["required"] = required
	}
	defs[strings.ReplaceAll(o.name, " ", "-")] = schema
	return schema
}
