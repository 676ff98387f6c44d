package vbmc

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"
)

// BIOSAttribute is one setting of the virtual machine's firmware (DSP0268,
// AttributeRegistry).
type BIOSAttribute struct {
	Name    string
	Title   string
	Type    string   // "Enumeration", "Boolean", "Integer", "String"
	Value   any      // string, bool or int
	Allowed []string // of an Enumeration
	Low     int      // of an Integer
	High    int
	// ReadOnly is what a client cannot write.
	ReadOnly bool
}

// defaultBIOS is a generic server's firmware, in nobody's names but plain ones.
func defaultBIOS() []BIOSAttribute {
	onOff := func(name, title, value string) BIOSAttribute {
		return BIOSAttribute{Name: name, Title: title, Type: "Enumeration", Value: value, Allowed: []string{"Enabled", "Disabled"}}
	}
	return []BIOSAttribute{
		{Name: "BootMode", Title: "Boot mode", Type: "Enumeration", Value: "Uefi", Allowed: []string{"Uefi", "Bios"}},
		onOff("MmioAbove4Gb", "Above 4G decoding", "Disabled"),
		onOff("SriovGlobalEnable", "SR-IOV", "Disabled"),
		onOff("ProcVirtualization", "Virtualization technology", "Enabled"),
		onOff("PxeDev1EnDis", "PXE device 1", "Enabled"),
		onOff("HttpDev1EnDis", "HTTP device 1", "Disabled"),
		onOff("LogicalProc", "Logical processors", "Enabled"),
		{Name: "ProcCStates", Title: "C-states", Type: "Enumeration", Value: "Enabled", Allowed: []string{"Enabled", "Disabled", "Autonomous"}},
		{Name: "QuietBoot", Title: "Quiet boot", Type: "Boolean", Value: true},
		{Name: "PowerOnDelay", Title: "Delay after power returns, in seconds", Type: "Integer", Value: 0, High: 600},
		{Name: "AssetTag", Title: "Asset tag", Type: "String", Value: ""},
		{Name: "SystemBiosVersion", Title: "Version", Type: "String", Value: "1.0", ReadOnly: true},
	}
}

const (
	biosPath     = systemPath + "/Bios"
	biosSettings = biosPath + "/Settings"
	biosRegistry = "BiosAttributeRegistry.v1_0_0"
)

// firmware is the state of the settings. s.mu guards it.
type firmware struct {
	attributes []BIOSAttribute
	pending    map[string]any
	since      time.Time // of the first pending one
	booted     bool      // a boot was asked for since then
}

// newFirmware takes the given settings, or the generic ones.
func newFirmware(given []BIOSAttribute) (firmware, error) {
	f := firmware{attributes: slices.Clone(given), pending: map[string]any{}}
	if given == nil {
		f.attributes = defaultBIOS()
	}
	seen := map[string]bool{}
	for _, a := range f.attributes {
		if a.Name == "" || seen[a.Name] {
			return f, fmt.Errorf("the BIOS attribute %q has no name, or is there twice", a.Name)
		}
		seen[a.Name] = true
	}
	return f, nil
}

// starts: a boot of the machine was asked for.
func (s *Server) starts(t ResetType) {
	switch t {
	case ResetOn, ResetForceOn, ResetForceRestart, ResetGracefulRestart, ResetPowerCycle:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bios.booted = len(s.bios.pending) > 0
	}
}

