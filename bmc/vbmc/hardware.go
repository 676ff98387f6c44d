package vbmc

import (
	"fmt"
	"strings"
)

// hardwareRoutes are what a system is made of: processors, memory, network
// interfaces, storage, PCIe devices.
func (s *Server) hardwareRoutes() []*resource {
	list := func(path, kind, name string, members func(Info) []string) *resource {
		return &resource{pattern: path, get: func(c *call) (obj, error) {
			in, err := s.info(c)
			if err != nil {
				return nil, err
			}
			ids := members(in)
			paths := make([]string, len(ids))
			for i, id := range ids {
				paths[i] = c.path + "/" + id
			}
			return collection(c.path, kind, name, paths...), nil
		}}
	}
	one := func(pattern string, get func(c *call, in Info) obj) *resource {
		return &resource{pattern: pattern, get: func(c *call) (obj, error) {
			in, err := s.info(c)
			if err != nil {
				return nil, err
			}
			o := get(c, in)
			if o == nil {
				return nil, msgNotFound(c.path)
			}
			o["@odata.id"] = c.path
			return o, nil
		}}
	}
	storage := systemPath + "/Storage"
	return []*resource{
		list(systemPath+"/Processors", "ProcessorCollection", "Processors", func(in Info) []string {
			ids := []string{"CPU1"}
			for i, g := range in.GPUs {
				ids = append(ids, idOf(g.ID, i))
			}
			return ids
		}),
		one(systemPath+"/Processors/{id}", processor),
		{pattern: systemPath + "/Processors/{id}/EnvironmentMetrics", get: s.gpuMetrics},
		list(systemPath+"/Memory", "MemoryCollection", "Memory", func(Info) []string { return []string{"DIMM1"} }),
		one(systemPath+"/Memory/{id}", func(c *call, in Info) obj {
			if c.vars["id"] != "DIMM1" {
				return nil
			}
			return obj{"@odata.type": "#Memory.v1_20_0.Memory", "Id": "DIMM1", "Name": "DIMM1", "MemoryType": "DRAM",
				"CapacityMiB": in.MemoryMiB, "Status": statusOK()}
		}),
		list(systemPath+"/EthernetInterfaces", "EthernetInterfaceCollection", "Ethernet Interfaces", func(in Info) []string {
			var ids []string
			for i, n := range in.NICs {
				ids = append(ids, idOf(n.ID, i))
			}
			return ids
		}),
		one(systemPath+"/EthernetInterfaces/{id}", ethernet),
		list(storage, "StorageCollection", "Storage", func(Info) []string { return []string{"1"} }),
		one(storage+"/{id}", func(c *call, in Info) obj {
			if c.vars["id"] != "1" {
				return nil
			}
			drives := make([]string, len(in.Drives))
			for i, d := range in.Drives {
				drives[i] = storage + "/1/Drives/" + idOf(d.ID, i)
			}
			inline := s.storageController()
			inline["@odata.id"], inline["MemberId"] = storage+"/1#/StorageControllers/0", "0"
			return obj{"@odata.type": "#Storage.v1_15_1.Storage", "Id": "1", "Name": "Storage", "Status": statusOK(),
				"Controllers": link(storage + "/1/Controllers"), "StorageControllers": []obj{inline}, "StorageControllers@odata.count": 1,
				"Drives": links(drives...), "Drives@odata.count": len(drives), "Volumes": link(storage + "/1/Volumes")}
		}),
		list(storage+"/1/Controllers", "StorageControllerCollection", "Storage Controllers", func(Info) []string { return []string{"1"} }),
		one(storage+"/1/Controllers/1", func(*call, Info) obj {
			o := s.storageController()
			o["@odata.type"], o["Id"] = "#StorageController.v1_7_3.StorageController", "1"
			return o
		}),
		one(storage+"/1/Drives/{id}", drive),
		list(systemPath+"/SimpleStorage", "SimpleStorageCollection", "Simple Storage", func(Info) []string { return []string{"1"} }),
		one(systemPath+"/SimpleStorage/{id}", func(c *call, in Info) obj {
			if c.vars["id"] != "1" {
				return nil
			}
			devs := make([]obj, len(in.Drives))
			for i, d := range in.Drives {
				devs[i] = obj{"Name": idOf(d.ID, i), "Model": d.Model, "CapacityBytes": d.Bytes, "Status": statusOK()}
			}
			return obj{"@odata.type": "#SimpleStorage.v1_3_2.SimpleStorage", "Id": "1", "Name": "Simple Storage", "Devices": devs, "Status": statusOK()}
		}),
		list(chassisPath+"/PCIeDevices", "PCIeDeviceCollection", "PCIe Devices", func(in Info) []string {
			var ids []string
			for _, p := range s.pcieDevices(in) {
				ids = append(ids, p[strings.LastIndex(p, "/")+1:])
			}
			return ids
		}),
		one(chassisPath+"/PCIeDevices/{id}", func(c *call, in Info) obj {
			id, g := findGPU(in, c.vars["id"])
			if g == nil {
				return nil
			}
			return obj{"@odata.type": "#PCIeDevice.v1_14_0.PCIeDevice", "Id": id, "Name": g.Model, "Model": g.Model,
				"DeviceType": "SingleFunction", "Status": statusOK(), "PCIeFunctions": link(c.path + "/PCIeFunctions"),
				"Links": obj{"Chassis": links(chassisPath)}}
		}),
		list(chassisPath+"/PCIeDevices/{id}/PCIeFunctions", "PCIeFunctionCollection", "PCIe Functions", func(Info) []string { return []string{"1"} }),
		one(chassisPath+"/PCIeDevices/{id}/PCIeFunctions/1", func(c *call, in Info) obj {
			_, g := findGPU(in, c.vars["id"])
			if g == nil {
				return nil
			}
			vendor, device, _ := strings.Cut(g.PCI, ":")
			return obj{"@odata.type": "#PCIeFunction.v1_5_0.PCIeFunction", "Id": "1", "Name": g.Model, "FunctionId": 0,
				"FunctionType": "Physical", "DeviceClass": "DisplayController", "VendorId": hexID(vendor), "DeviceId": hexID(device),
				"Status": statusOK(), "Links": obj{"PCIeDevice": link(strings.TrimSuffix(c.path, "/PCIeFunctions/1"))}}
		}),
	}
}

