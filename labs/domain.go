package labs

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/fettle-dev/fettle/site"
	"libvirt.org/go/libvirtxml"
)

// metadataNS is the XML namespace of a domain's tag: a domain that carries it
// with the lab's name is the lab's, and no other domain is touched.
const metadataNS = "https://fettle.dev/xmlns/lab/1"

// tag is what a domain's <metadata> says of its lab.
type tag struct {
	XMLName xml.Name `xml:"https://fettle.dev/xmlns/lab/1 lab"`
	Name    string   `xml:"name,attr"`
	Machine string   `xml:"machine,attr"`
	Dir     string   `xml:"dir,attr"`
}

// start is what the firmware tries first.
type start int

// Kinds of start.
const (
	startDisk start = iota // disks, then the boot NIC: an empty machine asks the network
	startNetwork
	startHTTP // the boot NIC by UEFI HTTP boot
	startCD   // the virtual CD drive, where something is in it
)

// realization is what a plan does not know: found on this machine, or chosen
// when the lab is opened.
type realization struct {
	dir     folder
	accel   Accel             // of machines of this machine's architecture; others are emulated
	engines map[string]engine // by architecture
	dac     string            // user:group that QEMU runs as; empty = libvirt's choice
	bridge  string            // for the boot network; empty = fabric
	ports   map[string][]portPair
}

// portPair is the two ends of one NIC's link on 127.0.0.1.
type portPair struct {
	Fabric uint16 `json:"fabric"`
	Guest  uint16 `json:"guest"`
}

func ptr[T any](v T) *T { return &v }

// domainXML is the libvirt domain of m, starting as st says, with the image cd
// in its CD drive; without one, it has no such drive.
func domainXML(lab string, m MachinePlan, r realization, st start, cd string) (string, error) {
	if got := len(r.ports[m.Name]); got != len(m.NICs) {
		return "", fmt.Errorf("machine %s has %d NICs and ports for %d", m.Name, len(m.NICs), got)
	}
	t, err := xml.Marshal(tag{Name: lab, Machine: m.Name, Dir: string(r.dir)})
	if err != nil {
		return "", fmt.Errorf("machine %s: metadata: %w", m.Name, err)
	}
	board, engine := m.board(), r.engines[m.Arch]
	d := &libvirtxml.Domain{
		Type:     "qemu",
		Name:     m.Domain,
		UUID:     m.DomainUUID,
		Title:    m.Name + " of lab " + lab,
		Metadata: &libvirtxml.DomainMetadata{XML: string(t)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(m.MemoryMiB), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(m.CPUs)},
		SysInfo:  sysinfo(m, st),
		OS: &libvirtxml.DomainOS{
			Type:   &libvirtxml.DomainOSType{Arch: board.arch, Machine: board.machine, Type: "hvm"},
			SMBios: &libvirtxml.DomainSMBios{Mode: "sysinfo"},
		},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
		// A lab's guests must not come back by themselves: power is the BMC's.
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: devices(m, r, st, cd),
	}
	if board.apic {
		d.Features.APIC = &libvirtxml.DomainFeatureAPIC{}
	}
	if board.cpu != "" {
		d.CPU = &libvirtxml.DomainCPU{Mode: "custom", Match: "exact", Check: "none", Model: &libvirtxml.DomainCPUModel{Value: board.cpu}}
	}
	if r.accel == KVM && runsKVM(m.Arch) {
		d.Type = "kvm"
		d.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough"}
	}
	switch m.Firmware {
	case site.UEFI:
		fw := engine.plain
		if m.SecureBoot {
			fw = engine.secure
		}
		d.OS.Loader = &libvirtxml.DomainLoader{Path: fw.code, Readonly: "yes", Type: "pflash"}
		d.OS.NVRam = &libvirtxml.DomainNVRam{NVRam: r.dir.nvram(m.Name, m.SecureBoot), Template: fw.vars}
		if m.SecureBoot && board.smm {
			// The keys are in variables that only the firmware, in SMM, may write.
			d.OS.Loader.Secure = "yes"
			d.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
		}
	default:
		d.OS.BIOS = &libvirtxml.DomainBIOS{UseSerial: "yes"}
	}
	if r.dac != "" {
		d.SecLabel = []libvirtxml.DomainSecLabel{{Type: "static", Model: "dac", Relabel: "yes", Label: r.dac}}
	}
	d.QEMUCommandline = commandline(m, r)
	return d.Marshal()
}

