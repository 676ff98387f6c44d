package vbmc

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// validator judges a service as the DMTF's Redfish service validator 3 does
// (its rules were read in its source, 2026-11-22): every resource that the
// service root leads to, by the schema of its @odata.type.
type validator struct {
	s          service
	c          *csdl
	fails      []string
	warns      []string
	read       map[string]response
	annotation map[string]bool // URIs that stand in an annotation
	seen       map[string]bool
}

func newValidator(c *csdl, s service) *validator {
	return &validator{s: s, c: c, read: map[string]response{}, annotation: map[string]bool{}, seen: map[string]bool{}}
}

// finding is what is wrong with a property; nil: nothing.
type finding struct {
	warn bool
	text string
}

func failf(format string, args ...any) *finding { return &finding{false, fmt.Sprintf(format, args...)} }
func warnf(format string, args ...any) *finding { return &finding{true, fmt.Sprintf(format, args...)} }

func (k *validator) note(uri, at string, f *finding) {
	switch {
	case f == nil:
	case f.warn:
		k.warns = append(k.warns, uri+" "+at+": "+f.text)
	default:
		k.fails = append(k.fails, uri+" "+at+": "+f.text)
	}
}

func (k *validator) get(uri string) response {
	r, ok := k.read[uri]
	if !ok {
		r = k.s.do("GET", uri, admin, "")
		k.read[uri] = r
	}
	return r
}

// all judges every resource, and counts them.
func (k *validator) all() int {
	todo := []string{root + "/"}
	for len(todo) > 0 && len(k.seen) < 5000 {
		uri := todo[0]
		todo = todo[1:]
		if k.seen[uri] {
			continue
		}
		k.seen[uri] = true
		r := k.get(uri)
		if r.StatusCode != 200 || r.body == nil {
			k.note(uri, "", failf("answers %d and no JSON object", r.StatusCode))
			continue
		}
		k.object(uri, r.body, "", "", nil, "")
		k.links(r.body, false, func(next string) { todo = append(todo, next) })
	}
	return len(k.seen)
}

// links calls f for the URIs that the validator goes to.
func (k *validator) links(v any, annotation bool, f func(string)) {
	switch x := v.(type) {
	case obj:
		if t, _ := x["@odata.type"].(string); strings.HasPrefix(t, "#JsonSchemaFile.") {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(x)) {
			t, ok := x[key].(string)
			switch key {
			case "@odata.id", "Uri", "Members@odata.nextLink", "@Redfish.ActionInfo", "DataSourceUri", "TargetComponentURI":
				if ok && strings.HasPrefix(t, "/") && !strings.Contains(t, "#") {
					k.annotation[t] = k.annotation[t] || annotation
					f(t)
				}
			default:
				k.links(x[key], annotation || key == "SettingsObject" || key == "CapabilitiesObject", f)
			}
		}
	case []any:
		for _, y := range x {
			k.links(y, annotation, f)
		}
	}
}

// object judges an object; typ is what the schema says it is, "" for a resource.
func (k *validator) object(uri string, body obj, resource, typ string, excerpt *string, at string) {
	oem := typ == "Resource.OemObject"
	note := func(f *finding) {
		f.warn = f.warn || oem
		k.note(uri, at, f)
	}
	is, given := body["@odata.type"].(string)
	if !given && (typ == "" || oem) {
		note(failf("has no @odata.type"))
		return
	}
	name := typ
	if given {
		if !strings.HasPrefix(is, "#") {
			note(failf("@odata.type %q does not begin with #", is))
			return
		}
		name = is[1:]
	}
	if at == "" {
		resource = name
	}
	def := k.c.object(resource, name, given)
	if def == nil {
		note(failf("no schema defines %s", name))
		return
	}
	if typ != "" && !slices.Contains(def.tree, typ) {
		note(failf("%s is no %s", name, typ))
		return
	}
	if at == "" {
		k.methods(uri, body, def)
	}
	for _, key := range slices.Sorted(maps.Keys(body)) {
		k.property(uri, body, key, resource, name, def, excerpt, at+"/"+key)
	}
	kind := resource[strings.LastIndex(resource, ".")+1:]
	registry := kind == "MessageRegistry" || kind == "PrivilegeRegistry" || kind == "AttributeRegistry"
	for _, key := range slices.Sorted(maps.Keys(def.props)) {
		p := def.props[key]
		if _, ok := body[key]; ok || p.deprecated != "" || excerpt != nil || p.copyOnly || key == "@odata.id" && registry {
			continue
		}
		if p.required {
			k.note(uri, at+"/"+key, failf("%s must be there (%s)", key, name))
		}
	}
}

// methods: Allow names only what the schema says can be done.
func (k *validator) methods(uri string, body obj, def *objectDef) {
	for _, m := range strings.Split(k.get(uri).Header.Get("Allow"), ",") {
		m = strings.TrimSpace(m)
		if m != "POST" && m != "DELETE" && m != "PUT" && m != "PATCH" || (m == "PUT" || m == "PATCH") && body["Oem"] != nil {
			continue
		}
		if !slices.Contains(def.methods, m) {
			k.note(uri, "Allow", failf("%s is not for this resource", m))
		}
	}
}

var actionPath = regexp.MustCompile(`^/Actions/(Oem/)?#[A-Za-z0-9_.]+$`)

