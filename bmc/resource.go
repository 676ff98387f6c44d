package bmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
)

// BMCs differ in the JSON types that they use; text, number and refs read what
// is meant and take the rest for unsaid.

// unmarshal reads a resource into v. A property of another type than expected
// is unsaid (encoding/json leaves it and goes on); what is no object at all is
// an error.
func unmarshal(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typ) && typ.Field != "":
		return nil
	case err == nil && bytes.Equal(bytes.TrimSpace(b), []byte("null")):
		return &json.UnmarshalTypeError{Value: "null"}
	}
	return err
}

// text is a string, or the literal of a number; null and others are "".
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = text(strings.TrimSpace(s))
		return nil
	}
	var n json.Number
	if json.Unmarshal(b, &n) == nil {
		*t = text(n)
	}
	return nil
}

// known is t as a string, "" for the fillers that firmware writes.
func (t text) known() string {
	switch strings.ToLower(string(t)) {
	case "n/a", "na", "none", "unknown", "null", "nil", "not specified", "none specified", "unspecified", "undefined", "not available", "notavailable",
		"not present", "not applicable", "no dimm", "empty", "to be filled by o.e.m.", "to be filled by oem", "default string", "default":
		return ""
	}
	if strings.Trim(string(t), ".-_* ") == "" {
		return ""
	}
	return string(t)
}

// number is a number, or a string that is one.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	if f, ok := parseNumber(b); ok {
		*n = number(f)
	}
	return nil
}

// parseNumber reads a JSON number, or one within a string. What JSON itself
// could not write again, or an int64 hold, is none.
func parseNumber(b []byte) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(strings.Trim(string(b), `"`)), 64)
	return f, err == nil && math.Abs(f) < 1<<62
}

// flag is a boolean that may be unsaid.
type flag struct{ set, on bool }

func (f *flag) UnmarshalJSON(b []byte) error {
	switch strings.ToLower(strings.Trim(string(b), `"`)) {
	case "true", "enabled", "on", "yes":
		f.set, f.on = true, true
	case "false", "disabled", "off", "no":
		f.set, f.on = true, false
	}
	return nil
}

// ref is a reference to a resource, or the resource itself where the service
// expanded it.
type ref struct {
	id  string
	raw json.RawMessage
}

func (r *ref) UnmarshalJSON(b []byte) error {
	var o struct {
		ID   text `json:"@odata.id"`
		Href text `json:"href"`   // before Redfish 1.0: iLO 4
		Ext  text `json:"extref"` // iLO's files
	}
	var s string
	switch {
	case json.Unmarshal(b, &s) == nil:
		if strings.HasPrefix(s, "/") {
			r.id = s // a link without its object
		}
	case json.Unmarshal(b, &o) == nil:
		r.id, r.raw = string(o.ID), bytes.Clone(b)
		if r.id == "" {
			r.id = string(o.Href + o.Ext)
		}
	}
	return nil
}

func (r ref) path() string { return localPath(r.id) }

// empty tells that there is neither a link nor a resource.
func (r ref) empty() bool {
	s := string(bytes.TrimSpace(r.raw))
	return r.path() == "" && (s == "" || s == "null" || s == "{}")
}

// bare tells that only the reference is there. Every resource has an Id or a
// Name (DSP0266 §9.6); a link beside whose id something else stands, as a title,
// is still a link.
func (r ref) bare() bool {
	var o map[string]json.RawMessage
	if json.Unmarshal(r.raw, &o) != nil {
		return true
	}
	if r.path() == "" {
		return false
	}
	for _, k := range []string{"Id", "Name", "MemberId", "@odata.type"} {
		if _, ok := o[k]; ok {
			return false
		}
	}
	return true
}

// refs are references; a single one counts as a list of one.
type refs []ref

func (r *refs) UnmarshalJSON(b []byte) error {
	var many []ref
	if json.Unmarshal(b, &many) == nil {
		*r = nil
		for _, x := range many {
			if !x.empty() {
				*r = append(*r, x)
			}
		}
		return nil
	}
	var one ref
	if json.Unmarshal(b, &one) == nil && one.path() != "" {
		*r = refs{one}
	}
	return nil
}

func (r refs) first() string {
	if len(r) == 0 {
		return ""
	}
	return r[0].path()
}

// texts are strings.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var s []text
	if json.Unmarshal(b, &s) == nil {
		*t = nil
		for _, x := range s {
			*t = append(*t, string(x))
		}
	}
	return nil
}