// settle makes pending settings the present ones once the machine has booted.
// Where the chassis knows its last boot, that counts; elsewhere, that a boot
// was asked for here and the machine is on.
func (s *Server) settle(ctx context.Context) error {
	s.mu.Lock()
	waits, since, asked := len(s.bios.pending) > 0, s.bios.since, s.bios.booted
	s.mu.Unlock()
	if !waits {
		return nil
	}
	if lr, ok := s.chassis.(LastResetter); ok {
		t, err := lr.LastReset(ctx)
		if err != nil {
			return fmt.Errorf("reading the last boot: %w", err)
		}
		if asked = t.After(since); !asked {
			return nil
		}
	}
	p, err := s.chassis.Power(ctx)
	if err != nil {
		return fmt.Errorf("reading the power state: %w", err)
	}
	if !asked || p != On {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bios.attributes = slices.Clone(s.bios.attributes) // biosFirst shares the old ones
	for i, a := range s.bios.attributes {
		if v, ok := s.bios.pending[a.Name]; ok {
			s.bios.attributes[i].Value = v
		}
	}
	s.record("system", "OK", fmt.Sprintf("%d BIOS settings were applied at boot.", len(s.bios.pending)))
	s.bios.pending, s.bios.booted = map[string]any{}, false
	return nil
}

func (s *Server) biosRoutes() []*resource {
	return []*resource{
		{pattern: biosPath, get: s.biosResource},
		{pattern: biosPath + "/Actions/Bios.ResetBios", priv: privComponents, post: s.resetBios},
		{pattern: biosSettings, priv: privComponents, get: s.biosPending, patch: func(c *call) ([]*message, error) {
			return patch(c, s.biosPending, map[string]setter{
				"Attributes":                 func(v any) (func() error, error) { return s.setBIOS(c, v) },
				"@Redfish.SettingsApplyTime": applyTime,
			})
		}},
	}
}

func (s *Server) biosResource(c *call) (obj, error) {
	if err := s.settle(c.ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := obj{}
	for _, a := range s.bios.attributes {
		now[a.Name] = a.Value
	}
	return obj{"@odata.id": biosPath, "@odata.type": "#Bios.v1_2_1.Bios", "Id": "Bios", "Name": "BIOS Configuration", "AttributeRegistry": biosRegistry,
		"Attributes":        now,
		"@Redfish.Settings": obj{"@odata.type": "#Settings.v1_3_5.Settings", "SettingsObject": link(biosSettings), "SupportedApplyTimes": []string{"OnReset"}},
		"Actions":           obj{"#Bios.ResetBios": obj{"target": biosPath + "/Actions/Bios.ResetBios"}}}, nil
}

func (s *Server) biosPending(c *call) (obj, error) {
	if err := s.settle(c.ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return obj{"@odata.id": biosSettings, "@odata.type": "#Bios.v1_2_1.Bios", "Id": "Settings", "Name": "BIOS Configuration Pending Settings",
		"AttributeRegistry": biosRegistry, "Attributes": obj(maps.Clone(s.bios.pending))}, nil
}

// applyTime takes the one that there is.
func applyTime(v any) (func() error, error) {
	o, ok := v.(obj)
	if !ok {
		return nil, msgPropertyType("@Redfish.SettingsApplyTime", v)
	}
	if t := o["ApplyTime"]; t != "OnReset" {
		return nil, msgNotInList("@Redfish.SettingsApplyTime/ApplyTime", t)
	}
	return func() error { return nil }, nil
}

// setBIOS checks wanted settings against the registry; all wait, or none.
func (s *Server) setBIOS(c *call, v any) (func() error, error) {
	in, ok := v.(obj)
	if !ok {
		return nil, msgPropertyType("Attributes", v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[string]any{}
	for name, v := range in {
		i := slices.IndexFunc(s.bios.attributes, func(a BIOSAttribute) bool { return a.Name == name })
		if i < 0 {
			return nil, msgUnknownProperty("Attributes/" + name)
		}
		v, err := s.bios.attributes[i].check(v)
		if err != nil {
			return nil, err
		}
		want[name] = v
	}
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, v := range want {
			i := slices.IndexFunc(s.bios.attributes, func(a BIOSAttribute) bool { return a.Name == name })
			if s.bios.attributes[i].Value == v { // as it is: nothing waits
				delete(s.bios.pending, name)
				continue
			}
			s.bios.pending[name] = v
		}
		s.bios.since, s.bios.booted = s.now(), false
		s.record("system", "OK", fmt.Sprintf("%d BIOS settings wait for the next boot, by %s.", len(s.bios.pending), c.who.name))
		return nil
	}, nil
}

// check is v in the attribute's type.
func (a BIOSAttribute) check(v any) (any, error) {
	full := "Attributes/" + a.Name
	if a.ReadOnly {
		return nil, msgReadOnly(full)
	}
	switch a.Type {
	case "Boolean":
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case "Integer":
		f, ok := v.(float64)
		switch {
		case !ok || f != math.Trunc(f):
			return nil, msgPropertyType(full, v)
		case f < float64(a.Low) || f > float64(a.High):
			return nil, msgNotInList(full, v)
		}
		return int(f), nil
	default:
		t, ok := v.(string)
		if ok && a.Type == "Enumeration" && !slices.Contains(a.Allowed, t) {
			return nil, msgNotInList(full, v)
		}
		if ok {
			return t, nil
		}
	}
	return nil, msgPropertyType(full, v)
}

// resetBios lets the first settings wait for the next boot (DSP0268, Bios.ResetBios).
func (s *Server) resetBios(c *call) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.bios.attributes {
		if first := s.biosFirst[i].Value; a.Value != first {
			s.bios.pending[a.Name] = first
		} else {
			delete(s.bios.pending, a.Name)
		}
	}
	s.bios.since, s.bios.booted = s.now(), false
	s.record("system", "OK", fmt.Sprintf("BIOS reset at the next boot, by %s.", c.who.name))
	return reply{status: http.StatusNoContent}, nil
}

// registryResource is the AttributeRegistry (DSP0268).
func (s *Server) registryResource(c *call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []obj{}
	for _, a := range s.bios.attributes {
		o := obj{"AttributeName": a.Name, "DisplayName": a.Title, "Type": a.Type, "ReadOnly": a.ReadOnly, "ResetRequired": true, "Hidden": false}
		switch a.Type {
		case "Enumeration":
			values := make([]obj, len(a.Allowed))
			for i, v := range a.Allowed {
				values[i] = obj{"ValueName": v, "ValueDisplayName": v}
			}
			o["Value"] = values
		case "Integer":
			o["LowerBound"], o["UpperBound"] = a.Low, a.High
		}
		all = append(all, o)
	}
	return obj{"@odata.id": c.path, "@odata.type": "#AttributeRegistry.v1_3_8.AttributeRegistry", "Id": biosRegistry, "Name": "BIOS Attribute Registry",
		"Language": "en", "OwningEntity": "fettle", "RegistryVersion": "1.0.0", "RegistryEntries": obj{"Attributes": all}}, nil
}
