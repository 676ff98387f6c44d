package vbmc

import (
	"archive/tar"
	"encoding/xml"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A reader of the DMTF's published schemas (CSDL, DSP8010), which a crawled
// BMC brings along; validator_test.go checks resources by them.

// node is an element of a CSDL document.
type node struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nodes   []node     `xml:",any"`
	Text    string     `xml:",chardata"`
}

func (n node) attr(name string) string {
	for _, a := range n.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// each calls f for the elements of a kind below n, at any depth.
func (n node) each(kind string, f func(node)) {
	for _, c := range n.Nodes {
		if c.XMLName.Local == kind {
			f(c)
		}
		c.each(kind, f)
	}
}

// propertyDef is a property of a type.
type propertyDef struct {
	typ                               string // Edm.* or a type of a schema
	array, null, required, navigation bool
	expand, copyOnly                  bool
	pattern, permission, deprecated   string
	min, max                          *float64
	excerptCopy, excerpts             *string // nil: no annotation
}

// objectDef is an entity or complex type, with all that it builds on.
type objectDef struct {
	base      string
	tree      []string // the type and those it builds on
	props     map[string]*propertyDef
	dynamic   *propertyDef
	names     string // pattern of dynamic properties
	uris, old []*regexp.Regexp
	methods   []string // nil: nothing is said
}

// enumValue is a value of an enumeration, with the versions that brought and deprecated it.
type enumValue struct{ name, added, deprecated string }

// typeDef is an enumeration or a type definition.
type typeDef struct {
	base, pattern string
	values        []enumValue // nil: no enumeration
	min, max      *float64
}

// actionDef is an action, with the versions that brought and deprecated it.
type actionDef struct{ added, deprecated string }

// csdl is every schema.
type csdl struct {
	objects map[string]*objectDef // by qualified name, as they stand
	types   map[string]*typeDef
	actions map[string]actionDef
	byName  map[string][]string // qualified names by Family.Name
	known   map[string]*objectDef
}

// loadCSDL reads the schemas of the crawled GB200 tray, and adds the few that
// it lacks (schemas_test.go).
func loadCSDL(t *testing.T) *csdl {
	t.Helper()
	c := &csdl{objects: map[string]*objectDef{}, types: map[string]*typeDef{}, actions: map[string]actionDef{}, byName: map[string][]string{}, known: map[string]*objectDef{}}
	crawled(t, "nvidia_gb200", func(name string, r io.Reader) {
		if path.Base(name) != "index.xml" || !strings.Contains(name, "/schema/") {
			return
		}
		var doc node
		if err := xml.NewDecoder(r).Decode(&doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		doc.each("Schema", c.add)
	})
	if len(c.objects) < 500 {
		t.Fatalf("read %d types; want more", len(c.objects))
	}
	for _, s := range otherSchemas {
		s.add(t, c)
	}
	for name := range c.objects {
		f, _ := version(name)
		c.byName[f] = append(c.byName[f], name)
	}
	return c
}

func (c *csdl) add(s node) {
	ns := s.attr("Namespace")
	for _, n := range s.Nodes {
		name := ns + "." + n.attr("Name")
		switch n.XMLName.Local {
		case "EntityType", "ComplexType":
			c.objects[name] = readObject(name, n)
		case "EnumType", "TypeDefinition":
			c.types[name] = readType(n)
		case "Action":
			a, d := revisions(n)
			c.actions[name] = actionDef{a, d}
		}
	}
}

// idText is what may stand for {Id} in a URI, as the DMTF's validator has it.
const idText = "[A-Za-z0-9.!#$&-;=?\\[\\]_~]+"

var uriVariable = regexp.MustCompile(`\{[A-Za-z0-9]+\}`)

func readObject(name string, n node) *objectDef {
	o := &objectDef{base: n.attr("BaseType"), props: map[string]*propertyDef{}}
	odata := map[string]bool{}
	switch name {
	case "Resource.v1_0_0.Resource", "Resource.v1_0_0.ResourceCollection":
		odata = map[string]bool{"@odata.id": true, "@odata.type": true, "@odata.etag": false, "@odata.context": false}
	case "Resource.v1_0_0.ReferenceableMember":
		odata["@odata.id"] = true
	case "Resource.OemObject":
		odata["@odata.type"] = true
	}
	for k, required := range odata {
		o.props[k] = &propertyDef{typ: "Edm.String", required: required, permission: "Read"}
	}
	for _, p := range n.Nodes {
		if k := p.XMLName.Local; k == "Property" || k == "NavigationProperty" {
			o.props[p.attr("Name")] = readProperty(p)
		}
	}
	if o.base == "Resource.v1_0_0.ResourceCollection" && o.props["Members"] != nil {
		zero := 0.0
		o.props["Members@odata.count"] = &propertyDef{typ: "Edm.Int64", required: true, min: &zero}
		o.props["Members@odata.nextLink"] = &propertyDef{typ: "Edm.String"}
	}
	n.each("Annotation", func(a node) {
		switch term := a.attr("Term"); {
		case term == "Redfish.DynamicPropertyPatterns":
			var pattern, typ string
			a.each("PropertyValue", func(v node) {
				switch v.attr("Property") {
				case "Pattern":
					pattern = v.attr("String")
				case "Type":
					typ = v.attr("String")
				}
			})
			if pattern != "" && typ != "" {
				o.names, o.dynamic = pattern, &propertyDef{null: true}
				o.dynamic.typ, o.dynamic.array = collectionType(typ)
			}
		case term == "Redfish.Uris", term == "Redfish.DeprecatedUris":
			a.each("String", func(s node) {
				re := regexp.MustCompile("^" + uriVariable.ReplaceAllLiteralString(s.Text, idText) + "/?$")
				if term == "Redfish.Uris" {
					o.uris = append(o.uris, re)
				} else {
					o.old = append(o.old, re)
				}
			})
		case strings.HasPrefix(term, "Capabilities."):
			if o.methods == nil {
				o.methods = []string{}
			}
			a.each("PropertyValue", func(v node) {
				if v.attr("Bool") == "true" {
					o.methods = append(o.methods, map[string][]string{"Insertable": {"POST"}, "Updatable": {"PATCH", "PUT"}, "Deletable": {"DELETE"}}[v.attr("Property")]...)
				}
			})
		}
	})
	return o
}

func readProperty(n node) *propertyDef {
	p := &propertyDef{null: n.attr("Nullable") != "false", navigation: n.XMLName.Local == "NavigationProperty"}
	p.typ, p.array = collectionType(n.attr("Type"))
	_, p.deprecated = revisions(n)
	text := func(a node) *string { t := a.attr("String"); return &t }
	for _, a := range n.Nodes {
		switch a.attr("Term") {
		case "Redfish.Required":
			p.required = true
		case "OData.AutoExpand":
			p.expand = p.navigation
		case "Validation.Pattern":
			p.pattern = a.attr("String")
		case "Validation.Minimum":
			p.min = number64(a)
		case "Validation.Maximum":
			p.max = number64(a)
		case "OData.Permissions":
			p.permission = path.Base(a.attr("EnumMember"))
		case "Redfish.ExcerptCopy":
			p.excerptCopy = text(a)
		case "Redfish.Excerpt":
			p.excerpts = text(a)
		case "Redfish.ExcerptCopyOnly":
			p.copyOnly, p.excerpts = true, new(string)
		}
	}
	return p
}

func readType(n node) *typeDef {
	t := &typeDef{base: n.attr("UnderlyingType")}
	if n.XMLName.Local == "EnumType" {
		t.base, t.values = "Edm.String", []enumValue{}
	}
	n.each("Member", func(m node) {
		a, d := revisions(m)
		t.values = append(t.values, enumValue{m.attr("Name"), a, d})
	})
	n.each("Annotation", func(a node) {
		switch a.attr("Term") {
		case "Validation.Pattern":
			t.pattern = a.attr("String")
		case "Validation.Minimum":
			t.min = number64(a)
		case "Validation.Maximum":
			t.max = number64(a)
		case "Redfish.Enumeration":
			a.each("Record", func(r node) {
				added, deprecated := revisions(r)
				for _, v := range r.Nodes {
					if v.attr("Property") == "Member" {
						t.values = append(t.values, enumValue{v.attr("String"), added, deprecated})
					}
				}
			})
		}
	})
	return t
}

func number64(a node) *float64 {
	f, err := strconv.ParseFloat(a.attr("Int"), 64)
	if err != nil {
		return nil
	}
	return &f
}

// revisions are the versions that brought and deprecated something.
func revisions(n node) (added, deprecated string) {
	for _, a := range n.Nodes {
		if a.attr("Term") != "Redfish.Revisions" {
			continue
		}
		a.each("Record", func(r node) {
			var kind, v string
			for _, p := range r.Nodes {
				switch p.attr("Property") {
				case "Kind":
					kind = p.attr("EnumMember")
				case "Version":
					v = p.attr("String")
				}
			}
			switch kind {
			case "Redfish.RevisionKind/Added":
				added = v
			case "Redfish.RevisionKind/Deprecated":
				deprecated = v
			}
		})
	}
	return added, deprecated
}

// crawled calls f for every file of a crawled tree.
func crawled(t *testing.T, name string, f func(name string, r io.Reader)) {
	t.Helper()
	file := filepath.Join("..", "..", "..", "shared", "bmc-trees", name+".tar.zst")
	in, err := os.Open(file)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no %s: %v", file, err)
		}
		t.Skipf("no %s beside this checkout", file)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			f(h.Name, r)
		}
	}
}

