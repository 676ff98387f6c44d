package vbmc

import (
	"fmt"
	"strings"
)

// routes are all resources of the service.
func (s *Server) routes() []*resource {
	if s.tree != nil {
		return s.twinRoutes()
	}
	rs := s.rootRoutes()
	rs = append(rs, s.sessionRoutes()...)
	rs = append(rs, s.accountRoutes()...)
	rs = append(rs, s.systemRoutes()...)
	rs = append(rs, s.hardwareRoutes()...)
	rs = append(rs, s.chassisRoutes()...)
	rs = append(rs, s.managerRoutes()...)
	rs = append(rs, s.sensorRoutes()...)
	rs = append(rs, s.biosRoutes()...)
	rs = append(rs, s.registryRoutes()...)
	rs = append(rs, s.networkRoutes()...)
	rs = append(rs, s.mediaRoutes()...)
	rs = append(rs, s.secureBootRoutes()...)
	rs = append(rs, s.bootOptionRoutes()...)
	rs = append(rs, s.volumeRoutes()...)
	rs = append(rs, s.controlRoutes()...)
	rs = append(rs, s.taskRoutes()...)
	rs = append(rs, s.updateRoutes()...)
	rs = append(rs, s.eventRoutes()...)
	rs = append(rs, s.telemetryRoutes()...)
	rs = append(rs, s.certificateRoutes()...)
	return rs
}

// rootRoutes are what can be read without a login (DSP0266 §6.2, §8.3, §8.4).
func (s *Server) rootRoutes() []*resource {
	return []*resource{
		{pattern: "/redfish", open: true, get: func(*call) (obj, error) { return obj{"v1": root + "/"}, nil }},
		{pattern: root, open: true, get: s.serviceRoot},
		{pattern: root + "/odata", open: true, get: s.odata},
		{pattern: root + "/$metadata", open: true, raw: func(*call) (string, string) { return "application/xml;charset=utf-8", metadata() }},
	}
}

// services are the members of the service root, with their schemas.
var services = []struct{ name, path, schema string }{
	{"Systems", root + "/Systems", "ComputerSystemCollection"},
	{"Chassis", root + "/Chassis", "ChassisCollection"},
	{"Managers", root + "/Managers", "ManagerCollection"},
	{"SessionService", root + "/SessionService", "SessionService"},
	{"AccountService", root + "/AccountService", "AccountService"},
	{"UpdateService", updatePath, "UpdateService"},
	{"Tasks", root + "/TaskService", "TaskService"},
	{"EventService", eventsPath, "EventService"},
	{"TelemetryService", telemetryPath, "TelemetryService"},
	{"CertificateService", certificatesPath, "CertificateService"},
	{"Registries", registriesPath, "MessageRegistryFileCollection"},
}

func (s *Server) serviceRoot(c *call) (obj, error) {
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	o := obj{
		"@odata.id": root + "/", "@odata.type": "#ServiceRoot.v1_17_0.ServiceRoot", "Id": "RootService", "Name": "Root Service",
		"RedfishVersion": "1.18.0", "UUID": nullable(in.UUID), "Vendor": "fettle", "Product": "fettle virtual BMC",
		"Links": obj{"Sessions": link(sessionsPath), "ManagerProvidingService": link(managerPath)},
		"ProtocolFeaturesSupported": obj{
			"ExpandQuery": obj{"ExpandAll": true, "NoLinks": true, "Links": true, "Levels": true, "MaxLevels": maxLevels},
			"SelectQuery": true, "FilterQuery": false, "OnlyMemberQuery": false, "ExcerptQuery": false,
			"DeepOperations": obj{"DeepPATCH": false, "DeepPOST": false},
		},
	}
	for _, v := range services {
		if res, _ := s.find(v.path); res != nil {
			o[v.name] = link(v.path)
		}
	}
	return o, nil
}

// odata is the OData service document (DSP0266 §8.4).
func (s *Server) odata(*call) (obj, error) {
	value := []obj{{"name": "Service", "kind": "Singleton", "url": root + "/"}, {"name": "Sessions", "kind": "Singleton", "url": sessionsPath}}
	for _, v := range services {
		if res, _ := s.find(v.path); res == nil {
			continue
		}
		value = append(value, obj{"name": v.name, "kind": "Singleton", "url": v.path})
	}
	return obj{"@odata.context": root + "/$metadata", "value": value}, nil
}

