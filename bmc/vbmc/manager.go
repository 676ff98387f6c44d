package vbmc

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// firmwareVersion is the version of the virtual BMC's own firmware: of this
// service, as it has no other.
const firmwareVersion = "fettle-vbmc-1.0"

func (s *Server) chassisRoutes() []*resource {
	return []*resource{
		{pattern: root + "/Chassis", get: func(*call) (obj, error) {
			return collection(root+"/Chassis", "ChassisCollection", "Chassis", chassisPath), nil
		}},
		{pattern: chassisPath, priv: privComponents, get: s.chassisResource, patch: func(c *call) ([]*message, error) {
			set := s.identifySetters(c)
			set["AssetTag"] = s.setAssetTag
			return patch(c, s.chassisResource, set)
		}},
	}
}

func (s *Server) chassisResource(c *call) (obj, error) {
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	power, err := s.chassis.Power(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the power state: %w", err)
	}
	o := obj{
		"@odata.id": chassisPath, "@odata.type": "#Chassis.v1_25_1.Chassis", "Id": "1", "Name": "Chassis", "ChassisType": "RackMount",
		"Manufacturer": in.Manufacturer, "Model": in.Model, "SerialNumber": in.Serial, "SKU": in.SKU, "UUID": nullable(in.UUID), "PowerState": power, "Status": statusOK(), "AssetTag": s.assetTag(),
		"Power": link(chassisPath + "/Power"), "Thermal": link(chassisPath + "/Thermal"), "Sensors": link(sensorsPath),
		"ThermalSubsystem": link(thermalPath), "PowerSubsystem": link(powerPath), "EnvironmentMetrics": link(chassisPath + "/EnvironmentMetrics"),
		"PCIeDevices": link(chassisPath + "/PCIeDevices"),
		"Links":       obj{"ComputerSystems": links(systemPath), "ManagedBy": links(managerPath)},
	}
	s.optional(o, chassisPath, "Controls")
	led, err := s.chassis.Identify(c.ctx)
	if err == nil {
		o["LocationIndicatorActive"], o["IndicatorLED"] = led, indicator(led)
	} else if !errors.Is(err, ErrUnsupported) {
		return nil, fmt.Errorf("reading the identify light: %w", err)
	}
	return o, nil
}

func (s *Server) managerRoutes() []*resource {
	rs := []*resource{
		{pattern: root + "/Managers", get: func(*call) (obj, error) {
			return collection(root+"/Managers", "ManagerCollection", "Managers", managerPath), nil
		}},
		{pattern: managerPath, priv: privManager, get: s.manager, patch: func(c *call) ([]*message, error) {
			return patch(c, s.manager, map[string]setter{"DateTime": s.setClock})
		}},
		{pattern: managerPath + "/Actions/Manager.Reset", priv: privManager, post: s.resetManager},
	}
	rs = append(rs, s.logRoutes(managerPath+"/LogServices", "Log", "manager")...)
	return append(rs, s.logRoutes(systemPath+"/LogServices", "SEL", "system")...)
}

func (s *Server) manager(c *call) (obj, error) {
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.settleTasks()
	version := s.version("BMC", in)
	s.mu.Unlock()
	o := obj{
		"@odata.id": managerPath, "@odata.type": "#Manager.v1_19_1.Manager", "Id": "1", "Name": "Manager", "ManagerType": "BMC",
		"Manufacturer": "fettle", "Model": "Virtual BMC", "FirmwareVersion": version, "PowerState": "On", "Status": statusOK(),
		"UUID": nullable(in.UUID), "ServiceEntryPointUUID": nullable(in.UUID), "DateTime": s.clock().Format(time.RFC3339),
		"DateTimeLocalOffset": "+00:00",
		"NetworkProtocol":     link(managerPath + "/NetworkProtocol"), "LogServices": link(managerPath + "/LogServices"),
		"Links":            obj{"ManagerForServers": links(systemPath), "ManagerForChassis": links(chassisPath), "ManagerInChassis": link(chassisPath)},
		"SerialInterfaces": link(serialPath),
		"SerialConsole":    obj{"ServiceEnabled": true, "MaxConcurrentSessions": 1, "ConnectTypesSupported": []string{"IPMI"}},
		"CommandShell":     obj{"ServiceEnabled": false, "MaxConcurrentSessions": 0, "ConnectTypesSupported": []string{}},
		"Actions": obj{"#Manager.Reset": obj{"target": managerPath + "/Actions/Manager.Reset",
			"ResetType@Redfish.AllowableValues": []string{"GracefulRestart", "ForceRestart"}}},
	}
	s.optional(o, managerPath, "VirtualMedia", "EthernetInterfaces")
	return o, nil
}