// health is Resource.Status (DSP0268).
type health struct {
	Health text
	Rollup text `json:"HealthRollup"`
	State  text
}

func (h *health) UnmarshalJSON(b []byte) error {
	type plain health
	var p plain
	var s text
	if err := unmarshal(b, &p); err != nil { // a word instead of an object
		if s.UnmarshalJSON(b) == nil {
			p.Health = s
		}
	}
	*h = health(p)
	return nil
}

func (h health) text() string {
	if h.Rollup != "" {
		return string(h.Rollup)
	}
	return string(h.Health)
}

// own is the health of the resource itself, without what is below it.
func (h health) own() string {
	if h.Health != "" {
		return string(h.Health)
	}
	return string(h.Rollup)
}

func (h health) absent() bool { return strings.EqualFold(string(h.State), "Absent") }

// serviceRoot is what we use of ServiceRoot (DSP0268).
type serviceRoot struct {
	Systems, Chassis, Managers, UpdateService ref
	Registries, AccountService                ref
	TelemetryService, SessionService          ref
	Links                                     struct{ Sessions ref }
	Vendor, Product                           text
	UUID                                      text
	Features                                  struct {
		Expand struct{ NoLinks bool } `json:"ExpandQuery"`
	} `json:"ProtocolFeaturesSupported"`
}

// computerSystem is what we use of ComputerSystem (DSP0268).
type computerSystem struct {
	ID                                        string `json:"@odata.id"`
	SystemType                                text
	Manufacturer, Model, SerialNumber         text
	SKU, UUID, BiosVersion                    text
	PowerState, IndicatorLED                  text
	LocationIndicatorActive                   flag
	LastResetTime                             text
	Status                                    health
	Boot                                      *bootOverride
	MemorySummary                             struct{ TotalSystemMemoryGiB number }
	Processors, Memory, EthernetInterfaces    ref
	Storage, SimpleStorage, NetworkInterfaces ref
	LogServices, Bios                         ref
	SecureBoot, VirtualMedia                  ref
	HostName, Name                            text
	PCIeDevices                               refs
	Links                                     struct{ ManagedBy, Chassis refs }
	Oem                                       oem
	Settings                                  struct {
		Object ref `json:"SettingsObject"`
	} `json:"@Redfish.Settings"`
	Actions struct {
		Reset *resetAction `json:"#ComputerSystem.Reset"`
	}
}

// oem are the links that a maker adds to a resource, in its own object of Oem
// or in the Links of that (HPE).
type oem map[string]struct {
	Links map[string]ref // "links" before Redfish 1.0
}

// link is the maker's link of that name, in any case.
func (o oem) link(name string) ref {
	for _, m := range o {
		for k, r := range m.Links {
			if strings.EqualFold(k, name) && r.path() != "" {
				return r
			}
		}
	}
	return ref{}
}

// bootOverride is ComputerSystem.Boot.
type bootOverride struct {
	Enabled        text  `json:"BootSourceOverrideEnabled"`
	EnabledAllowed texts `json:"BootSourceOverrideEnabled@Redfish.AllowableValues"`
	Target         text  `json:"BootSourceOverrideTarget"`
	TargetAllowed  texts `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
	Mode           text  `json:"BootSourceOverrideMode"`
	ModeAllowed    texts `json:"BootSourceOverrideMode@Redfish.AllowableValues"`
}

// resetAction is the action ComputerSystem.Reset.
type resetAction struct {
	Target  string `json:"target"`
	Info    string `json:"@Redfish.ActionInfo"`
	Allowed texts  `json:"ResetType@Redfish.AllowableValues"`
}

// chassis is what we use of Chassis (DSP0268).
type chassis struct {
	ID                                     string `json:"@odata.id"`
	ChassisType                            text
	Manufacturer, Model, SerialNumber, SKU text
	IndicatorLED                           text
	LocationIndicatorActive                flag
	NetworkAdapters                        ref
	PowerState                             text
	PCIeDevices                            refs
	Links                                  struct {
		ComputerSystems refs
		Drives          refs
		PCIeDevices     refs
	}
	Drives refs
	Oem    oem
}

// manager is what we use of Manager (DSP0268).
type manager struct {
	ID                     string `json:"@odata.id"`
	ManagerType            text
	Model, FirmwareVersion text
	LogServices            ref
}
