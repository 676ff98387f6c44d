package bmc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMakersStatus: what one look tells, whatever form it has.
func TestMakersStatus(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    *maker
		want func(Status) bool
	}{
		{"a manager and a chassis that are not shown", &maker{res: func() map[string]string {
			r := simple(nil)
			delete(r, v1+"/Managers/1")
			delete(r, v1+"/Chassis/1")
			return r
		}()}, func(s Status) bool { return s.Power == On && s.Serial == "SN1" && s.Firmware == "" }},
		{"a root that names nothing", &maker{res: simple(map[string]string{v1: `{"RedfishVersion":"1.0.0"}`})},
			func(s Status) bool { return s.Power == On && s.Firmware == "1.0" }},
		{"lists and nulls for objects", &maker{res: simple(map[string]string{v1 + "/Systems/1": with(`"Boot":[],"MemorySummary":[],"Actions":null,"LocationIndicatorActive":"false"`)})},
			func(s Status) bool { return s.Power == On && s.Boot.Device == BootNone && !s.Identify }},
		{"a state in words, fillers", &maker{res: simple(map[string]string{v1 + "/Systems/1": with(`"Status":"Warning","SKU":"To be filled by O.E.M.","UUID":"Not Available"`)})},
			func(s Status) bool { return s.Health == "Warning" && s.SKU == "" && s.UUID == "" }},
		{"power of the chassis", &maker{res: simple(map[string]string{v1 + "/Systems/1": with(`"PowerState":null`), v1 + "/Chassis/1": inChassis(`"PowerState":"Off"`)})},
			func(s Status) bool { return s.Power == Off }},
		{"null members, and one without its own id", &maker{res: simple(map[string]string{
			v1 + "/Systems":   `{"Members":[null,{},{"@odata.id":"https://192.0.2.7/redfish/v1/Systems/1/"}],"Members@odata.count":9}`,
			v1 + "/Systems/1": `{"PowerState":"On","SerialNumber":"SN1"}`})},
			func(s Status) bool { return s.Power == On && s.Serial == "SN1" && s.Firmware == "1.0" }},
		{"no sessions", &maker{noLogin: true, res: simple(nil)}, func(s Status) bool { return s.Power == On }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.m.open(t)
			st, err := c.Status(t.Context())
			if err != nil || !tc.want(st) {
				t.Errorf("Status() = %+v, %v", st, err)
			}
			if p, err := c.Power(t.Context()); err != nil || p != st.Power {
				t.Errorf("Power() = %s, %v; want %s as the status has it", p, err, st.Power)
			}
		})
	}
}

// A wrong password is one request of basic authentication, not one a resource.
func TestBasicPassword(t *testing.T) {
	r := &rig{}
	r.serve(t, &maker{noLogin: true, res: simple(nil)})
	target := r.target()
	target.Password = "wrong"
	_, err := Open(t.Context(), target)
	wantErr(t, err, ErrPassword)
	if n := r.count(); n != 3 { // the login that it has not, the root, the systems
		t.Errorf("%d requests; want 3: %v", n, r.requests)
	}
}

// A session is ended where its place is told by its Id alone.
func TestSessionWithoutLocation(t *testing.T) {
	m := &maker{location: "none", res: simple(nil)}
	if err := m.open(t).Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !slices.Contains(m.did(), "DELETE "+sessionsURI+"/7") {
		t.Errorf("sent %q; want the session deleted", m.did())
	}
}