// sysinfo is what the firmware tells of itself. The UUID is not here: libvirt
// wants the domain's own, see commandline.
func sysinfo(m MachinePlan, st start) []libvirtxml.DomainSysInfo {
	type entry = libvirtxml.DomainSysInfoEntry
	out := []libvirtxml.DomainSysInfo{{SMBIOS: &libvirtxml.DomainSysInfoSMBIOS{
		System: &libvirtxml.DomainSysInfoSystem{Entry: []entry{
			{Name: "manufacturer", Value: m.Manufacturer},
			{Name: "product", Value: m.Product},
			{Name: "serial", Value: m.Serial},
		}},
		Chassis: &libvirtxml.DomainSysInfoChassis{Entry: []entry{
			{Name: "manufacturer", Value: m.Manufacturer},
			{Name: "serial", Value: m.Serial},
		}},
	}}}
	if m.Serial == "" {
		sys := out[0].SMBIOS
		sys.System.Entry = sys.System.Entry[:2]
		sys.Chassis.Entry = sys.Chassis.Entry[:1]
	}
	if m.Firmware == site.UEFI {
		// OvmfPkg/Library/PxeBcPcdProducerLib: saves the time-outs of PXE over
		// IPv6, or over IPv4 where the network has none, and leaves HTTP alone when
		// both are off.
		off := []string{"IPv6PXESupport"}
		switch {
		case st == startHTTP:
			off = append(off, "IPv4PXESupport")
		case m.boots6():
			off[0] = "IPv4PXESupport"
		}
		var fw []entry
		for _, o := range off {
			fw = append(fw, entry{Name: "opt/org.tianocore/" + o, Value: "n"})
		}
		out = append(out, libvirtxml.DomainSysInfo{FWCfg: &libvirtxml.DomainSysInfoFWCfg{Entry: fw}})
	}
	return out
}

// firstGPUSlot is the first of the slots of pcie.0 that libvirt, which fills
// them from below and at the end, leaves to the GPUs.
const firstGPUSlot = 0x10

