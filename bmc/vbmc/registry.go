package vbmc

import (
	"fmt"
	"strings"
)

const (
	registriesPath = root + "/Registries"
	schemasPath    = root + "/JsonSchemas"
	ownRegistryID  = "FettleVirtualBMC.1.0.0"
	// baseRegistry is DMTF's, by reference: its text is theirs.
	baseRegistry = "Base.1.18.0"
)

// registryRoutes are the registries (DSP0266 §9.5.11): of the BIOS attributes,
// of this service's own messages, and, by reference, DMTF's Base.
func (s *Server) registryRoutes() []*resource {
	file := func(id, reg string, loc obj) *resource {
		path := registriesPath + "/" + id
		return &resource{pattern: path, get: func(*call) (obj, error) {
			return obj{"@odata.id": path, "@odata.type": "#MessageRegistryFile.v1_1_5.MessageRegistryFile", "Id": id, "Name": id + " Registry File",
				"Registry": reg, "Languages": []string{"en"}, "Location": []obj{loc}}, nil
		}}
	}
	own := registriesPath + "/" + ownRegistryID + ".json"
	return []*resource{
		{pattern: registriesPath, get: func(*call) (obj, error) {
			return collection(registriesPath, "MessageRegistryFileCollection", "Registry File Collection",
				registriesPath+"/"+biosRegistry, registriesPath+"/"+baseRegistry, registriesPath+"/"+ownRegistryID), nil
		}},
		file(biosRegistry, biosRegistry, obj{"Language": "en", "Uri": registriesPath + "/" + biosRegistry + ".json"}),
		{pattern: registriesPath + "/" + biosRegistry + ".json", get: s.registryResource},
		file(baseRegistry, strings.TrimSuffix(registry, "."), obj{"Language": "en", "PublicationUri": "https://redfish.dmtf.org/registries/" + baseRegistry + ".json"}),
		file(ownRegistryID, strings.TrimSuffix(ownRegistry, "."), obj{"Language": "en", "Uri": own}),
		{pattern: own, get: func(*call) (obj, error) {
			return obj{"@odata.id": own, "@odata.type": "#MessageRegistry.v1_6_3.MessageRegistry", "Id": ownRegistryID, "Name": "fettle virtual BMC",
				"Description": "Messages of this virtual BMC that DMTF's registries have no words for.", "Language": "en", "OwningEntity": "fettle",
				"RegistryPrefix": "FettleVirtualBMC", "RegistryVersion": "1.0.0", "Messages": registryMessages()}, nil
		}},
	}
}