// Several nodes behind one BMC: none is guessed.
func TestNodes(t *testing.T) {
	node := func(n int) string {
		return fmt.Sprintf(`{"@odata.id":"/redfish/v1/Systems/Node%d","Id":"Node%d","PowerState":"%s","SerialNumber":"S%d","Actions":{"#ComputerSystem.Reset":{"target":"/redfish/v1/Systems/Node%d/Reset"}},
			"Links":{"Chassis":[{"@odata.id":"/redfish/v1/Chassis/C%d"}]},"Processors":{"@odata.id":"/redfish/v1/Systems/Node%d/Processors"}}`, n, n, map[int]string{0: "On", 1: "Off"}[n], n, n, n, n)
	}
	res := simple(map[string]string{
		v1 + "/Systems": coll(v1+"/Systems/Node0", v1+"/Systems/Node1"), v1 + "/Systems/Node0": node(0), v1 + "/Systems/Node1": node(1),
		v1 + "/Systems/Node1/Processors": coll(v1 + "/p1"), v1 + "/p1": `{"Id":"CPU1","ProcessorType":"CPU","Model":"X"}`,
		v1 + "/Chassis":    coll(v1+"/Chassis/C0", v1+"/Chassis/C1"),
		v1 + "/Chassis/C0": `{"@odata.id":"/redfish/v1/Chassis/C0","Id":"C0","Thermal":{"@odata.id":"/redfish/v1/t0"},"Links":{"ComputerSystems":[{"@odata.id":"/redfish/v1/Systems/Node0"}]}}`,
		v1 + "/Chassis/C1": `{"@odata.id":"/redfish/v1/Chassis/C1","Id":"C1","Thermal":{"@odata.id":"/redfish/v1/t1"},"Links":{"ComputerSystems":[{"@odata.id":"/redfish/v1/Systems/Node1"}]}}`,
		v1 + "/t0":         `{"Temperatures":[{"Name":"Inlet 0","ReadingCelsius":20}]}`,
		v1 + "/t1":         `{"Temperatures":[{"Name":"Inlet 1","ReadingCelsius":21}]}`,
	})
	c := (&maker{res: res}).open(t)
	for what, f := range map[string]func() error{
		"power":  func() error { _, err := c.Power(t.Context()); return err },
		"status": func() error { _, err := c.Status(t.Context()); return err },
		"off":    func() error { return c.SetPower(t.Context(), PowerOff) },
	} {
		if err := f(); !errors.Is(err, errWhichSystem) || !strings.Contains(err.Error(), "Node0, Node1") {
			t.Errorf("%s: %v; want an error that names both systems", what, err)
		}
	}
	for _, name := range []string{"Node1", "s1"} { // the URI's last part; the serial number
		c := (&maker{res: res}).open(t, func(t *Target) { t.System = name })
		if p, err := c.Power(t.Context()); err != nil || p != Off {
			t.Errorf("Power() of %s = %s, %v; want off", name, p, err)
		}
		inv, err := c.Inventory(t.Context())
		if err != nil || inv.Status.Serial != "S1" || len(inv.CPUs) != 1 {
			t.Errorf("Inventory() of %s = %+v, %v; want that of S1", name, inv, err)
		}
		if r, err := c.Sensors(t.Context()); err != nil || len(r.Sensors) != 1 || r.Sensors[0].Name != "Inlet 1" {
			t.Errorf("Sensors() of %s = %+v, %v; want Inlet 1 alone", name, r, err)
		}
	}
	c = (&maker{res: res}).open(t, func(t *Target) { t.System = "Node9" })
	_, err := c.Power(t.Context())
	wantErr(t, err, nil, `no computer system "Node9"`, "it has Node0, Node1")
}

