package vbmc

import (
	"regexp"
	"strings"
	"testing"
)

// facts are what our resources need to know of a schema that the crawled tray
// does not bring: looked up in the DMTF's and SNIA's published CSDL on
// 2026-11-22, by hand. Properties are "Name Type flags"; flags are required,
// solid (not nullable), write, link (navigation), excerpt=, copy=.
type facts struct {
	name    string // qualified, with the version that we use
	base    string
	uri     string
	methods []string
	props   []string
}

var (
	resourceBase   = "Resource.v1_0_0.Resource"
	collectionBase = "Resource.v1_0_0.ResourceCollection"
)

var otherSchemas = []facts{
	{"BootOption.v1_0_6.BootOption", resourceBase, "/redfish/v1/Systems/{ComputerSystemId}/BootOptions/{BootOptionId}", []string{"PATCH", "PUT", "DELETE"}, []string{
		"BootOptionReference Edm.String required", "DisplayName Edm.String", "BootOptionEnabled Edm.Boolean write", "UefiDevicePath Edm.String",
		"Alias ComputerSystem.BootSource", "RelatedItem Collection(Resource.Item) link"}},
	{"BootOptionCollection.BootOptionCollection", collectionBase, "/redfish/v1/Systems/{ComputerSystemId}/BootOptions", []string{"POST"}, []string{
		"Members Collection(BootOption.BootOption) required link"}},
	{"Control.v1_5_0.Control", resourceBase, "/redfish/v1/Chassis/{ChassisId}/Controls/{ControlId}", []string{"PATCH", "PUT"}, []string{
		"ControlType Control.v1_0_0.ControlType", "SetPointType Control.v1_0_0.SetPointType", "DataSourceUri Edm.String only", "Status Resource.Status solid",
		"ControlMode Control.v1_0_0.ControlMode write excerpt=", "SetPoint Edm.Decimal write excerpt=Single,SingleLoop,Node", "SettingMin Edm.Decimal write excerpt=Range",
		"SettingMax Edm.Decimal write excerpt=Range", "SetPointUnits Edm.String excerpt=Node", "AllowableMax Edm.Decimal excerpt=", "AllowableMin Edm.Decimal excerpt=",
		"PhysicalContext PhysicalContext.PhysicalContext", "Reading Edm.Decimal only", "Sensor Sensor.Sensor link copy=", "RelatedItem Collection(Resource.Item) link"}},
	{"ControlCollection.ControlCollection", collectionBase, "/redfish/v1/Chassis/{ChassisId}/Controls", []string{}, []string{"Members Collection(Control.Control) required link"}},
	{"SecureBoot.v1_1_2.SecureBoot", resourceBase, "/redfish/v1/Systems/{ComputerSystemId}/SecureBoot", []string{"PATCH", "PUT"}, []string{
		"SecureBootEnable Edm.Boolean write", "SecureBootCurrentBoot SecureBoot.v1_0_0.SecureBootCurrentBootType", "SecureBootMode SecureBoot.v1_0_0.SecureBootModeType",
		"SecureBootDatabases SecureBootDatabaseCollection.SecureBootDatabaseCollection solid link", "Actions SecureBoot.v1_0_0.Actions solid"}},
	{"SecureBoot.v1_0_0.Actions", "", "", nil, nil},
	{"SerialInterface.v1_2_0.SerialInterface", resourceBase, "/redfish/v1/Managers/{ManagerId}/SerialInterfaces/{SerialInterfaceId}", []string{"PATCH", "PUT"}, []string{
		"InterfaceEnabled Edm.Boolean write", "SignalType SerialInterface.v1_0_0.SignalType solid", "BitRate SerialInterface.v1_0_0.BitRate solid write",
		"Parity SerialInterface.v1_0_0.Parity solid write", "DataBits SerialInterface.v1_0_0.DataBits solid write", "StopBits SerialInterface.v1_0_0.StopBits solid write",
		"FlowControl SerialInterface.v1_0_0.FlowControl solid write"}},
	{"SerialInterfaceCollection.SerialInterfaceCollection", collectionBase, "/redfish/v1/Managers/{ManagerId}/SerialInterfaces", []string{}, []string{
		"Members Collection(SerialInterface.SerialInterface) required link"}},
	{"SimpleStorage.v1_3_2.SimpleStorage", resourceBase, "/redfish/v1/Systems/{ComputerSystemId}/SimpleStorage/{SimpleStorageId}", []string{}, []string{
		"UefiDevicePath Edm.String", "Devices Collection(SimpleStorage.v1_1_0.Device) solid", "Status Resource.Status solid"}},
	{"SimpleStorage.v1_1_0.Device", "", "", nil, []string{
		"Name Edm.String required solid", "Status Resource.Status solid", "Manufacturer Edm.String", "Model Edm.String", "CapacityBytes Edm.Int64"}},
	{"SimpleStorageCollection.SimpleStorageCollection", collectionBase, "/redfish/v1/Systems/{ComputerSystemId}/SimpleStorage", []string{}, []string{
		"Members Collection(SimpleStorage.SimpleStorage) required link"}},
	{"Volume.v1_10_0.Volume", resourceBase, "/redfish/v1/Systems/{ComputerSystemId}/Storage/{StorageId}/Volumes/{VolumeId}", []string{"PATCH", "PUT", "DELETE"}, []string{
		"Status Resource.Status solid", "CapacityBytes Edm.Int64 write", "Encrypted Edm.Boolean write", "RAIDType Volume.RAIDType write", "Links Volume.v1_10_0.Links solid"}},
	{"Volume.v1_10_0.Links", "Resource.Links", "", nil, []string{"Drives Collection(Drive.Drive) link"}},
	{"VolumeCollection.VolumeCollection", collectionBase, "/redfish/v1/Systems/{ComputerSystemId}/Storage/{StorageId}/Volumes", []string{"POST"}, []string{
		"Members Collection(Volume.Volume) required link"}},
	{"Schedule.v1_2_0.Schedule", "", "", nil, []string{"RecurrenceInterval Edm.Duration write", "InitialStartTime Edm.DateTimeOffset write"}},
	{"PrivilegeRegistry.v1_1_5.PrivilegeRegistry", resourceBase, "", []string{}, []string{
		"PrivilegesUsed Collection(Privileges.PrivilegeType) solid", "OEMPrivilegesUsed Collection(Edm.String) solid", "Mappings Collection(PrivilegeRegistry.v1_0_0.Mapping) solid"}},
	{"PrivilegeRegistry.v1_0_0.Mapping", "", "", nil, []string{"Entity Edm.String solid", "OperationMap PrivilegeRegistry.v1_0_0.OperationMap solid",
		"PropertyOverrides Collection(PrivilegeRegistry.v1_0_0.Target_PrivilegeMap) solid", "SubordinateOverrides Collection(PrivilegeRegistry.v1_0_0.Target_PrivilegeMap) solid"}},
	{"PrivilegeRegistry.v1_0_0.Target_PrivilegeMap", "", "", nil, []string{"Targets Collection(Edm.String)", "OperationMap PrivilegeRegistry.v1_0_0.OperationMap solid"}},
	{"PrivilegeRegistry.v1_0_0.OperationMap", "", "", nil, []string{
		"GET Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid", "HEAD Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid",
		"PATCH Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid", "POST Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid",
		"PUT Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid", "DELETE Collection(PrivilegeRegistry.v1_0_0.OperationPrivilege) solid"}},
	{"PrivilegeRegistry.v1_0_0.OperationPrivilege", "", "", nil, []string{"Privilege Collection(Edm.String) solid"}},
}