var versioned = regexp.MustCompile(`\.?v(\d+)_(\d+)_(\d+)`)

// version splits a qualified name into Family.Name and its version; zero: none.
func version(name string) (family string, v [3]int) {
	m := versioned.FindStringSubmatchIndex(name)
	if m == nil {
		return name, v
	}
	for i := range v {
		v[i], _ = strconv.Atoi(name[m[2*i+2]:m[2*i+3]]) // digits, by the expression
	}
	return name[:m[0]] + name[m[1]:], v
}

func older(a, b [3]int) bool { return slices.Compare(a[:], b[:]) < 0 }

func collectionType(t string) (string, bool) {
	if in, ok := strings.CutPrefix(t, "Collection("); ok {
		return strings.TrimSuffix(in, ")"), true
	}
	return t, false
}

// object is the definition of a type: that one when exact, else the newest of
// its name, not newer than the resource where they are of one schema.
func (c *csdl) object(resource, typ string, exact bool) *objectDef {
	name := typ
	if !exact {
		var limit, best [3]int
		if strings.Split(resource, ".")[0] == strings.Split(typ, ".")[0] {
			_, limit = version(resource)
		}
		f, _ := version(typ)
		name = ""
		for _, n := range c.byName[f] {
			_, v := version(n)
			if (limit == [3]int{} || !older(limit, v)) && (name == "" || older(best, v)) {
				name, best = n, v
			}
		}
	}
	if o, ok := c.known[name]; ok {
		return o
	}
	first := c.objects[name]
	if first == nil {
		return nil
	}
	o := &objectDef{props: map[string]*propertyDef{}, uris: first.uris, old: first.old, methods: first.methods, dynamic: first.dynamic, names: first.names}
	for n, d := name, first; d != nil && len(o.tree) < 60; n, d = d.base, c.objects[d.base] {
		o.tree = append(o.tree, n)
		for k, p := range d.props {
			o.props[k] = p
		}
		if d.dynamic != nil {
			o.dynamic, o.names = d.dynamic, d.names
		}
		if o.uris == nil {
			o.uris, o.old = d.uris, d.old
		}
		if o.methods == nil {
			o.methods = d.methods
		}
	}
	c.known[name] = o
	return o
}