// TestMakersInventory: parts are found where makers put them.
func TestMakersInventory(t *testing.T) {
	for _, tc := range []struct {
		name string
		res  map[string]string
		ok   func(Inventory) bool
	}{
		{"GPUs as PCIe devices of the chassis (Supermicro, Gigabyte)", simple(map[string]string{
			v1 + "/Chassis/1": inChassis(`"PCIeDevices":{"@odata.id":"/redfish/v1/pd"}`), v1 + "/pd": coll(v1+"/pd/GPU1", v1+"/pd/nic", v1+"/pd/vga", v1+"/pd/gpu2"),
			v1 + "/pd/GPU1": `{"@odata.id":"/redfish/v1/pd/GPU1","Id":"GPU1","Name":"GPU1","Manufacturer":"NVIDIA","Model":"H100","SerialNumber":"G1","FirmwareVersion":"96.00","Status":{"Health":"OK"},"PCIeFunctions":{"@odata.id":"/redfish/v1/pf"}}`,
			v1 + "/pf":      coll(v1 + "/pf/0"), v1 + "/pf/0": `{"Id":"0","VendorId":"0x10DE","DeviceId":"0x2330","ClassCode":"0x030200"}`,
			v1 + "/pd/nic":  `{"Id":"nic","Name":"ConnectX-7","Manufacturer":"NVIDIA"}`,
			v1 + "/pd/vga":  `{"Id":"vga","Name":"VGA","Manufacturer":"","Links":{"PCIeFunctions":[{"@odata.id":"/redfish/v1/pf/vga"}]}}`,
			v1 + "/pf/vga":  `{"Id":"0","VendorId":"0x1A03","DeviceId":"0x2000","ClassCode":"0x030000"}`,
			v1 + "/pd/gpu2": `{"Id":"Slot9","Name":"PCIe Device","Manufacturer":"AMD","Links":{"PCIeFunctions":[{"@odata.id":"/redfish/v1/pf/mi"}]}}`,
			v1 + "/pf/mi":   `{"Id":"0","VendorId":"1002","DeviceId":"74a1","DeviceClass":"ProcessingAccelerators"}`,
		}), func(i Inventory) bool {
			return slices.Equal(i.GPUs, []GPU{{ID: "GPU1", Vendor: "NVIDIA", Model: "H100", Serial: "G1", PCI: "10de:2330", Firmware: "96.00", Health: "OK"},
				{ID: "Slot9", Vendor: "AMD", Model: "PCIe Device", PCI: "1002:74a1"}})
		}},
		{"GPUs as devices of iLO", simple(map[string]string{
			v1 + "/Chassis/1": inChassis(`"Oem":{"Hpe":{"Links":{"Devices":{"@odata.id":"/redfish/v1/Chassis/1/Devices/"}}}}`),
			v1 + "/Chassis/1/Devices": `{"Members":[{"Id":"1","Name":"NVIDIA L40S","DeviceType":"GPU","SerialNumber":"G7","FirmwareVersion":{"Current":{"VersionString":"95.02"}},"Status":{"Health":"OK"}},
				{"Id":"2","Name":"NIC","DeviceType":"LOM/NIC"}]}`,
		}), func(i Inventory) bool {
			return slices.Equal(i.GPUs, []GPU{{ID: "1", Model: "NVIDIA L40S", Serial: "G7", Firmware: "95.02", Health: "OK"}})
		}},
		{"disks of iLO's SmartStorage", simple(map[string]string{
			v1 + "/Systems/1": with(`"Storage":{"@odata.id":"/redfish/v1/st"},"Oem":{"Hpe":{"Links":{"SmartStorage":{"@odata.id":"/redfish/v1/ss"}}}}`),
			v1 + "/st":        coll(v1 + "/st/1"), v1 + "/st/1": `{"Id":"1","Drives":[{"@odata.id":"/redfish/v1/nvme"}]}`,
			v1 + "/nvme": `{"Id":"nvme","SerialNumber":"N1","Model":"X","CapacityBytes":1000,"Protocol":"NVMe"}`,
			v1 + "/ss":   `{"Links":{"ArrayControllers":{"@odata.id":"/redfish/v1/ss/ac"}}}`, v1 + "/ss/ac": coll(v1 + "/ss/ac/0"),
			v1 + "/ss/ac/0":    `{"Id":"0","Links":{"PhysicalDrives":{"@odata.id":"/redfish/v1/ss/ac/0/dd"}}}`,
			v1 + "/ss/ac/0/dd": coll(v1 + "/ss/ac/0/dd/0"),
			v1 + "/ss/ac/0/dd/0": `{"Id":"0","SerialNumber":"D1","Model":"EG0600","CapacityMiB":572325,"InterfaceType":"SAS",
				"FirmwareVersion":{"Current":{"VersionString":"HPD2"}},"Status":{"Health":"OK","State":"Enabled"}}`,
		}), func(i Inventory) bool {
			return len(i.Drives) == 2 && i.Drives[1] == (Drive{ID: "0", Serial: "D1", Model: "EG0600", Bytes: 572325 << 20, Protocol: "SAS", Firmware: "HPD2", Health: "OK"})
		}},
		{"drives as a collection, as fragments, in the chassis, and empty bays", simple(map[string]string{
			v1 + "/Systems/1": with(`"Storage":{"@odata.id":"/redfish/v1/st"}`), v1 + "/st": coll(v1+"/st/1", v1+"/st/2"),
			v1 + "/st/1": `{"Id":"1","Drives":{"@odata.id":"/redfish/v1/st/1/Drives"}}`, v1 + "/st/1/Drives": coll(v1 + "/d/1"),
			v1 + "/d/1":  `{"Id":"d1","SerialNumber":"A","CapacityBytes":"480000000000"}`,
			v1 + "/st/2": `{"@odata.id":"/redfish/v1/st/2","Id":"2","Drives":[{"@odata.id":"/redfish/v1/box#/Disks/1"},{"@odata.id":"/redfish/v1/box#/Disks/0"},{"@odata.id":"/redfish/v1/box#/Disks/7"}]}`,
			v1 + "/box":  `{"Id":"box","Disks":[{"MemberId":"0","Name":"bay"},{"Id":"d2","SerialNumber":"B","CapacityBytes":1}]}`,
		}), func(i Inventory) bool {
			return len(i.Drives) == 2 && i.Drives[0].Bytes == 480000000000 && i.Drives[1].Serial == "B" && len(i.Missing) == 1 && strings.Contains(i.Missing[0], "/Disks/7")
		}},
		{"drives of the chassis alone", simple(map[string]string{
			v1 + "/Chassis/1": inChassis(`"Drives":{"@odata.id":"/redfish/v1/cd"}`), v1 + "/cd": coll(v1 + "/cd/1"), v1 + "/cd/1": `{"Id":"1","SerialNumber":"C","CapacityBytes":5}`,
		}), func(i Inventory) bool { return len(i.Drives) == 1 && i.Drives[0].Serial == "C" }},
		{"adapters beside interfaces on the board; USB to the BMC; InfiniBand", simple(map[string]string{
			v1 + "/Systems/1": with(`"EthernetInterfaces":{"@odata.id":"/redfish/v1/ei"}`), v1 + "/ei": coll(v1+"/ei/1", v1+"/ei/2"),
			v1 + "/ei/1":      `{"Id":"1","MACAddress":"3C-EC-EF-00-00-01","LinkStatus":"LinkUp","SpeedMbps":"1000"}`,
			v1 + "/ei/2":      `{"Id":"ToHost","MACAddress":"3c:ec:ef:00:00:09"}`,
			v1 + "/Chassis/1": inChassis(`"NetworkAdapters":{"@odata.id":"/redfish/v1/na"}`), v1 + "/na": coll(v1+"/na/1", v1+"/na/2", v1+"/na/3"),
			v1 + "/na/1": `{"Id":"1","NetworkPorts":{"@odata.id":"/redfish/v1/np"}}`, v1 + "/np": coll(v1 + "/np/1"),
			v1 + "/np/1": `{"Id":"1","AssociatedNetworkAddresses":["B83FD2000001"],"LinkStatus":"Up","CurrentLinkSpeedMbps":100000}`,
			v1 + "/na/2": `{"Id":"2","Ports":{"@odata.id":"/redfish/v1/po"},"NetworkDeviceFunctions":{"@odata.id":"/redfish/v1/df"}}`, v1 + "/po": coll(v1 + "/po/1"),
			v1 + "/po/1": `{"@odata.id":"/redfish/v1/po/1","Id":"1","LinkStatus":"LinkUp","CurrentSpeedGbps":200}`, v1 + "/df": coll(v1 + "/df/1"),
			v1 + "/df/1": `{"Id":"1","Ethernet":{"PermanentMACAddress":null,"MACAddress":"b8:3f:d2:00:00:02"},"Links":{"PhysicalPortAssignment":{"@odata.id":"/redfish/v1/po/1"}}}`,
			v1 + "/na/3": `{"Id":"3","Ports":{"@odata.id":"/redfish/v1/ib"}}`, v1 + "/ib": coll(v1 + "/ib/1"),
			v1 + "/ib/1": `{"Id":"1","LinkStatus":"LinkUp","CurrentSpeedGbps":400,"InfiniBand":{"AssociatedPortGUIDs":["0xb83fd20300000003"]}}`,
		}), func(i Inventory) bool {
			return slices.Equal(i.NICs, []NIC{{ID: "1", MAC: "3c:ec:ef:00:00:01", Link: true, Mbps: 1000}, {ID: "1/1", MAC: "b8:3f:d2:00:00:01", Link: true, Mbps: 100000},
				{ID: "2/1", MAC: "b8:3f:d2:00:00:02", Link: true, Mbps: 200000}, {ID: "3/1", GUID: "b8:3f:d2:03:00:00:00:03", Link: true, Mbps: 400000}})
		}},
		{"ports of iLO's base adapters", simple(map[string]string{
			v1 + "/Systems/1": with(`"Oem":{"Hpe":{"Links":{"NetworkAdapters":{"@odata.id":"/redfish/v1/ba"}}}}`), v1 + "/ba": coll(v1 + "/ba/1"),
			v1 + "/ba/1": `{"Id":"1","PhysicalPorts":[{"MacAddress":"94:18:82:00:00:01","LinkStatus":"LinkUp","SpeedMbps":10000},{"MacAddress":"94:18:82:00:00:02"}]}`,
		}), func(i Inventory) bool { return len(i.NICs) == 2 && i.NICs[0].Link && i.NICs[1].ID == "1/2" }},
		{"memory in decimal, empty sockets, GPU memory", simple(map[string]string{
			v1 + "/Systems/1": with(`"MemorySummary":{"TotalSystemMemoryGiB":59.604644775},"Memory":{"@odata.id":"/redfish/v1/me"},"Processors":{"@odata.id":"/redfish/v1/cp"}`),
			v1 + "/me":        `{"Members":[{"Id":"A1","CapacityMiB":65536,"MemoryDeviceType":"DDR5"},{"Id":"A2","CapacityMiB":0},{"Id":"GPU_0_DRAM_0","CapacityMiB":184320}]}`,
			v1 + "/cp":        `{"Members":[{"Id":"CPU1","Model":null,"Version":"AMD EPYC 9654","TotalCores":"96"},{"Id":"CPU2"},{"Id":"FPGA","ProcessorType":"FPGA"}]}`,
		}), func(i Inventory) bool {
			return i.MemoryMiB == 65536 && len(i.Memory) == 1 && len(i.CPUs) == 1 && i.CPUs[0].Model == "AMD EPYC 9654" && i.CPUs[0].Cores == 96
		}},
		{"members in pages that go in a circle, one of them no object", simple(map[string]string{
			v1 + "/Systems/1":  with(`"Memory":{"@odata.id":"/redfish/v1/me"}`),
			v1 + "/me":         `{"Members":[{"Id":"A1","CapacityMiB":1024}],"Members@odata.nextLink":"/redfish/v1/me?$skip=1"}`,
			v1 + "/me?$skip=1": `{"Members":[{"Id":"A2","CapacityMiB":1024},{"@odata.id":"/redfish/v1/me/3"},{"@odata.id":"/redfish/v1/me/4"}],"Members@odata.nextLink":"/redfish/v1/me?$skip=1"}`,
			v1 + "/me/3":       `["no object"]`, v1 + "/me/4": `<html>`,
		}), func(i Inventory) bool { return len(i.Memory) == 2 && i.MemoryMiB == 2048 && len(i.Missing) == 2 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inv, err := (&maker{res: tc.res}).open(t).Inventory(t.Context())
			if err != nil || !tc.ok(inv) {
				t.Errorf("Inventory() = %+v, %v", inv, err)
			}
		})
	}
}