// optional adds links to what is there only where the chassis has it.
func (s *Server) optional(o obj, base string, names ...string) {
	for _, n := range names {
		if res, _ := s.findOwn(base + "/" + n); res != nil {
			o[n] = link(base + "/" + n)
		}
	}
}

// event is one entry of a log.
type event struct {
	id       int
	at       time.Time
	severity string
	text     string
	sel      [6]byte  // as IPMI tells it: sensor type and number, event type, three bytes of data
	args     []string // of a trigger's message; nil: a log entry
	raw      []byte   // what IPMI added: the record behind its id and, where it has one, its time
}

// maxEvents bounds each log; the oldest go first.
const maxEvents = 500

// record adds to a log; sel is how the IPMI event log tells it: sensor type,
// offset, and up to two bytes of data (IPMI 2.0 table 42-3). s.mu is held.
func (s *Server) record(log, severity, text string, sel ...byte) {
	s.recordRaw(log, severity, text, selEvent(sel), nil)
}

// recordRaw is record; raw is what IPMI added. s.mu is held.
func (s *Server) recordRaw(log, severity, text string, sel [6]byte, raw []byte) {
	if log == "system" && s.trouble.LogFull && len(s.events[log]) >= maxEvents {
		return
	}
	f := s.shared()
	if log == "manager" { // nodes have one
		s = f
	}
	f.eventSeq++
	e := event{id: f.eventSeq, at: s.clock(), severity: severity, text: text, sel: sel, raw: raw}
	es := append(s.events[log], e)
	if len(es) > maxEvents {
		es = append([]event(nil), es[len(es)-maxEvents:]...)
	}
	s.events[log] = es
	s.publish(log, e)
	s.log.Info("virtual BMC", "log", log, "event", text)
}

func (s *Server) logEvent(log, severity, text string, sel ...byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(log, severity, text, sel...)
}

// clear empties a log; what is left is that it was. s.mu is held.
func (s *Server) clear(log, who string) {
	delete(s.events, log)
	if log == "system" {
		s.cleared = s.now()
	}
	s.record(log, "OK", fmt.Sprintf("Log cleared by %s.", who), 0x10, 2)
}

// logRoutes are a LogServices collection with one log in it.
func (s *Server) logRoutes(base, id, log string) []*resource {
	path := base + "/" + id
	entryType := "Event"
	if id == "SEL" {
		entryType = "SEL"
	}
	entry := func(e event) obj {
		n := strconv.Itoa(e.id)
		return obj{"@odata.id": path + "/Entries/" + n, "@odata.type": "#LogEntry.v1_16_1.LogEntry", "Id": n, "Name": "Log Entry " + n,
			"EntryType": entryType, "Severity": e.severity, "Created": e.at.UTC().Format(time.RFC3339), "Message": e.text,
			"MessageId": eventMessage, "MessageArgs": []string{e.text}}
	}
	return []*resource{
		{pattern: base, get: func(*call) (obj, error) {
			return collection(base, "LogServiceCollection", "Log Services", path), nil
		}},
		{pattern: path, get: func(*call) (obj, error) {
			return obj{"@odata.id": path, "@odata.type": "#LogService.v1_7_0.LogService", "Id": id, "Name": id,
				"ServiceEnabled": true, "MaxNumberOfRecords": maxEvents, "OverWritePolicy": "WrapsWhenFull", "Status": statusOK(),
				"Entries": link(path + "/Entries"), "LogEntryType": entryType,
				"Actions": obj{"#LogService.ClearLog": obj{"target": path + "/Actions/LogService.ClearLog"}}}, nil
		}},
		{pattern: path + "/Entries", get: func(*call) (obj, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			members := []obj{}
			for _, e := range s.events[log] {
				members = append(members, entry(e))
			}
			return obj{"@odata.id": path + "/Entries", "@odata.type": "#LogEntryCollection.LogEntryCollection", "Name": "Log Entries",
				"Members": members, "Members@odata.count": len(members)}, nil
		}},
		{pattern: path + "/Entries/{entry}", get: func(c *call) (obj, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, e := range s.events[log] {
				if strconv.Itoa(e.id) == c.vars["entry"] {
					return entry(e), nil
				}
			}
			return nil, msgNotFound(c.path)
		}},
		{pattern: path + "/Actions/LogService.ClearLog", priv: privManager, post: func(c *call) (reply, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.clear(log, c.who.name)
			return reply{status: http.StatusNoContent}, nil
		}},
	}
}
