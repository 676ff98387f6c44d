package vbmc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"
)

const (
	systemPath  = root + "/Systems/1"
	chassisPath = root + "/Chassis/1"
	managerPath = root + "/Managers/1"
)

// resetTypes are the values of ResetType that the service offers.
var resetTypes = []ResetType{ResetOn, ResetForceOff, ResetGracefulShutdown, ResetGracefulRestart, ResetForceRestart,
	ResetForceOn, ResetPowerCycle, ResetPushPowerButton, ResetNmi}

// bootTargets are the values of BootSourceOverrideTarget that it offers.
var bootTargets = []BootTarget{BootNone, BootPxe, BootHdd, BootCd, BootBiosSetup, BootUefiHTTP}

func (s *Server) systemRoutes() []*resource {
	return []*resource{
		{pattern: root + "/Systems", get: func(*call) (obj, error) {
			return collection(root+"/Systems", "ComputerSystemCollection", "Systems", systemPath), nil
		}},
		{pattern: systemPath, priv: privComponents, get: s.system, patch: s.patchSystem},
		{pattern: systemPath + "/Actions/ComputerSystem.Reset", priv: privComponents, post: s.reset},
		{pattern: systemPath + "/ResetActionInfo", get: s.resetInfo},
	}
}

func (s *Server) system(c *call) (obj, error) {
	in, err := s.chassis.Info(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the chassis: %w", err)
	}
	power, err := s.chassis.Power(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the power state: %w", err)
	}
	boot, err := s.boot(c.ctx)
	if err != nil {
		return nil, err
	}
	led, err := s.chassis.Identify(c.ctx)
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return nil, fmt.Errorf("reading the identify light: %w", err)
	}
	order, err2 := s.bootOrder(c.ctx, in)
	if err2 != nil {
		return nil, err2
	}
	s.mu.Lock()
	s.settleTasks()
	version, restore, host := s.version("BIOS", in), restorePolicies[s.ipmi.chassis.restore], s.systemName(in.Name)
	s.mu.Unlock()
	name := in.Name
	if name == "" {
		name = "System"
	}
	o := obj{
		"@odata.id": systemPath, "@odata.type": "#ComputerSystem.v1_22_0.ComputerSystem",
		"Id": "1", "Name": name, "SystemType": "Physical", "HostName": host, "PowerRestorePolicy": restore,
		"Manufacturer": in.Manufacturer, "Model": in.Model, "SerialNumber": in.Serial, "SKU": in.SKU,
		"UUID": nullable(in.UUID), "BiosVersion": version, "PowerState": power, "Status": statusOK(),
		"ProcessorSummary": obj{"Count": 1, "LogicalProcessorCount": in.CPUs, "Model": in.CPUModel, "Status": statusOK()},
		"MemorySummary":    obj{"TotalSystemMemoryGiB": gib(in.MemoryMiB), "Status": statusOK()},
		"Boot": obj{
			"BootSourceOverrideEnabled":                         boot.Enabled,
			"BootSourceOverrideEnabled@Redfish.AllowableValues": []string{"Disabled", "Once", "Continuous"},
			"BootSourceOverrideTarget":                          boot.Target,
			"BootSourceOverrideTarget@Redfish.AllowableValues":  bootTargets,
			"BootSourceOverrideMode":                            boot.Mode,
			"BootSourceOverrideMode@Redfish.AllowableValues":    []string{"Legacy", "UEFI"},
			"BootOrder": order, "BootOptions": link(bootOptionsPath),
		},
		"Bios": link(biosPath), "Processors": link(systemPath + "/Processors"), "Memory": link(systemPath + "/Memory"),
		"EthernetInterfaces": link(systemPath + "/EthernetInterfaces"), "Storage": link(systemPath + "/Storage"),
		"SimpleStorage": link(systemPath + "/SimpleStorage"), "LogServices": link(systemPath + "/LogServices"),
		"PCIeDevices": links(s.pcieDevices(in)...),
		"Links":       obj{"ManagedBy": links(managerPath), "Chassis": links(chassisPath)},
		"Actions": obj{"#ComputerSystem.Reset": obj{
			"target":                            systemPath + "/Actions/ComputerSystem.Reset",
			"@Redfish.ActionInfo":               systemPath + "/ResetActionInfo",
			"ResetType@Redfish.AllowableValues": resetTypes,
		}},
	}
	s.optional(o, systemPath, "SecureBoot", "VirtualMedia")
	if err == nil {
		o["LocationIndicatorActive"] = led
		o["IndicatorLED"] = indicator(led)
	}
	if lr, ok := s.chassis.(LastResetter); ok {
		if t, err := lr.LastReset(c.ctx); err == nil && !t.IsZero() {
			o["LastResetTime"] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	return o, nil
}

func (s *Server) boot(ctx context.Context) (Boot, error) {
	b, err := s.chassis.Boot(ctx)
	if err != nil {
		return b, fmt.Errorf("reading the boot override: %w", err)
	}
	if b.Enabled == "" {
		b.Enabled = "Disabled"
	}
	if b.Target == "" {
		b.Target = BootNone
	}
	if b.Mode == "" {
		b.Mode = "UEFI"
	}
	return b, nil
}

func (s *Server) resetInfo(*call) (obj, error) {
	return obj{
		"@odata.id": systemPath + "/ResetActionInfo", "@odata.type": "#ActionInfo.v1_4_2.ActionInfo",
		"Id": "ResetActionInfo", "Name": "Reset Action Info",
		"Parameters": []obj{{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": resetTypes}},
	}, nil
}

// reset is the action ComputerSystem.Reset (DSP0268).
func (s *Server) reset(c *call) (reply, error) {
	v, ok := c.body["ResetType"]
	if !ok {
		return reply{}, msgActionParamMissing("ComputerSystem.Reset", "ResetType")
	}
	t, ok := v.(string)
	if !ok || !slices.Contains(resetTypes, ResetType(t)) {
		return reply{}, msgActionParam("ComputerSystem.Reset", "ResetType", v)
	}
	// The action goes on when the client goes away.
	err := s.chassis.Reset(context.WithoutCancel(c.ctx), ResetType(t))
	if errors.Is(err, ErrUnsupported) {
		return reply{}, msgActionParam("ComputerSystem.Reset", "ResetType", v)
	}
	if err != nil {
		return reply{}, fmt.Errorf("reset %s: %w", t, err)
	}
	s.starts(ResetType(t))
	s.logEvent("system", "OK", fmt.Sprintf("Reset %s by %s.", t, c.who.name), selReset[ResetType(t)]...)
	return reply{status: http.StatusNoContent}, nil
}

func (s *Server) patchSystem(c *call) ([]*message, error) {
	set := s.identifySetters(c)
	set["PowerRestorePolicy"] = func(v any) (func() error, error) {
		n := slices.Index(restorePolicies, fmt.Sprint(v))
		if n < 0 {
			return nil, msgNotInList("PowerRestorePolicy", v)
		}
		return func() error { s.mu.Lock(); defer s.mu.Unlock(); s.ipmi.chassis.restore = byte(n); return nil }, nil
	}
	boot, agree, err := s.bootSetters(c)
	if err != nil {
		return nil, err
	}
	maps.Copy(set, boot)
	return patch(c, s.system, set, agree)
}

// bootSetters write Boot: what is not given stays as it is. A target given alone
// while the override is disabled means Once, as iDRAC has it. agree is for patch.
func (s *Server) bootSetters(c *call) (set map[string]setter, agree func() error, err error) {
	b, err := s.boot(c.ctx)
	if err != nil {
		return nil, nil, err
	}
	in, _ := c.body["Boot"].(obj)
	_, enabledGiven := in["BootSourceOverrideEnabled"]
	stored, given := false, false
	store := func() error {
		if stored { // all of it, by the first
			return nil
		}
		stored = true
		err := s.chassis.SetBoot(c.ctx, b)
		if errors.Is(err, ErrUnsupported) {
			return msgNotInList("Boot/BootSourceOverrideTarget", string(b.Target))
		}
		if err != nil {
			return fmt.Errorf("setting the boot override: %w", err)
		}
		s.logEvent("system", "OK", fmt.Sprintf("Boot override %s %s %s by %s.", b.Enabled, b.Target, b.Mode, c.who.name))
		return nil
	}
	word := func(name string, allowed []string, take func(string)) setter {
		full := "Boot/" + name
		return func(v any) (func() error, error) {
			t, ok := v.(string)
			if !ok {
				return nil, msgPropertyType(full, v)
			}
			if !slices.Contains(allowed, t) {
				return nil, msgNotInList(full, v)
			}
			take(t)
			given = true
			return store, nil
		}
	}
	var targets []string
	for _, t := range bootTargets {
		targets = append(targets, string(t))
	}
	return map[string]setter{
			"Boot/BootOrder":                 func(v any) (func() error, error) { return s.orderSetter(c, v) },
			"Boot/BootSourceOverrideEnabled": word("BootSourceOverrideEnabled", []string{"Disabled", "Once", "Continuous"}, func(t string) { b.Enabled = t }),
			"Boot/BootSourceOverrideMode":    word("BootSourceOverrideMode", []string{"Legacy", "UEFI"}, func(t string) { b.Mode = t }),
			"Boot/BootSourceOverrideTarget": word("BootSourceOverrideTarget", targets, func(t string) {
				b.Target = BootTarget(t)
				if !enabledGiven && b.Enabled == "Disabled" && b.Target != BootNone {
					b.Enabled = "Once"
				}
			}),
		}, func() error {
			if given && b.Target == BootUefiHTTP && b.Mode == "Legacy" && b.Enabled != "Disabled" {
				return msgConflict("Boot/BootSourceOverrideTarget", "Boot/BootSourceOverrideMode")
			}
			if b.Enabled == "Disabled" {
				b.Target = BootNone
			}
			return nil
		}, nil
}

// identifySetters write the identify light, by its new name and its old one.
func (s *Server) identifySetters(c *call) map[string]setter {
	set := func(on bool) error {
		err := s.chassis.SetIdentify(c.ctx, on)
		if errors.Is(err, ErrUnsupported) {
			return msgReadOnly("LocationIndicatorActive")
		}
		if err != nil {
			return fmt.Errorf("setting the identify light: %w", err)
		}
		return nil
	}
	return map[string]setter{
		"LocationIndicatorActive": boolSetter("LocationIndicatorActive", set),
		"IndicatorLED": func(v any) (func() error, error) {
			switch v {
			case "Lit", "Blinking":
				return func() error { return set(true) }, nil
			case "Off":
				return func() error { return set(false) }, nil
			}
			if _, ok := v.(string); !ok {
				return nil, msgPropertyType("IndicatorLED", v)
			}
			return nil, msgNotInList("IndicatorLED", v)
		},
	}
}

func indicator(on bool) string {
	if on {
		return "Blinking"
	}
	return "Off"
}

func statusOK() obj { return obj{"State": "Enabled", "Health": "OK"} }

// nullable is nil for what is unknown.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// gib rounds to three decimals.
func gib(mib int) float64 { return math.Round(float64(mib)/1024*1000) / 1000 }
