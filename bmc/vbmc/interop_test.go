package vbmc

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// wanted is what OpenStack Ironic's interoperability profile 1.2.0 asks of a
// resource type (read on 2026-11-22, written down in our words). A property is
// "Path/In/It", then "must", or nothing where it is only recommended, and what
// its value must be: links=TYPE, count=N, support=A,B (of AllowableValues),
// any=A,B (at least once in the service), instead=NAME (an older property may
// be there in its place).
type wanted struct {
	kind    string
	must    bool   // such a resource must be there
	version string // at least
	create  bool   // POST to it
	uri     string // only those there
	props   []string
	actions []string // the first word the action, then "must" or nothing
}

var ironicProfile = []wanted{
	{kind: "Bios", props: []string{"Attributes must", "AttributeRegistry", "@Redfish.Settings must", "@Redfish.Settings/SettingsObject must links=Bios",
		"@Redfish.Settings/SupportedApplyTimes support=OnReset"}, actions: []string{"ResetBios"}},
	{kind: "Chassis", props: []string{"Power links=Power", "Thermal links=Thermal", "UUID"}},
	{kind: "ComputerSystemCollection", must: true, props: []string{"Members must count=1"}},
	{kind: "ComputerSystem", must: true, props: []string{"Bios", "BiosVersion", "Boot must", "Boot/BootSourceOverrideEnabled must support=Once,Continuous",
		"Boot/BootSourceOverrideMode must", "Boot/BootSourceOverrideTarget must support=Pxe,Hdd,Cd", "EthernetInterfaces links=EthernetInterfaceCollection",
		"IndicatorLED any=Lit,Off,Blinking", "Links must", "Links/Chassis", "Links/ManagedBy must", "Manufacturer", "MemorySummary", "MemorySummary/TotalSystemMemoryGiB must",
		"PowerState must", "Processors links=ProcessorCollection", "SecureBoot links=SecureBoot", "SimpleStorage links=SimpleStorageCollection",
		"Storage links=StorageCollection", "VirtualMedia links=VirtualMediaCollection"}, actions: []string{"Reset must"}},
	{kind: "Drive", props: []string{"CapacityBytes", "MediaType must", "Protocol must", "Status must", "Status/Health must", "Status/State must"}},
	{kind: "EthernetInterface", uri: root + "/Systems/", props: []string{"MACAddress must", "Status must", "Status/Health must", "Status/State must"}},
	{kind: "Manager", props: []string{"FirmwareVersion"}},
	{kind: "Power", props: []string{"PowerSupplies must", "PowerSupplies/LastPowerOutputWatts", "PowerSupplies/LineInputVoltage", "PowerSupplies/PowerCapacityWatts",
		"PowerSupplies/SerialNumber", "PowerSupplies/Status must", "PowerSupplies/Status/Health", "PowerSupplies/Status/State"}},
	{kind: "Processor", props: []string{"ProcessorArchitecture must", "TotalThreads must"}},
	{kind: "SecureBoot", props: []string{"SecureBootEnable must"}, actions: []string{"ResetKeys"}},
	{kind: "ServiceRoot", must: true, props: []string{"Systems must links=ComputerSystemCollection", "SessionService links=SessionService", "UpdateService links=UpdateService"}},
	{kind: "SessionService"},
	{kind: "SimpleStorage", props: []string{"Devices must", "Devices/CapacityBytes", "Devices/Model", "Devices/Name", "Devices/Status must", "Devices/Status/Health", "Devices/Status/State"}},
	{kind: "Storage", version: "1.9.0", props: []string{"Drives must", "Controllers must links=StorageControllerCollection instead=StorageControllers",
		"Volumes must links=VolumeCollection"}},
	{kind: "StorageController", props: []string{"SupportedRAIDTypes"}},
	{kind: "StorageControllerCollection", props: []string{"Members must count=1"}},
	{kind: "TaskService"},
	{kind: "Thermal", version: "1.0.1", props: []string{"Fans must", "Fans/MaxReadingRange", "Fans/MinReadingRange", "Fans/Reading must", "Fans/ReadingUnits must",
		"Fans/SerialNumber", "Fans/Status must", "Temperatures must", "Temperatures/MaxReadingRangeTemp", "Temperatures/MinReadingRangeTemp",
		"Temperatures/ReadingCelsius must", "Temperatures/PhysicalContext", "Temperatures/SensorNumber"}},
	{kind: "UpdateService", actions: []string{"SimpleUpdate must"}},
	{kind: "VirtualMedia", must: true, props: []string{"Image must", "Inserted", "MediaTypes must", "WriteProtected"}, actions: []string{"EjectMedia must", "InsertMedia must"}},
	{kind: "Volume", version: "1.3.1", props: []string{"CapacityBytes must", "Name must", "RAIDType"}},
	{kind: "VolumeCollection", create: true, props: []string{"Members", "@Redfish.OperationApplyTimeSupport must"}},
}

// interop judges a service by a profile, as the DMTF's interop validator 3 does.
type interop struct {
	v       *validator
	fails   []string
	lacks   []string        // of what is recommended
	met     map[string]bool // values that must occur somewhere, by property
	present map[string]bool // types
}

