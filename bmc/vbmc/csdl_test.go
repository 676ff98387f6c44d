package vbmc

import (
	"archive/tar"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
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
// BMC brings along, and a check of resources by them: what the DMTF's service
// validator does.

type csdlAnnotation struct {
	Term string `xml:"Term,attr"`
	Bool string `xml:"Bool,attr"`
}

type csdlProperty struct {
	Name        string           `xml:"Name,attr"`
	Type        string           `xml:"Type,attr"`
	Nullable    string           `xml:"Nullable,attr"`
	Annotations []csdlAnnotation `xml:"Annotation"`
}

func (p csdlProperty) has(term string) bool {
	return slices.ContainsFunc(p.Annotations, func(a csdlAnnotation) bool { return a.Term == term && a.Bool != "false" })
}

type csdlType struct {
	Name        string           `xml:"Name,attr"`
	BaseType    string           `xml:"BaseType,attr"`
	Properties  []csdlProperty   `xml:"Property"`
	Navigations []csdlProperty   `xml:"NavigationProperty"`
	Annotations []csdlAnnotation `xml:"Annotation"`
}

type csdlSchema struct {
	Namespace string     `xml:"Namespace,attr"`
	Entities  []csdlType `xml:"EntityType"`
	Complexes []csdlType `xml:"ComplexType"`
	Enums     []struct {
		Name    string `xml:"Name,attr"`
		Members []struct {
			Name string `xml:"Name,attr"`
		} `xml:"Member"`
	} `xml:"EnumType"`
	Definitions []struct {
		Name string `xml:"Name,attr"`
		Base string `xml:"UnderlyingType,attr"`
	} `xml:"TypeDefinition"`
	Actions []struct {
		Name string `xml:"Name,attr"`
	} `xml:"Action"`
}

// csdl is every schema, by namespace and by family.
type csdl struct {
	all      map[string]*csdlSchema
	families map[string][]versionedSchema // oldest first
	known    map[string]fieldSet          // by type
}

type versionedSchema struct {
	v [3]int
	*csdlSchema
}

type fieldSet struct {
	props, navs map[string]csdlProperty
	free        bool
}

// loadCSDL reads the schemas of the crawled GB200 tray.
func loadCSDL(t *testing.T) *csdl {
	t.Helper()
	out := &csdl{all: map[string]*csdlSchema{}, families: map[string][]versionedSchema{}, known: map[string]fieldSet{}}
	crawled(t, "nvidia_gb200", func(name string, r io.Reader) {
		if path.Base(name) != "index.xml" || !strings.Contains(name, "/schema/") {
			return
		}
		var doc struct {
			Schemas []*csdlSchema `xml:"DataServices>Schema"`
		}
		if err := xml.NewDecoder(r).Decode(&doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, s := range doc.Schemas {
			out.all[s.Namespace] = s
		}
	})
	if len(out.all) < 500 {
		t.Fatalf("read %d schemas; want more", len(out.all))
	}
	for ns, s := range out.all {
		f, v := version(ns)
		out.families[f] = append(out.families[f], versionedSchema{v, s})
	}
	for _, l := range out.families {
		slices.SortFunc(l, func(a, b versionedSchema) int { return slices.Compare(a.v[:], b.v[:]) })
	}
	return out
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

var versioned = regexp.MustCompile(`^(.*)\.v(\d+)_(\d+)_(\d+)$`)

// version splits a namespace into its family and its version.
func version(ns string) (family string, v [3]int) {
	m := versioned.FindStringSubmatch(ns)
	if m == nil {
		return ns, v
	}
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+2]) // digits, by the expression
	}
	return m[1], v
}

func older(a, b [3]int) bool { return slices.Compare(a[:], b[:]) < 0 }

// best is the newest namespace of a family, not newer than limit where the
// families are one, that has what has tells.
func (c *csdl) best(family string, limit [3]int, has func(*csdlSchema) bool) *csdlSchema {
	for _, s := range slices.Backward(c.families[family]) {
		if (limit == [3]int{} || !older(limit, s.v)) && has(s.csdlSchema) {
			return s.csdlSchema
		}
	}
	return nil
}