// schemas are those of the resources, for the metadata document and the
// collection of schemas.
var schemas = []string{
	"ServiceRoot.v1_17_0", "SessionService.v1_1_9", "SessionCollection", "Session.v1_7_1", "AccountService.v1_15_1",
	"ManagerAccountCollection", "ManagerAccount.v1_12_1", "RoleCollection", "Role.v1_3_2", "PrivilegeRegistry.v1_1_5", "ComputerSystemCollection",
	"ComputerSystem.v1_22_0", "ActionInfo.v1_4_2", "ProcessorCollection", "Processor.v1_20_0", "MemoryCollection", "Memory.v1_20_0",
	"EthernetInterfaceCollection", "EthernetInterface.v1_12_1", "StorageCollection", "Storage.v1_15_1", "StorageControllerCollection",
	"StorageController.v1_7_3", "Drive.v1_19_0", "VolumeCollection",
	"SimpleStorageCollection", "SimpleStorage.v1_3_2", "PCIeDeviceCollection", "PCIeDevice.v1_14_0", "PCIeFunctionCollection",
	"PCIeFunction.v1_5_0", "ChassisCollection", "Chassis.v1_25_1", "SensorCollection", "Sensor.v1_9_0",
	"ThermalSubsystem.v1_3_2", "ThermalMetrics.v1_3_1", "FanCollection", "Fan.v1_5_2", "PowerSubsystem.v1_1_2", "PowerSupplyCollection",
	"PowerSupply.v1_6_0", "EnvironmentMetrics.v1_3_1", "Power.v1_7_3", "Thermal.v1_7_3", "ManagerCollection",
	"Manager.v1_19_1", "ManagerNetworkProtocol.v1_10_1", "LogServiceCollection", "LogService.v1_7_0", "LogEntryCollection",
	"LogEntry.v1_16_1", "UpdateService.v1_14_0", "SoftwareInventoryCollection", "SoftwareInventory.v1_10_2", "Message.v1_1_2",
	"Bios.v1_2_1", "Settings.v1_3_5", "MessageRegistryFileCollection", "MessageRegistryFile.v1_1_5", "AttributeRegistry.v1_3_8",
	"MessageRegistry.v1_6_3", "JsonSchemaFileCollection", "JsonSchemaFile.v1_1_5",
	"VirtualMediaCollection", "VirtualMedia.v1_6_4", "SecureBoot.v1_1_2", "SecureBootDatabaseCollection", "SecureBootDatabase.v1_0_3",
	"CertificateCollection", "Certificate.v1_8_2", "SignatureCollection", "Signature.v1_0_3", "BootOptionCollection", "BootOption.v1_0_6", "Volume.v1_10_0", "ControlCollection", "Control.v1_5_0",
	"TaskService.v1_2_1", "TaskCollection", "Task.v1_7_4", "EventService.v1_10_2", "EventDestinationCollection", "EventDestination.v1_14_1", "Event.v1_10_1",
	"TelemetryService.v1_3_4", "MetricReportCollection", "MetricReport.v1_5_1", "MetricReportDefinitionCollection", "MetricReportDefinition.v1_4_6",
	"TriggersCollection", "Triggers.v1_4_0",
	"CertificateService.v1_0_5", "CertificateLocations.v1_0_4", "SerialInterfaceCollection", "SerialInterface.v1_2_0",
}

// publication is where schemas of a family are published: volumes are SNIA's.
func publication(schema string) string {
	if family, _, _ := strings.Cut(schema, "."); family == "Volume" || family == "VolumeCollection" {
		return "http://redfish.dmtf.org/schemas/swordfish/v1/"
	}
	return "http://redfish.dmtf.org/schemas/v1/"
}

// schemaURI is where the JSON schema of an @odata.type is published.
func schemaURI(odataType string) string {
	name := strings.TrimPrefix(odataType, "#")
	if i := strings.LastIndex(name, "."); i > 0 {
		name = name[:i]
	}
	return publication(name) + name + ".json"
}

// schemaRoutes are JsonSchemas (DSP0266 §9.5.11.2): where the schemas of this
// service's resources are published.
func (s *Server) schemaRoutes() []*resource {
	return []*resource{
		{pattern: schemasPath, get: func(*call) (obj, error) {
			paths := make([]string, len(schemas))
			for i, name := range schemas {
				paths[i] = schemasPath + "/" + name
			}
			return collection(schemasPath, "JsonSchemaFileCollection", "JSON Schemas", paths...), nil
		}},
		{pattern: schemasPath + "/{schema}", get: func(c *call) (obj, error) {
			for _, name := range schemas {
				if name == c.vars["schema"] {
					family, _, _ := strings.Cut(name, ".")
					typ := "#" + name + "." + family
					return obj{"@odata.id": c.path, "@odata.type": "#JsonSchemaFile.v1_1_5.JsonSchemaFile", "Id": name, "Name": family + " Schema File",
						"Schema": typ, "Languages": []string{"en"}, "Location": []obj{{"Language": "en", "PublicationUri": schemaURI(typ)}}}, nil
				}
			}
			return nil, msgNotFound(c.path)
		}},
	}
}

// metadata is the OData metadata document (DSP0266 §8.3): references to the
// published schemas.
func metadata() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">` + "\n" +
		`  <edmx:Reference Uri="http://redfish.dmtf.org/schemas/v1/RedfishExtensions_v1.xml">` + "\n" +
		`    <edmx:Include Namespace="RedfishExtensions.v1_0_0" Alias="Redfish"/>` + "\n  </edmx:Reference>\n")
	for _, v := range schemas {
		name, _, versioned := strings.Cut(v, ".")
		fmt.Fprintf(&b, `  <edmx:Reference Uri="%s%s_v1.xml">`+"\n", publication(name), name)
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