// commandline is what libvirt has no words for: an SMBIOS UUID that is not the
// domain's, the IPMI interface (KCS) that the machine's BMC answers, and GPUs
// without a screen.
func commandline(m MachinePlan, r realization) *libvirtxml.DomainQEMUCommandline {
	var c libvirtxml.DomainQEMUCommandline
	add := func(args ...string) {
		for _, a := range args {
			c.Args = append(c.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
		}
	}
	if m.UUID != "" {
		add("-smbios", "type=1,uuid="+m.UUID)
	}
	if kcs := m.board().kcs; kcs != "" {
		// A comma in a value is written twice. Without its daemon QEMU tries again
		// each second, and tells the guest that the BMC is not ready.
		again := "reconnect=1"
		if r.engines[m.Arch].msec {
			again = "reconnect-ms=1000"
		}
		add("-chardev", "socket,id=ipmi,path="+strings.ReplaceAll(r.dir.ipmi(m.Name), ",", ",,")+","+again,
			"-device", "ipmi-bmc-extern,id=bmc,chardev=ipmi", "-device", kcs+",id=kcs,bmc=bmc")
	}
	for i := range m.GPUs {
		add("-device", fmt.Sprintf("%s,id=gpu%d,max_outputs=1,bus=pcie.0,addr=%#x", standInDevice, i, firstGPUSlot+i))
	}
	return &c
}

func devices(m MachinePlan, r realization, st start, cd string) *libvirtxml.DomainDeviceList {
	dev := &libvirtxml.DomainDeviceList{
		Emulator:    r.engines[m.Arch].emulator,
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		MemBalloon:  &libvirtxml.DomainMemBalloon{Model: "none"},
		RNGs: []libvirtxml.DomainRNG{{Model: "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{
				Mode: "connect", Path: r.dir.consoleGuest(m.Name),
				Reconnect: &libvirtxml.DomainChardevSourceReconnect{Enabled: "yes", Timeout: ptr(uint(1))},
			}},
			Target: &libvirtxml.DomainSerialTarget{Port: ptr(uint(0))},
		}},
	}
	order := uint(0)
	next := func() *libvirtxml.DomainDeviceBoot { order++; return &libvirtxml.DomainDeviceBoot{Order: order} }
	network := st == startNetwork || st == startHTTP
	if cd != "" {
		drive := libvirtxml.DomainDisk{
			Device:   "cdrom",
			Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: cd}},
			Target:   &libvirtxml.DomainDiskTarget{Dev: "sda", Bus: m.board().cd},
			ReadOnly: &libvirtxml.DomainDiskReadOnly{},
		}
		if st == startCD {
			drive.Boot = next()
		}
		dev.Disks = append(dev.Disks, drive)
		if m.board().cd == "scsi" { // libvirt's own choice has no driver in the firmware
			dev.Controllers = append(dev.Controllers, libvirtxml.DomainController{Type: "scsi", Index: ptr(uint(0)), Model: "virtio-scsi"})
		}
	}
	dev.Interfaces = make([]libvirtxml.DomainInterface, len(m.NICs))
	nics := func() {
		for i, n := range m.NICs {
			dev.Interfaces[i] = nic(n, r.ports[m.Name][i], r.bridge)
			if n.Boot {
				dev.Interfaces[i].Boot = next()
			}
			if !n.Boot || n.Only6 && m.Firmware == site.UEFI {
				// iPXE of the ROM would stand between the firmware and the network, and
				// tells a signed loader nothing of IPv6.
				dev.Interfaces[i].ROM = &libvirtxml.DomainROM{Enabled: "no"}
			}
		}
	}
	if network {
		nics()
	}
	for i, d := range m.Disks {
		disk := libvirtxml.DomainDisk{
			Device: "disk",
			Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "qcow2", Cache: "unsafe", Discard: "unmap", DetectZeros: "unmap"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: r.dir.disk(m.Name, i)}},
			Target: &libvirtxml.DomainDiskTarget{Dev: "vd" + string(rune('a'+i)), Bus: "virtio"},
			Serial: d.Serial,
			Boot:   next(),
		}
		if n := uint(d.Sector); n > 512 {
			disk.BlockIO = &libvirtxml.DomainDiskBlockIO{LogicalBlockSize: n, PhysicalBlockSize: n}
		}
		dev.Disks = append(dev.Disks, disk)
	}
	if !network {
		nics()
	}
	return dev
}

func nic(n NICPlan, p portPair, bridge string) libvirtxml.DomainInterface {
	out := libvirtxml.DomainInterface{
		MAC:   &libvirtxml.DomainInterfaceMAC{Address: n.MAC.String()},
		Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
	}
	if n.Network == "" {
		out.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	if bridge != "" && n.Boot {
		out.Source = &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: bridge}}
		return out
	}
	const loopback = "127.0.0.1"
	out.Source = &libvirtxml.DomainInterfaceSource{UDP: &libvirtxml.DomainInterfaceSourceUDP{
		Address: loopback, Port: uint(p.Fabric),
		Local: &libvirtxml.DomainInterfaceSourceLocal{Address: loopback, Port: uint(p.Guest)},
	}}
	return out
}

// readTag reads a domain's tag; ok is false when it is nobody's lab's.
func readTag(domain string) (t tag, d libvirtxml.Domain, ok bool) {
	if err := d.Unmarshal(domain); err != nil || d.Metadata == nil {
		return t, d, false
	}
	// A domain's metadata can hold several elements, of several owners.
	var all struct {
		Labs []tag `xml:"https://fettle.dev/xmlns/lab/1 lab"`
	}
	if err := xml.Unmarshal([]byte("<metadata>"+d.Metadata.XML+"</metadata>"), &all); err != nil || len(all.Labs) != 1 {
		return t, d, false
	}
	t = all.Labs[0]
	return t, d, t.Name != ""
}