func (s *csdlSchema) typ(name string) *csdlType {
	for _, list := range [][]csdlType{s.Entities, s.Complexes} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// fields are the properties of a type and of those it builds on.
func (c *csdl) fields(ns, name string) (props, navs map[string]csdlProperty, free bool) {
	key := ns + " " + name
	if f, ok := c.known[key]; ok {
		return f.props, f.navs, f.free
	}
	f := fieldSet{props: map[string]csdlProperty{}, navs: map[string]csdlProperty{}}
	for range 60 {
		s := c.all[ns]
		if s == nil || s.typ(name) == nil {
			f.free = true
			break
		}
		t := s.typ(name)
		for _, p := range t.Properties {
			if _, ok := f.props[p.Name]; !ok {
				f.props[p.Name] = p
			}
		}
		for _, p := range t.Navigations {
			if _, ok := f.navs[p.Name]; !ok {
				f.navs[p.Name] = p
			}
		}
		for _, a := range t.Annotations {
			if a.Term == "OData.AdditionalProperties" && a.Bool != "false" || a.Term == "Redfish.DynamicPropertyPatterns" {
				f.free = true
			}
		}
		if t.BaseType == "" {
			break
		}
		i := strings.LastIndex(t.BaseType, ".")
		ns, name = t.BaseType[:i], t.BaseType[i+1:]
	}
	c.known[key] = f
	return f.props, f.navs, f.free
}

// checker collects what is wrong with resources.
type checker struct {
	c       *csdl
	skipped map[string]bool // types without a schema
	wrong   []string
}

func (k *checker) errorf(format string, args ...any) {
	k.wrong = append(k.wrong, fmt.Sprintf(format, args...))
}

// resource checks a body by its @odata.type.
func (k *checker) resource(where string, body obj) {
	typ := strings.TrimPrefix(fmt.Sprint(body["@odata.type"]), "#")
	i := strings.LastIndex(typ, ".")
	if i < 0 {
		k.errorf("%s: @odata.type %q", where, typ)
		return
	}
	ns, name := typ[:i], typ[i+1:]
	family, v := version(ns)
	if k.c.all[ns] == nil {
		if len(k.c.families[family]) == 0 {
			k.skipped[family] = true
			return
		}
		k.errorf("%s: the schema %s has no version %s", where, family, ns)
		return
	}
	k.object(where, body, ns, name, family, v)
}

// object checks a body by a type; family and limit are the resource's.
func (k *checker) object(where string, body obj, ns, name, family string, limit [3]int) {
	props, navs, free := k.c.fields(ns, name)
	for _, p := range slices.Sorted(maps.Keys(props)) {
		if _, ok := body[p]; !ok && props[p].has("Redfish.Required") {
			k.errorf("%s: %s must be there (%s.%s)", where, p, ns, name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(body)) {
		v := body[key]
		at := where + " " + key
		if name, kind, ok := strings.Cut(key, "@"); ok {
			switch {
			case name == "" && slices.Contains([]string{"odata.id", "odata.type", "odata.etag", "odata.context", "Redfish.Settings", "Redfish.ActionInfo",
				"Redfish.OperationApplyTimeSupport", "Redfish.SettingsApplyTime", "Message.ExtendedInfo"}, kind):
			case name != "" && slices.Contains([]string{"odata.count", "odata.nextLink", "Redfish.AllowableValues"}, kind):
			default:
				k.errorf("%s: unknown annotation", at)
			}
			continue
		}
		if p, ok := props[key]; ok {
			k.value(at, v, p, family, limit)
			continue
		}
		if p, ok := navs[key]; ok {
			k.navigation(at, v, p, family, limit)
			continue
		}
		if name == "Actions" && strings.HasPrefix(key, "#") {
			k.action(at, key, v)
			continue
		}
		if key == "Members" && strings.HasSuffix(family, "Collection") {
			continue
		}
		if !free {
			k.errorf("%s: not a property of %s.%s", at, ns, name)
		}
	}
}

func (k *checker) action(at, key string, v any) {
	fam, name, _ := strings.Cut(strings.TrimPrefix(key, "#"), ".")
	if len(k.c.families[fam]) == 0 {
		k.skipped[fam] = true
		return
	}
	found := k.c.best(fam, [3]int{}, func(s *csdlSchema) bool {
		return slices.ContainsFunc(s.Actions, func(a struct {
			Name string `xml:"Name,attr"`
		}) bool {
			return a.Name == name
		})
	}) != nil
	if o, ok := v.(obj); !found || !ok || o["target"] == nil {
		k.errorf("%s: no such action, or it has no target", at)
	}
}

// navigation checks a link, links, or resources within the resource.
func (k *checker) navigation(at string, v any, p csdlProperty, family string, limit [3]int) {
	typ, many := collectionType(p.Type)
	if many {
		l, ok := v.([]any)
		if !ok {
			k.errorf("%s: %v is no array", at, v)
			return
		}
		for i, x := range l {
			k.linked(fmt.Sprintf("%s[%d]", at, i), x, typ, p, family, limit)
		}
		return
	}
	k.linked(at, v, typ, p, family, limit)
}

func (k *checker) linked(at string, v any, typ string, p csdlProperty, family string, limit [3]int) {
	o, ok := v.(obj)
	if !ok {
		k.errorf("%s: %v is no link", at, v)
		return
	}
	if p.has("Redfish.ExcerptCopy") { // a few properties of another resource
		i := strings.LastIndex(typ, ".")
		s := k.c.best(typ[:i], [3]int{}, func(s *csdlSchema) bool { return s.typ(typ[i+1:]) != nil })
		if s == nil {
			k.skipped[typ] = true
			return
		}
		props, _, _ := k.c.fields(s.Namespace, typ[i+1:])
		for key := range o {
			if e, ok := props[key]; !ok || !e.has("Redfish.Excerpt") && !e.has("Redfish.ExcerptCopyOnly") {
				k.errorf("%s %s: not in an excerpt of %s", at, key, typ)
			}
		}
		return
	}
	if _, ok := o["@odata.id"].(string); !ok {
		k.errorf("%s: has no @odata.id", at)
		return
	}
	if len(o) > 1 {
		k.complex(at, o, typ, family, limit)
	}
}

// complex checks an object by the newest version of its type.
func (k *checker) complex(at string, o obj, typ, family string, limit [3]int) {
	i := strings.LastIndex(typ, ".")
	ns, name := typ[:i], typ[i+1:]
	f, _ := version(ns)
	if f != family {
		limit = [3]int{}
	}
	s := k.c.best(f, limit, func(s *csdlSchema) bool { return s.typ(name) != nil })
	if s == nil {
		k.skipped[typ] = true
		return
	}
	k.object(at, o, s.Namespace, name, family, limit)
}

func collectionType(t string) (string, bool) {
	if in, ok := strings.CutPrefix(t, "Collection("); ok {
		return strings.TrimSuffix(in, ")"), true
	}
	return t, false
}

func (k *checker) value(at string, v any, p csdlProperty, family string, limit [3]int) {
	typ, many := collectionType(p.Type)
	if many {
		l, ok := v.([]any)
		if !ok {
			k.errorf("%s: %v is no array", at, v)
			return
		}
		for i, x := range l {
			k.single(fmt.Sprintf("%s[%d]", at, i), x, typ, p, family, limit)
		}
		return
	}
	k.single(at, v, typ, p, family, limit)
}

var (
	guidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	dateText = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)
	spanText = regexp.MustCompile(`^-?P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?$`)
)

func (k *checker) single(at string, v any, typ string, p csdlProperty, family string, limit [3]int) {
	if v == nil {
		if p.Nullable == "false" {
			k.errorf("%s: null is not allowed", at)
		}
		return
	}
	text, isText := v.(string)
	num, isNum := v.(float64)
	ok := true
	switch typ {
	case "Edm.String":
		ok = isText
	case "Edm.Boolean":
		_, ok = v.(bool)
	case "Edm.Int64", "Edm.Int32", "Edm.Int16":
		ok = isNum && num == float64(int64(num))
	case "Edm.Decimal", "Edm.Double":
		ok = isNum
	case "Edm.Guid":
		ok = isText && guidText.MatchString(text)
	case "Edm.DateTimeOffset":
		ok = isText && dateText.MatchString(text)
	case "Edm.Duration":
		ok = isText && spanText.MatchString(text)
	case "Edm.PrimitiveType":
		_, isObj := v.(obj)
		ok = !isObj
	default:
		k.named(at, v, typ, family, limit)
	}
	if !ok {
		k.errorf("%s: %v is no %s", at, v, typ)
	}
}

// named checks a value of a type that a schema defines.
func (k *checker) named(at string, v any, typ, family string, limit [3]int) {
	i := strings.LastIndex(typ, ".")
	ns, name := typ[:i], typ[i+1:]
	f, _ := version(ns)
	lim := limit
	if f != family {
		lim = [3]int{}
	}
	enum := func(s *csdlSchema) []string {
		for _, e := range s.Enums {
			if e.Name == name {
				var out []string
				for _, m := range e.Members {
					out = append(out, m.Name)
				}
				return out
			}
		}
		return nil
	}
	if s := k.c.best(f, lim, func(s *csdlSchema) bool { return enum(s) != nil }); s != nil {
		if t, ok := v.(string); !ok || !slices.Contains(enum(s), t) {
			k.errorf("%s: %v is none of %s", at, v, typ)
		}
		return
	}
	def := func(s *csdlSchema) string {
		for _, d := range s.Definitions {
			if d.Name == name {
				return d.Base
			}
		}
		return ""
	}
	if s := k.c.best(f, lim, func(s *csdlSchema) bool { return def(s) != "" }); s != nil {
		k.single(at, v, def(s), csdlProperty{}, family, limit)
		return
	}
	o, ok := v.(obj)
	if !ok {
		k.errorf("%s: %v is no %s", at, v, typ)
		return
	}
	k.complex(at, o, typ, family, limit)
}

// walk visits every resource that the service root leads to.
func (s service) walk(visit func(path string, r response)) int {
	s.t.Helper()
	seen := map[string]bool{}
	todo := []string{root + "/"}
	var follow func(v any)
	follow = func(v any) {
		switch x := v.(type) {
		case obj:
			for k, y := range x {
				id, ok := y.(string)
				id, _, _ = strings.Cut(id, "#") // a part of a resource (DSP0266 §6.5)
				if ok && (k == "@odata.id" || k == "@Redfish.ActionInfo") && !seen[id] {
					seen[id] = true
					todo = append(todo, id)
				}
				follow(y)
			}
		case []any:
			for _, y := range x {
				follow(y)
			}
		}
	}
	n := 0
	for ; len(todo) > 0 && n < 5000; n++ {
		p := todo[0]
		todo = todo[1:]
		r := s.do("GET", p, admin, "")
		visit(p, r)
		follow(r.body)
	}
	return n
}

// TestSchemas: every resource is what the DMTF's schemas say of its type.
func TestSchemas(t *testing.T) {
	k := &checker{c: loadCSDL(t), skipped: map[string]bool{}}
	s := newService(t, nil)
	// Something of everything.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(context.Context, Subscription, []byte) error { return nil })
	}()
	defer func() { cancel(); <-done }()
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	for _, r := range [][2]string{
		{systemPath + "/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`},
		{managerPath + "/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia", `{"Image":"http://files.example.org/a.iso"}`},
		{volumesPath, `{"RAIDType":"RAID0","Links":{"Drives":[{"@odata.id":"` + storagePath + `/Drives/Disk.Bay_0_1"}]}}`},
		{subscriptionsPath, `{"Destination":"http://listener.example.org/","Protocol":"Redfish"}`},
		{sessionsPath, `{"UserName":"op","Password":"op"}`},
		{updatePath + "/push", string(FirmwareImage("BIOS", "2"))},
	} {
		ct := "application/json"
		if strings.HasSuffix(r[0], "/push") {
			ct = "application/octet-stream"
		}
		if a := s.do("POST", r[0], admin, r[1], "Content-Type", ct); a.StatusCode >= 300 {
			t.Errorf("POST %s = %d %s", r[0], a.StatusCode, a.text)
		}
	}
	for p, b := range map[string]string{limitPath: `{"SetPoint":900}`, ethernetPath + "/1": `{"IPv4StaticAddresses":[{"Address":"192.0.2.9","SubnetMask":"255.255.255.0"}]}`} {
		if a := s.do("PATCH", p, admin, b); a.StatusCode != 200 {
			t.Errorf("PATCH %s = %d %s", p, a.StatusCode, a.text)
		}
	}
	n := s.walk(func(p string, r response) {
		if r.StatusCode == 200 {
			k.resource(p, r.body)
		}
	})
	for _, w := range k.wrong {
		t.Error(w)
	}
	matrix.Note("DMTF schemas (our checker)", fmt.Sprintf("every resource of a generic server (more than %d); no schema for ", n/50*50)+strings.Join(slices.Sorted(maps.Keys(k.skipped)), ", "), "", len(k.wrong) == 0)
	t.Logf("%d resources checked; no schema for %v", n, slices.Sorted(maps.Keys(k.skipped)))
}