// storageController is what the old StorageControllers and the new Controllers
// say alike.
func (s *Server) storageController() obj {
	levels := []string{}
	if _, ok := s.chassis.(VolumeHolder); ok {
		for _, l := range raidLevels {
			levels = append(levels, l.name)
		}
	}
	return obj{"Name": "Storage Controller", "Status": statusOK(), "SupportedControllerProtocols": []string{"PCIe"},
		"SupportedDeviceProtocols": []string{"SATA", "SAS", "NVMe"}, "SupportedRAIDTypes": levels}
}

func (s *Server) info(c *call) (Info, error) {
	in, err := s.chassis.Info(c.ctx)
	if err != nil {
		return in, fmt.Errorf("reading the chassis: %w", err)
	}
	failed := s.Trouble().FailedGPUs
	for i, g := range in.GPUs {
		in.GPUs[i].failed = failed[idOf(g.ID, i)]
	}
	return in, nil
}

// pcieDevices are the paths of the PCIe devices: GPUs with a known PCI id.
func (s *Server) pcieDevices(in Info) []string {
	out := []string{}
	for i, g := range in.GPUs {
		if g.PCI != "" {
			out = append(out, chassisPath+"/PCIeDevices/"+idOf(g.ID, i))
		}
	}
	return out
}

func findGPU(in Info, id string) (string, *GPU) {
	for i := range in.GPUs {
		if idOf(in.GPUs[i].ID, i) == id {
			return id, &in.GPUs[i]
		}
	}
	return "", nil
}

func processor(c *call, in Info) obj {
	id := c.vars["id"]
	o := obj{"@odata.type": "#Processor.v1_20_0.Processor", "Id": id, "Name": id, "Status": statusOK()}
	if id == "CPU1" {
		o["ProcessorType"], o["Socket"], o["ProcessorArchitecture"], o["InstructionSet"] = "CPU", "CPU1", "x86", "x86-64"
		if in.Arch == "arm64" {
			o["ProcessorArchitecture"], o["InstructionSet"] = "ARM", "ARM-A64"
		}
		o["Model"], o["TotalThreads"], o["TotalCores"] = in.CPUModel, in.CPUs, in.CPUs
		return o
	}
	_, g := findGPU(in, id)
	if g == nil {
		return nil
	}
	if g.failed {
		o["Status"] = obj{"State": "UnavailableOffline", "Health": "Critical"}
	}
	o["ProcessorType"], o["Model"], o["EnvironmentMetrics"] = "GPU", g.Model, link(c.path+"/EnvironmentMetrics")
	o["ProcessorArchitecture"], o["TotalThreads"] = "OEM", nil // Ironic wants both of every processor
	if vendor, _, ok := strings.Cut(g.PCI, ":"); ok {
		o["ProcessorId"] = obj{"VendorId": hexID(vendor)}
		dev := chassisPath + "/PCIeDevices/" + id
		o["Links"] = obj{"Chassis": link(chassisPath), "PCIeDevice": link(dev), "PCIeFunctions": links(dev + "/PCIeFunctions/1")}
	}
	return o
}

func hexID(s string) any {
	if s == "" {
		return nil
	}
	return "0x" + strings.ToLower(s)
}

func ethernet(c *call, in Info) obj {
	for i, n := range in.NICs {
		if idOf(n.ID, i) != c.vars["id"] {
			continue
		}
		ls := "LinkDown"
		if n.Link {
			ls = "LinkUp"
		}
		mac := strings.ToLower(n.MAC)
		return obj{"@odata.type": "#EthernetInterface.v1_12_1.EthernetInterface", "Id": c.vars["id"], "Name": "Ethernet " + c.vars["id"],
			"MACAddress": mac, "PermanentMACAddress": mac, "LinkStatus": ls, "InterfaceEnabled": true, "Status": statusOK()}
	}
	return nil
}

func drive(c *call, in Info) obj {
	for i, d := range in.Drives {
		if idOf(d.ID, i) != c.vars["id"] {
			continue
		}
		return obj{"@odata.type": "#Drive.v1_19_0.Drive", "Id": c.vars["id"], "Name": "Drive " + c.vars["id"],
			"SerialNumber": d.Serial, "Model": d.Model, "CapacityBytes": d.Bytes, "Protocol": nullable(d.Protocol), "MediaType": "SSD", "Status": statusOK()}
	}
	return nil
}