// TestMakersSensors: units, kinds and names of older and newer resources.
func TestMakersSensors(t *testing.T) {
	res := simple(map[string]string{
		v1 + "/Chassis":   coll(v1+"/Chassis/1", v1+"/Chassis/2"),
		v1 + "/Chassis/1": inChassis(`"Thermal":{"@odata.id":"/redfish/v1/th"},"Power":{"@odata.id":"/redfish/v1/pw"}`),
		v1 + "/th": `{"Temperatures":[{"MemberId":"0","ReadingCelsius":"31"},{"Name":"CPU1","ReadingCelsius":40},null],
			"Fans":[{"FanName":"Fan 1","CurrentReading":25,"Units":"Percent"},{"Name":"Fan 2","ReadingRPM":4000},{"Name":"Fan 2","Reading":4100,"ReadingUnits":"RPM"}]}`,
		v1 + "/pw":        `{"PowerControl":[{"Name":"System","PowerConsumedWatts":300}],"PowerSupplies":[{"Name":"PSU1","PowerOutputWatts":150,"Status":"Critical"}],"Voltages":[{"Name":"CPU1","ReadingVolts":1.1}]}`,
		v1 + "/Chassis/2": `{"@odata.id":"/redfish/v1/Chassis/2","Id":"2","Sensors":{"@odata.id":"/redfish/v1/se"},"ThermalSubsystem":{"@odata.id":"/redfish/v1/ts"},"PowerSubsystem":{"@odata.id":"/redfish/v1/ps"}}`,
		v1 + "/se":        `{"Members":[{"Id":"t","Name":"Inlet","ReadingType":"Temperature","Reading":22},{"Id":"n","Name":"NaN","Reading":"NaN","ReadingUnits":"W"}]}`,
		v1 + "/ts":        `{"Fans":{"@odata.id":"/redfish/v1/fa"}}`, v1 + "/fa": `{"Members":[{"Id":"F1","Name":"Bay 1","SpeedPercent":{"Reading":33,"SpeedRPM":9000},"Status":{"Health":"OK"}}]}`,
		v1 + "/ps":  `{"PowerSupplies":{"@odata.id":"/redfish/v1/sup"}}`,
		v1 + "/sup": `{"Members":[{"Id":"P1","Name":"PSU A","Status":{"Health":"OK","State":"Enabled"},"Metrics":{"@odata.id":"/redfish/v1/mt"}},{"Id":"P2","Name":"PSU B","Status":{"State":"Absent"}}]}`,
		v1 + "/mt":  `{"InputPowerWatts":{"Reading":812.5}}`,
	})
	r, err := (&maker{res: res}).open(t).Sensors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Sensors {
		v := "-"
		if s.Reading != nil {
			v = fmt.Sprint(*s.Reading)
		}
		got = append(got, strings.Join([]string{s.Name, string(s.Kind), v, s.Unit, s.Health}, "|"))
	}
	want := []string{"0|temperature|31|°C|", "CPU1|temperature|40|°C|", "Fan 1|fan|25|%|", "Fan 2|fan|4000|RPM|", "Fan 2|fan|4100|RPM|", "System|power|300|W|",
		"PSU1|power|150|W|Critical", "CPU1|voltage|1.1|V|", "Inlet|temperature|22|°C|", "NaN|power|-|W|", "Bay 1|fan|9000|RPM|OK", "PSU A|power|812.5|W|OK"}
	if !slices.Equal(got, want) {
		t.Errorf("sensors\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestMakersLog: the event log is found under the system, the manager or the
// chassis, and its entries are told however they say it.
func TestMakersLog(t *testing.T) {
	logs := func(at string, ids ...string) map[string]string {
		out := map[string]string{}
		var links []string
		for _, id := range ids {
			links = append(links, at+"/"+id)
			out[at+"/"+id] = `{"Id":"` + id + `","Entries":{"@odata.id":"` + at + "/" + id + `/Entries"}}`
			out[at+"/"+id+"/Entries"] = `{"Members":[{"Id":"1","Message":"` + id + `"}]}`
		}
		out[at] = coll(links...)
		return out
	}
	for _, tc := range []struct {
		name, sys, mgr, ch string
		ids                []string
		at, want           string
	}{
		{"of the chassis (Cisco)", "", "", v1 + "/lg", []string{"SEL"}, v1 + "/lg", "SEL"},
		{"of the manager (AMI), the system's cannot be read", v1 + "/none", v1 + "/lg", "", []string{"AuditLog", "EventLog", "SEL"}, v1 + "/lg", "SEL"},
		{"Fujitsu", v1 + "/lg", "", "", []string{"InternalEventLog", "SystemEventLog"}, v1 + "/lg", "SystemEventLog"},
		{"Huawei, Inspur", v1 + "/lg", "", "", []string{"OperateLog", "SecurityLog", "Log1"}, v1 + "/lg", "Log1"},
		{"one of a name that nobody knows", v1 + "/lg", "", "", []string{"AuditLog", "HardwareEvents", "PostCodes"}, v1 + "/lg", "HardwareEvents"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := simple(logs(tc.at, tc.ids...))
			link := func(p string) string { return `"LogServices":{"@odata.id":"` + p + `"}` }
			if tc.sys != "" {
				res[v1+"/Systems/1"] = with(link(tc.sys))
			}
			if tc.mgr != "" {
				res[v1+"/Managers/1"] = `{"@odata.id":"/redfish/v1/Managers/1","Id":"1",` + link(tc.mgr) + `}`
			}
			if tc.ch != "" {
				res[v1+"/Chassis/1"] = inChassis(link(tc.ch))
			}
			es, err := (&maker{res: res}).open(t).Log(t.Context())
			if err != nil || len(es) != 1 || es[0].Message != tc.want {
				t.Errorf("Log() = %+v, %v; want the entry of %s", es, err, tc.want)
			}
		})
	}
	_, err := (&maker{res: simple(nil)}).open(t).Log(t.Context())
	wantErr(t, err, ErrUnsupported, "no system event log")

	at := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, tc := range []struct {
		entry string
		want  LogEntry
	}{
		{`{"Id":1,"Created":"2024-02-03T04:05:06","Severity":null,"Message":"a"}`, LogEntry{ID: "1", Time: at, Message: "a"}},
		{`{"Id":"2","Created":"2024-02-03 04:05:06","Message":null,"MessageId":"X.1.0.Fan","MessageArgs":["Fan 1",2]}`, LogEntry{ID: "2", Time: at, Message: "X.1.0.Fan Fan 1 2"}},
		{`{"Id":"3","Created":"1970-01-01T00:00:19Z","Name":"Log Entry 3","Severity":"OK"}`, LogEntry{ID: "3", Severity: "OK", Message: "Log Entry 3"}},
		{`{"Id":"5","Created":"2024-02-03T04:05:06+00:00","EntryCode":"Deassert","SensorType":"Fan","Message":"Lower Critical - going low"}`,
			LogEntry{ID: "5", Time: at, Sensor: "Fan", Message: "Lower Critical - going low (deasserted)"}},
		{`{"Id":"4","Created":"2024-02-03T06:05:06+0200","Message":"b"}`, LogEntry{ID: "4", Time: at, Message: "b"}},
	} {
		var e logEntry
		if err := unmarshal([]byte(tc.entry), &e); err != nil || e.entry() != tc.want {
			t.Errorf("entry %s = %+v, %v; want %+v", tc.entry, e.entry(), err, tc.want)
		}
	}
}

// TestMakersRoot: a maker that names itself only beside its own additions.
func TestMakersRoot(t *testing.T) {
	for root, want := range map[string]string{
		`{"RedfishVersion":"1.0.1","Systems":{"@odata.id":"/x"},"Oem":{"Supermicro":{"DumpService":{}}}}`:        "Supermicro",
		`{"RedfishVersion":"1.2.0","Systems":{"@odata.id":"/x"},"Oem":{"Hpe":{"Manager":{"no":"list"}}}}`:        "HPE",
		`{"RedfishVersion":1.15,"Vendor":"AMI","Systems":{"@odata.id":"/x"},"Oem":{"Ami":[]},"Product":["odd"]}`: "AMI",
	} {
		var a Answer
		if err := a.read([]byte(root)); err != nil || a.Vendor != want {
			t.Errorf("read(%s): vendor %q, %v; want %q", root, a.Vendor, err, want)
		}
	}
}
