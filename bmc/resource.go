package bmc

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// BMCs differ in the JSON types that they use; text, number and refs read what
// is meant and take the rest for unsaid.

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
	case "n/a", "na", "none", "unknown", "null", "not specified", "to be filled by o.e.m.", "default string":
		return ""
	}
	return string(t)
}

// number is a number, or a string that is one.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err == nil {
		*n = number(f)
	}
	return nil
}

// flag is a boolean that may be unsaid.
type flag struct{ set, on bool }

func (f *flag) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &f.on) == nil && !bytes.Equal(b, []byte("null")) {
		f.set = true
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
		ID string `json:"@odata.id"`
	}
	if json.Unmarshal(b, &o) == nil {
		r.id, r.raw = o.ID, bytes.Clone(b)
	}
	return nil
}

func (r ref) path() string { return localPath(r.id) }

// bare tells that only the reference is there.
func (r ref) bare() bool {
	var o map[string]json.RawMessage
	if json.Unmarshal(r.raw, &o) != nil {
		return true
	}
	for k := range o {
		if !strings.HasPrefix(k, "@odata.") {
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
			if x.id != "" || len(x.raw) > 0 {
				*r = append(*r, x)
			}
		}
		return nil
	}
	var one ref
	if json.Unmarshal(b, &one) == nil && one.id != "" {
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

func (h health) absent() bool { return h.State == "Absent" }

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
	Links                                     struct{ ManagedBy, Chassis refs }
	Actions                                   struct {
		Reset *resetAction `json:"#ComputerSystem.Reset"`
	}
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
	Links                                  struct {
		ComputerSystems refs
	}
}

// manager is what we use of Manager (DSP0268).
type manager struct {
	Model, FirmwareVersion text
	LogServices            ref
}