// schemas are those of the resources, for the metadata document.
var schemas = []string{
	"ServiceRoot.v1_17_0", "SessionService.v1_1_9", "SessionCollection", "Session.v1_7_1", "AccountService.v1_15_1",
	"ManagerAccountCollection", "ManagerAccount.v1_12_1", "RoleCollection", "Role.v1_3_2", "ComputerSystemCollection",
	"ComputerSystem.v1_22_0", "ActionInfo.v1_4_2", "ProcessorCollection", "Processor.v1_20_0", "MemoryCollection", "Memory.v1_20_0",
	"EthernetInterfaceCollection", "EthernetInterface.v1_12_1", "StorageCollection", "Storage.v1_15_1", "Drive.v1_19_0", "VolumeCollection",
	"SimpleStorageCollection", "SimpleStorage.v1_3_2", "PCIeDeviceCollection", "PCIeDevice.v1_14_0", "PCIeFunctionCollection",
	"PCIeFunction.v1_5_0", "ChassisCollection", "Chassis.v1_25_1", "SensorCollection", "Sensor.v1_9_0",
	"ThermalSubsystem.v1_3_2", "ThermalMetrics.v1_3_1", "FanCollection", "Fan.v1_5_2", "PowerSubsystem.v1_1_2", "PowerSupplyCollection",
	"PowerSupply.v1_6_0", "EnvironmentMetrics.v1_3_1", "Power.v1_7_3", "Thermal.v1_7_3", "ManagerCollection",
	"Manager.v1_19_1", "ManagerNetworkProtocol.v1_10_1", "LogServiceCollection", "LogService.v1_7_0", "LogEntryCollection",
	"LogEntry.v1_16_1", "UpdateService.v1_14_0", "SoftwareInventoryCollection", "SoftwareInventory.v1_10_2", "Message.v1_1_2",
	"Bios.v1_2_1", "Settings.v1_3_5", "MessageRegistryFileCollection", "MessageRegistryFile.v1_1_5", "AttributeRegistry.v1_3_8",
	"MessageRegistry.v1_6_3", "VirtualMediaCollection", "VirtualMedia.v1_6_4", "SecureBoot.v1_1_2", "SecureBootDatabaseCollection", "SecureBootDatabase.v1_0_3",
	"CertificateCollection", "Certificate.v1_8_2", "SignatureCollection", "BootOptionCollection", "BootOption.v1_0_6", "Volume.v1_10_0", "ControlCollection", "Control.v1_5_0",
	"TaskService.v1_2_1", "TaskCollection", "Task.v1_7_4", "EventService.v1_10_2", "EventDestinationCollection", "EventDestination.v1_14_1", "Event.v1_10_1",
	"TelemetryService.v1_3_4", "MetricReportCollection", "MetricReport.v1_5_1", "MetricReportDefinitionCollection", "MetricReportDefinition.v1_4_6",
	"CertificateService.v1_0_5", "CertificateLocations.v1_0_4", "SerialInterfaceCollection", "SerialInterface.v1_2_0",
}

// metadata is the OData metadata document (DSP0266 §8.3): references to the
// published schemas.
func metadata() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">` + "\n")
	for _, v := range schemas {
		name, _, versioned := strings.Cut(v, ".")
		fmt.Fprintf(&b, `  <edmx:Reference Uri="http://redfish.dmtf.org/schemas/v1/%s_v1.xml">`+"\n", name)
		fmt.Fprintf(&b, `    <edmx:Include Namespace="%s"/>`+"\n", name)
		if versioned {
			fmt.Fprintf(&b, `    <edmx:Include Namespace="%s"/>`+"\n", v)
		}
		b.WriteString("  </edmx:Reference>\n")
	}
	b.WriteString(`  <edmx:DataServices>
    <Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">
      <EntityContainer Name="Service" Extends="ServiceRoot.v1_17_0.ServiceContainer"/>
    </Schema>
  </edmx:DataServices>
</edmx:Edmx>
`)
	return b.String()
}
