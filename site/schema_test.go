package site

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write the files that are made from the table: SITE.md, examples/schema")

func compileSchema(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("schema is not JSON: %v", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatalf("schema does not compile: %v", err)
	}
	return s
}

// instance is YAML text as an editor's validator sees it.
func instance(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSchemaAcceptsWhatLoads(t *testing.T) {
	main, part := compileSchema(t, Schema()), compileSchema(t, PartSchema())
	if err := main.Validate(instance(t, []byte(base))); err != nil {
		t.Errorf("the schema refuses the base site: %v", err)
	}
	seen := 0
	for _, root := range []string{"../examples", "starter"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			seen++
			schema, name := part, "part.json"
			if d.Name() == mainFile {
				schema, name = main, "site.json"
			}
			if err := schema.Validate(instance(t, text)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			// Editors are told of the right schema, where it is.
			first, _, _ := strings.Cut(string(text), "\n")
			ref, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
			if !ok || filepath.Base(ref) != name {
				t.Errorf("%s begins %q; want the comment that names %s", path, first, name)
			} else if _, err := os.Stat(filepath.Join(filepath.Dir(path), ref)); err != nil && root != "starter" {
				t.Errorf("%s names a schema that is not there: %v", path, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 10 {
		t.Errorf("found %d YAML files; want at least 10", seen)
	}
}

// One mistake of each shape: the schema refuses it, and so does Load.
func TestSchemaRefusesWhatDoesNotLoad(t *testing.T) {
	schema := compileSchema(t, Schema())
	tests := []struct{ name, old, new string }{
		{"unknown key", "    serial: S2", "    serial: S2\n    colour: red"},
		{"unknown top key", "racks:", "rakcs:"},
		{"required key", "    serial: S2\n", ""},
		{"required name", "name: base\n", ""},
		{"empty required list", "nics:\n      - {mac: \"02:00:00:00:00:02\", network: prov, boot: true}\n      - {mac: \"02:00:00:00:00:03\"}", "nics: []"},
		{"number wanted", "unit: 3", "unit: three"},
		{"list wanted", "disks:\n      - {serial: D2}", "disks: D2"},
		{"mapping wanted", "- {serial: D2}", "- D2"},
		{"enumeration", "firmware: uefi", "firmware: openboot"},
		{"range", "vlan: 20", "vlan: 4095"},
		{"name", "name: m2", "name: M_2"},
		{"long name", "name: m2", "name: m" + strings.Repeat("2", 63)},
		{"MAC", `"02:00:00:00:00:03"`, `"02:00:00:00:00"`},
		{"address", "10.0.0.11", "10.0.0"},
		{"prefix", "10.0.0.0/24", "10.0.0.0/31"},
		{"truth", "prov, boot: true}\n      - {mac", "prov, boot: 1}\n      - {mac"},
		{"size", "size: 1TB", "size: 1 lot"},
		{"lease", "    vlan: 20", "    vlan: 20\n    lease: soon"},
		{"ssh key", "{name: ops}", "{name: ops, ssh-keys: [hello]}"},
		{"package", "    users:", "    packages: [No Such]\n    users:"},
		{"kernel argument", "    users:", "    kernel-args: ['a b']\n    users:"},
		{"empty word", "    profile: p1\nprofiles", "    profile: p1\n    owner: ''\nprofiles"},
		{"number for text", "- {name: pw}", "- {name: pw, description: 12}"},
		{"settings", "    users:", "    bios: [a]\n    users:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(base, tt.old) != 1 {
				t.Fatalf("base holds %q %d times; want once", tt.old, strings.Count(base, tt.old))
			}
			text := strings.Replace(base, tt.old, tt.new, 1)
			if err := schema.Validate(instance(t, []byte(text))); err == nil {
				t.Error("the schema accepts it; want it refused")
			}
			if _, err := loadText(text); err == nil {
				t.Error("Load accepts it; want it refused")
			}
		})
	}
	part := compileSchema(t, PartSchema())
	if err := part.Validate(instance(t, []byte("policy: {}\n"))); err == nil {
		t.Error("the schema of a part accepts policy; want it refused")
	}
}

// made compares a file that is made from the table with what it should be.
func made(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the table says (%v); run: go test ./site -update", path, err)
	}
}

func TestExampleSchemas(t *testing.T) {
	made(t, "../examples/schema/site.json", Schema())
	made(t, "../examples/schema/part.json", PartSchema())
}

// TestReference checks the tables of SITE.md, between its two marks.
func TestReference(t *testing.T) {
	const path, begin, end = "SITE.md", "<!-- made from table.go: go test ./site -update -->\n", "<!-- end -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks its marks %q and %q", path, begin, end)
	}
	var b strings.Builder
	seen := map[string]bool{}
	var describe func(o *object)
	describe = func(o *object) {
		if seen[o.name] {
			return
		}
		seen[o.name] = true
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| key | value | | |\n|---|---|---|---|\n", o.name, o.doc)
		var inner []*object
		for _, f := range o.fields {
			note := ""
			switch {
			case f.required:
				note = "required"
			case f.def != "":
				note = "default `" + f.def + "`"
			case f.derived != "":
				note = "unsaid: " + f.derived
			}
			value := f.kind.label()
			switch k := f.kind.(type) {
			case *scalar:
				if k.values != nil {
					value = "`" + strings.Join(k.values, "`, `") + "`"
				}
			case list:
				if x, ok := k.of.(*object); ok {
					inner = append(inner, x)
				}
			case *object:
				inner = append(inner, k)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.key, value, note, f.doc)
		}
		for _, x := range inner {
			describe(x)
		}
	}
	describe(tables())
	made(t, path, []byte(before+begin+b.String()+"\n"+end+after))
}
