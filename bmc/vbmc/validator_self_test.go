package vbmc

import (
	"strings"
	"testing"
)

// TestValidatorFinds: what is wrong on purpose is found; a judge that lets
// everything pass is none.
func TestValidatorFinds(t *testing.T) {
	c := loadCSDL(t)
	s := newService(t, func(c *Config) { c.Identity = testIdentity(t) })
	sys := func(o obj, path string) obj { in, _ := at(o, path).(obj); return in }
	for _, tc := range []struct {
		name, uri string
		spoil     func(o obj, r response)
		want      string
	}{
		{"nothing", systemPath, func(obj, response) {}, ""},
		{"an unknown property", systemPath, func(o obj, _ response) { o["Colour"] = "red" }, "not a property"},
		{"one of another version", systemPath, func(o obj, _ response) { o["@odata.type"] = "#ComputerSystem.v1_0_0.ComputerSystem" }, "not a property"},
		{"no such version", systemPath, func(o obj, _ response) { o["@odata.type"] = "#ComputerSystem.v9_0_0.ComputerSystem" }, "no schema defines"},
		{"no type", systemPath, func(o obj, _ response) { delete(o, "@odata.type") }, "no @odata.type"},
		{"nothing where something must be", systemPath, func(o obj, _ response) { delete(o, "Name") }, "must be there"},
		{"text for a number", systemPath, func(o obj, _ response) { sys(o, "MemorySummary")["TotalSystemMemoryGiB"] = "2" }, "is no Edm"},
		{"half a processor", systemPath, func(o obj, _ response) { sys(o, "ProcessorSummary")["Count"] = 1.5 }, "is no Edm"},
		{"no such state", systemPath, func(o obj, _ response) { o["PowerState"] = "Glowing" }, "is none of"},
		{"a value of a later version", systemPath, func(o obj, _ response) {
			o["@odata.type"] = "#ComputerSystem.v1_2_0.ComputerSystem"
			for k := range o {
				if k != "@odata.id" && k != "@odata.type" && k != "Id" && k != "Name" {
					delete(o, k)
				}
			}
			o["SystemType"] = "Composed"
			o["Boot"] = obj{"BootSourceOverrideTarget": "Recovery"}
		}, "came with"},
		{"null where none may be", systemPath, func(o obj, _ response) { o["Status"] = nil }, "null is not allowed"},
		{"no UUID", systemPath, func(o obj, _ response) { o["UUID"] = "1234" }, "does not follow"},
		{"a list for one", systemPath, func(o obj, _ response) { o["PowerState"] = []any{"On"} }, "is no array"},
		{"one for a list", systemPath, func(o obj, _ response) { sys(o, "Links")["Chassis"] = obj{"@odata.id": chassisPath} }, "must be an array"},
		{"a link to another kind", systemPath, func(o obj, _ response) { o["Bios"] = obj{"@odata.id": chassisPath} }, "want Bios"},
		{"a link to nowhere", systemPath, func(o obj, _ response) { o["Bios"] = obj{"@odata.id": root + "/Nope"} }, "answers 404"},
		{"a link with more in it", systemPath, func(o obj, _ response) { o["Bios"] = obj{"@odata.id": biosPath, "Name": "x"} }, "no more"},
		{"an action elsewhere", systemPath, func(o obj, _ response) { sys(o, "Actions/#ComputerSystem.Reset")["target"] = root + "/Reset" }, "want " + systemPath},
		{"no such action", systemPath, func(o obj, _ response) { sys(o, "Actions")["#ComputerSystem.Dance"] = obj{"target": "x"} }, "no schema defines this action"},
		{"an action of another type", systemPath, func(o obj, _ response) { sys(o, "Actions")["#Manager.Reset"] = obj{"target": "x"} }, "not an action of"},
		{"another Id", systemPath, func(o obj, _ response) { o["Id"] = "2" }, "not the last part"},
		{"another URI", systemPath, func(o obj, _ response) { o["@odata.id"] = root + "/Computers/1" }, "none of those"},
		{"DELETE in Allow", biosPath, func(_ obj, r response) { r.Header.Set("Allow", "GET, DELETE") }, "DELETE is not for"},
		{"no count", root + "/Systems", func(o obj, _ response) { delete(o, "Members@odata.count") }, "must be there"},
		{"a number for MemberId", chassisPath + "/Thermal", func(o obj, _ response) {
			o["Temperatures"].([]any)[0].(obj)["MemberId"] = "7"
		}, "MemberId"},
		{"a pointer beside it", chassisPath + "/Thermal", func(o obj, _ response) {
			o["Temperatures"].([]any)[0].(obj)["@odata.id"] = chassisPath + "/Thermal#/Temps/0"
		}, "want " + chassisPath},
		{"more than an excerpt", chassisPath + "/EnvironmentMetrics", func(o obj, _ response) { sys(o, "PowerWatts")["Accuracy"] = 1.0 }, "not in the excerpt"},
		{"what only excerpts have", limitPath, func(o obj, _ response) { o["DataSourceUri"] = limitPath }, "only in excerpts"},
		{"a password", accountsPath + "/1", func(o obj, _ response) { o["Password"] = "x" }, "write-only"},
		{"a session of a second", root + "/SessionService", func(o obj, _ response) { o["SessionTimeout"] = 1.0 }, "out of range"},
		{"a setting that is no text", biosPath, func(o obj, _ response) { sys(o, "Attributes")["Xyz"] = obj{} }, "is no Edm"},
	} {
		k := newValidator(c, s)
		r := s.do("GET", tc.uri, admin, "")
		r.Header = r.Header.Clone()
		tc.spoil(r.body, r)
		k.read[tc.uri] = r
		k.object(tc.uri, r.body, "", "", nil, "")
		found := strings.Join(k.fails, "\n")
		if tc.want == "" && found != "" || !strings.Contains(found, tc.want) {
			t.Errorf("%s: found %q; want %q", tc.name, found, tc.want)
		}
	}
}