// otherTypes are the enumerations of those schemas, and their actions.
var otherTypes = map[string]string{
	"Control.v1_0_0.ControlType":                  "Temperature Power Frequency",
	"Control.v1_0_0.SetPointType":                 "Single Range Monitor",
	"Control.v1_0_0.ControlMode":                  "Automatic Override Manual Disabled",
	"SecureBoot.v1_0_0.SecureBootCurrentBootType": "Enabled Disabled",
	"SecureBoot.v1_0_0.SecureBootModeType":        "SetupMode UserMode AuditMode DeployedMode",
	"SerialInterface.v1_0_0.SignalType":           "Rs232 Rs485",
	"SerialInterface.v1_0_0.BitRate":              "1200 2400 4800 9600 19200 38400 57600 115200 230400",
	"SerialInterface.v1_0_0.Parity":               "None Even Odd Mark Space",
	"SerialInterface.v1_0_0.DataBits":             "5 6 7 8",
	"SerialInterface.v1_0_0.StopBits":             "1 2",
	"SerialInterface.v1_0_0.FlowControl":          "None Software Hardware",
	"Volume.RAIDType":                             "RAID0 RAID1 RAID3 RAID4 RAID5 RAID6 RAID10 RAID01 RAID6TP RAID1E RAID50 RAID60 RAID00 RAID10E RAID1Triple RAID10Triple None",
}

var otherActions = []string{"SecureBoot.ResetKeys", "Volume.Initialize", "Volume.CheckConsistency"}

func (f facts) add(t *testing.T, c *csdl) {
	t.Helper()
	if c.objects[f.name] != nil {
		t.Errorf("the crawled schemas have %s: take it out of the table", f.name)
	}
	o := &objectDef{base: f.base, props: map[string]*propertyDef{}, methods: f.methods}
	family, v := version(f.name)
	if v != [3]int{} && strings.HasSuffix(family, "."+strings.Split(family, ".")[0]) { // the abstract type between
		c.objects[family] = &objectDef{base: f.base, props: map[string]*propertyDef{}}
		o.base = family
	}
	if f.uri != "" {
		o.uris = []*regexp.Regexp{regexp.MustCompile("^" + uriVariable.ReplaceAllLiteralString(f.uri, idText) + "/?$")}
	}
	for _, line := range f.props {
		w := strings.Fields(line)
		p := &propertyDef{null: true, permission: "Read"}
		p.typ, p.array = collectionType(w[1])
		for _, flag := range w[2:] {
			k, val, _ := strings.Cut(flag, "=")
			switch k {
			case "required":
				p.required = true
			case "solid":
				p.null = false
			case "write":
				p.permission = "ReadWrite"
			case "link":
				p.navigation = true
			case "only":
				p.copyOnly, p.excerpts = true, new(string)
			case "excerpt":
				p.excerpts = &val
			case "copy":
				p.excerptCopy = &val
			default:
				t.Fatalf("%s %s: unknown flag %q", f.name, line, flag)
			}
		}
		o.props[w[0]] = p
	}
	if f.base == collectionBase {
		zero := 0.0
		o.props["Members@odata.count"] = &propertyDef{typ: "Edm.Int64", required: true, min: &zero}
	}
	c.objects[f.name] = o
	for name, values := range otherTypes {
		d := &typeDef{base: "Edm.String"}
		for _, v := range strings.Fields(values) {
			d.values = append(d.values, enumValue{name: v})
		}
		c.types[name] = d
	}
	for _, a := range otherActions {
		c.actions[a] = actionDef{}
	}
}