func kindOf(body obj) string {
	t, _ := body["@odata.type"].(string)
	return t[strings.LastIndex(t, ".")+1:]
}

func (k *interop) run(profile []wanted) {
	for _, uri := range slices.Sorted(maps.Keys(k.v.seen)) {
		if k.v.annotation[uri] {
			continue // a settings object is no resource of its own
		}
		r := k.v.get(uri)
		kind := kindOf(r.body)
		for _, w := range profile {
			if w.kind == kind && strings.HasPrefix(uri, w.uri) {
				k.present[kind] = true
				k.resource(uri, r, w)
			}
		}
	}
	for _, w := range profile {
		if w.must && !k.present[w.kind] {
			k.fails = append(k.fails, "there is no "+w.kind)
		}
	}
	for name, ok := range k.met {
		if !ok {
			k.fails = append(k.fails, name+" has none of the values that one must have")
		}
	}
}

func (k *interop) resource(uri string, r response, w wanted) {
	fail := func(format string, args ...any) { k.fails = append(k.fails, uri+": "+fmt.Sprintf(format, args...)) }
	if w.version != "" {
		_, have := version(strings.TrimPrefix(fmt.Sprint(r.body["@odata.type"]), "#"))
		_, need := version("v" + strings.ReplaceAll(w.version, ".", "_"))
		if older(have, need) {
			fail("older than %s", w.version)
		}
	}
	if w.create && !strings.Contains(r.Header.Get("Allow"), "POST") {
		fail("nothing can be created")
	}
	for _, p := range w.props {
		f := strings.Fields(p)
		k.property(uri, r.body, r.body, strings.Split(f[0], "/"), f, fail)
	}
	for _, a := range w.actions {
		name, must, _ := strings.Cut(a, " ")
		if at(r.body, "Actions/#"+w.kind+"."+name+"/target") == nil {
			if must == "" {
				k.lacks = append(k.lacks, w.kind+"."+name)
			} else {
				fail("no action %s", name)
			}
		}
	}
}

// property judges one of the profile's lines; arrays are judged member by member.
func (k *interop) property(uri string, whole, in obj, path, f []string, fail func(string, ...any)) {
	v, ok := in[path[0]]
	if len(path) > 1 {
		switch x := v.(type) {
		case obj:
			k.property(uri, whole, x, path[1:], f, fail)
		case []any:
			for _, y := range x {
				if o, ok := y.(obj); ok {
					k.property(uri, whole, o, path[1:], f, fail)
				}
			}
		}
		return // whether it is there is a line of its own
	}
	must := slices.Contains(f, "must")
	for _, cond := range f[1:] {
		name, val, _ := strings.Cut(cond, "=")
		list, _ := v.([]any)
		switch {
		case name == "instead" && !ok && in[val] != nil:
			return
		case name == "any":
			key := kindOf(whole) + " " + f[0]
			k.met[key] = k.met[key] || slices.Contains(strings.Split(val, ","), fmt.Sprint(v))
		case !ok:
		case name == "links":
			to, _ := v.(obj)
			id, _ := to["@odata.id"].(string)
			if got := kindOf(k.v.get(id).body); got != val {
				fail("%s leads to %s; want %s", f[0], got, val)
			}
		case name == "count":
			if n, _ := strconv.Atoi(val); len(list) < n { // digits, by the table
				fail("%s has %d members", f[0], len(list))
			}
		case name == "support":
			allowed, _ := in[path[0]+"@Redfish.AllowableValues"].([]any)
			for _, want := range strings.Split(val, ",") {
				if allowed != nil && !slices.Contains(allowed, any(want)) {
					fail("%s does not take %s", f[0], want)
				}
			}
		}
	}
	switch {
	case ok:
	case must:
		fail("%s is not there", f[0])
	default:
		k.lacks = append(k.lacks, kindOf(whole)+" "+f[0])
	}
}

// TestInteropValidator: the DMTF's interop validator finds no failure by
// Ironic's profile.
func TestInteropValidator(t *testing.T) {
	c := loadCSDL(t)
	s := newService(t, func(c *Config) { c.Identity = testIdentity(t) })
	s.furnish(t)
	v := newValidator(c, s)
	v.all()
	k := &interop{v: v, met: map[string]bool{}, present: map[string]bool{}}
	k.run(ironicProfile)
	for _, f := range k.fails {
		t.Error(f)
	}
	slices.Sort(k.lacks)
	t.Logf("recommended, and not there: %s", strings.Join(slices.Compact(k.lacks), ", "))
	for _, w := range ironicProfile {
		if !k.present[w.kind] {
			t.Errorf("nothing of type %s was judged", w.kind)
		}
		bad := slices.ContainsFunc(k.fails, func(f string) bool { return strings.Contains(f, w.kind) })
		matrix.Note("DMTF interop validator (its rules), Ironic's profile 1.2.0", w.kind, "", !bad && len(k.fails) == 0)
	}
}