func (k *validator) property(uri string, body obj, key, resource, name string, def *objectDef, excerpt *string, at string) {
	v := body[key]
	p := def.props[key]
	switch {
	case p != nil:
	case strings.Contains(key, "@Redfish.") || strings.Contains(key, "@odata."):
		if key == "@Redfish.Copyright" && !strings.HasSuffix(resource, ".MessageRegistry") {
			k.note(uri, at, failf("@Redfish.Copyright is for mock-ups"))
		}
		return
	case actionPath.MatchString(at):
		k.note(uri, at, k.action(uri, key, v, resource, at))
		return
	case def.dynamic != nil && matches(def.names, key):
		p = def.dynamic
	default:
		k.note(uri, at, failf("%s is not a property of %s", key, name))
		return
	}
	list, isList := v.([]any)
	switch {
	case isList && p.array:
		k.note(uri, at, p.passed())
		for i, x := range list {
			at := fmt.Sprintf("%s/%d", at, i)
			k.note(uri, at, k.value(uri, body, key, x, resource, def, p, excerpt, at))
		}
	case isList:
		k.note(uri, at, failf("%s is no array", key))
	case p.array:
		k.note(uri, at, failf("%s must be an array", key))
	default:
		k.note(uri, at, k.value(uri, body, key, v, resource, def, p, excerpt, at))
	}
}

// matches is a match from the beginning of s on, as of Python's re.match.
func matches(pattern, s string) bool {
	re, err := regexp.Compile("^(?:" + pattern + ")")
	return err != nil || re.MatchString(s) // what RE2 does not know is not judged
}

func (p *propertyDef) passed() *finding {
	if p.deprecated != "" {
		return warnf("deprecated in %s", p.deprecated)
	}
	return nil
}

func (k *validator) action(uri, key string, v any, resource, at string) *finding {
	o, ok := v.(obj)
	if !ok {
		return failf("%v is no object", v)
	}
	oem := strings.HasPrefix(at, "/Actions/Oem/")
	a, known := k.c.actions[key[1:]]
	if !known {
		return &finding{oem, "no schema defines this action"}
	}
	family, _, _ := strings.Cut(resource, ".")
	if !oem {
		if f, _, _ := strings.Cut(key[1:], "."); f != family {
			return failf("not an action of %s", family)
		}
		_, have := version(resource)
		if _, need := version(a.added); have != [3]int{} && older(have, need) {
			return failf("the action came with %s", a.added)
		}
	}
	if want := strings.TrimSuffix(uri, "/") + strings.ReplaceAll(at, "#", ""); o["target"] != want {
		k.note(uri, at+"/target", failf("%v; want %s", o["target"], want))
	}
	for prop := range o {
		if prop != "target" && prop != "title" && !strings.Contains(prop, "@Redfish.") {
			k.note(uri, at+"/"+prop, failf("does not belong into an action"))
		}
	}
	if a.deprecated != "" {
		return warnf("deprecated in %s", a.deprecated)
	}
	return nil
}

// furnish brings something of everything into a service, so that there is
// something to judge; it ends with the test.
func (s service) furnish(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(context.Context, Subscription, []byte) error { return nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	for _, r := range [][2]string{
		{systemPath + "/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`},
		{managerPath + "/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia", `{"Image":"http://files.example.org/a.iso"}`},
		{volumesPath, `{"RAIDType":"RAID0","Links":{"Drives":[{"@odata.id":"` + storagePath + `/Drives/Disk.Bay_0_1"}]}}`},
		{subscriptionsPath, `{"Destination":"http://listener.example.org/","Protocol":"Redfish"}`},
		{sessionsPath, `{"UserName":"op","Password":"op"}`},
		{reportDefs, `{"Id":"Heat","MetricReportDefinitionType":"Periodic","Schedule":{"RecurrenceInterval":"PT1M"},"ReportActions":["LogToMetricReportsCollection","RedfishEvent"],"Metrics":[{"MetricId":"T","MetricProperties":["` + sensorsPath + `/{S}/Reading"]}],"Wildcards":[{"Name":"S","Values":["CPU1Temp"]}]}`},
		{triggersPath, `{"Id":"Hot","MetricType":"Numeric","TriggerActions":["RedfishEvent","LogToLogService"],"MetricProperties":["` + sensorsPath + `/CPU1Temp/Reading"],"NumericThresholds":{"UpperCritical":{"Reading":90,"Activation":"Increasing","DwellTime":"PT2S"}}}`},
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
}

// TestServiceValidator: the DMTF's service validator finds no failure.
func TestServiceValidator(t *testing.T) {
	c := loadCSDL(t)
	t.Run("generic", func(t *testing.T) {
		s := newService(t, func(c *Config) { c.Identity = testIdentity(t) })
		s.furnish(t)
		validated(t, newValidator(c, s), "a generic server")
	})
	for _, name := range Personalities() {
		t.Run(name, func(t *testing.T) {
			s := newService(t, func(c *Config) { c.Tree = personality(t, name) })
			validated(t, newValidator(c, s), name)
		})
	}
}

// TestMetadataSchemas: every schema that the metadata document includes exists.
func TestMetadataSchemas(t *testing.T) {
	c := loadCSDL(t)
	for _, name := range schemas {
		family, _, _ := strings.Cut(name, ".")
		typ := name + "." + family
		if family == "Settings" || family == "Message" || family == "Event" { // no resources
			typ = name
		}
		found := false
		for o := range c.objects {
			found = found || o == typ || typ == name && strings.HasPrefix(o, name+".")
		}
		if !found {
			t.Errorf("no schema defines %s", typ)
		}
	}
}

func validated(t *testing.T, k *validator, what string) {
	t.Helper()
	n := k.all()
	for i, f := range k.fails {
		if i < 80 {
			t.Error(f)
		}
	}
	for _, w := range k.warns {
		t.Log("warning: ", w)
	}
	if n < 100 {
		t.Errorf("judged %d resources; want 100 at least", n)
	}
	matrix.Note("DMTF service validator (its rules)", "every resource of "+what, "", len(k.fails) == 0)
	t.Logf("%d resources, %d failures, %d warnings", n, len(k.fails), len(k.warns))
}
