package bmc

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
)

// Inventory is what a machine is made of, as its BMC tells. What a BMC does
// not tell is empty.
type Inventory struct {
	Status    Status     `json:"status"`
	CPUs      []CPU      `json:"cpus"`
	MemoryMiB int        `json:"memory_mib"`
	Memory    []DIMM     `json:"memory"`
	NICs      []NIC      `json:"nics"`
	Drives    []Drive    `json:"drives"`
	GPUs      []GPU      `json:"gpus"`
	Firmware  []Firmware `json:"firmware"`
	// Missing names what the BMC lists and did not show.
	Missing []string `json:"missing,omitempty"`
}

// CPU is one processor socket.
type CPU struct {
	ID      string `json:"id"`
	Vendor  string `json:"vendor"`
	Model   string `json:"model"`
	Cores   int    `json:"cores"`
	Threads int    `json:"threads"`
	Health  string `json:"health"`
}

// DIMM is one memory module.
type DIMM struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	MiB    int    `json:"mib"`
	MHz    int    `json:"mhz"`
	Serial string `json:"serial"`
	Health string `json:"health"`
}

// NIC is one network port of the host.
type NIC struct {
	ID   string `json:"id"`
	MAC  string `json:"mac"` // lower case, colons
	Link bool   `json:"link"`
	Mbps int    `json:"mbps"`
}

// Drive is one disk.
type Drive struct {
	ID       string `json:"id"`
	Serial   string `json:"serial"`
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	Bytes    int64  `json:"bytes"`
	Protocol string `json:"protocol"`
	Firmware string `json:"firmware"`
	Health   string `json:"health"`
}

// GPU is one GPU. Where it does not tell its own model, Model is that of its
// PCIe device, or of the baseboard that it sits on.
type GPU struct {
	ID       string `json:"id"`
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	Serial   string `json:"serial"`
	PCI      string `json:"pci"` // "vendor:device", lower case hex
	Firmware string `json:"firmware"`
	Health   string `json:"health"`
}

// Firmware is one firmware version.
type Firmware struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

// reader collects an inventory; what cannot be read is noted, not fatal.
type reader struct {
	*redfishDriver
	ctx     context.Context
	missing []string
	err     error // of the session or the context: ends the reading
}

func (d *redfishDriver) inventory(ctx context.Context) (Inventory, error) {
	st, err := d.status(ctx)
	if err != nil {
		return Inventory{}, err
	}
	all, missing, err := d.systems(ctx)
	if err != nil {
		return Inventory{}, err
	}
	r := &reader{redfishDriver: d, ctx: ctx, missing: missing}
	inv := Inventory{Status: st}
	main, _ := host(all)
	inv.MemoryMiB = int(math.Round(float64(main.MemorySummary.TotalSystemMemoryGiB) * 1024))
	for _, s := range all {
		r.processors(&inv, s, s.ID == main.ID)
	}
	r.memory(&inv, main)
	r.nics(&inv, main)
	r.drives(&inv, main)
	r.firmware(&inv)
	inv.Missing = r.missing
	return inv, r.err
}

// list reads the members of a collection as T.
func list[T any](r *reader, from ref) []T {
	if r.err != nil || from.path() == "" {
		return nil
	}
	raw, missing, err := r.members(r.ctx, from.path())
	r.missing = append(r.missing, missing...)
	if err != nil {
		r.note(from.path(), err)
		return nil
	}
	out, err := decode[T](raw)
	if err != nil {
		r.note(from.path(), err)
	}
	return out
}

// note keeps what could not be read; the end of the session or of the context
// ends the reading.
func (r *reader) note(path string, err error) {
	if r.ctx.Err() != nil || statusOf(err) == 401 {
		r.err = err
		return
	}
	r.missing = append(r.missing, fmt.Sprintf("%s: %v", path, r.t.explain(r.ctx, err)))
}

// processor is what we use of Processor (DSP0268).
type processor struct {
	ID                                                        text `json:"Id"`
	ProcessorType, Manufacturer, Model, SerialNumber, Version text
	FirmwareVersion                                           text
	TotalCores, TotalThreads                                  number
	Status                                                    health
	Links                                                     struct {
		PCIeDevice    ref
		PCIeFunctions refs
	}
}

func (r *reader) processors(inv *Inventory, s computerSystem, isHost bool) {
	for _, p := range list[processor](r, s.Processors) {
		if p.Status.absent() {
			continue
		}
		switch {
		case p.ProcessorType == "GPU":
			inv.GPUs = append(inv.GPUs, r.gpu(p, s))
		case isHost && (p.ProcessorType == "CPU" || p.ProcessorType == ""):
			inv.CPUs = append(inv.CPUs, CPU{ID: string(p.ID), Vendor: p.Manufacturer.known(), Model: p.Model.known(),
				Cores: int(p.TotalCores), Threads: int(p.TotalThreads), Health: p.Status.text()})
		}
	}
}

// gpu completes a GPU from its PCIe device and function.
func (r *reader) gpu(p processor, on computerSystem) GPU {
	g := GPU{ID: string(p.ID), Vendor: p.Manufacturer.known(), Model: p.Model.known(), Serial: p.SerialNumber.known(),
		Firmware: p.FirmwareVersion.known(), Health: p.Status.text()}
	if dev := p.Links.PCIeDevice.path(); dev != "" && (g.Model == "" || g.Health == "" || g.Serial == "") && r.err == nil {
		var d struct {
			Name, Manufacturer, Model, SerialNumber, FirmwareVersion text
			Status                                                   health
		}
		if _, err := r.get(r.ctx, dev, &d); err != nil {
			r.note(dev, err)
		}
		for _, x := range []struct {
			to   *string
			from text
		}{{&g.Model, d.Model}, {&g.Model, d.Name}, {&g.Vendor, d.Manufacturer}, {&g.Serial, d.SerialNumber}, {&g.Firmware, d.FirmwareVersion}, {&g.Health, text(d.Status.text())}} {
			if *x.to == "" {
				*x.to = x.from.known()
			}
		}
	}
	if fn := p.Links.PCIeFunctions.first(); fn != "" && r.err == nil {
		var f struct{ VendorId, DeviceId text } //nolint:revive // the schema's names
		if _, err := r.get(r.ctx, fn, &f); err != nil {
			r.note(fn, err)
		}
		hex := func(t text) string { return strings.TrimPrefix(strings.ToLower(t.known()), "0x") }
		if v, d := hex(f.VendorId), hex(f.DeviceId); v != "" && d != "" {
			g.PCI = v + ":" + d
		}
	}
	if g.Model == "" {
		g.Model = on.Model.known()
	}
	if g.Vendor == "" {
		g.Vendor = on.Manufacturer.known()
	}
	return g
}

func (r *reader) memory(inv *Inventory, s computerSystem) {
	sum := 0
	for _, m := range list[struct {
		ID                             text `json:"Id"`
		MemoryDeviceType, SerialNumber text
		CapacityMiB, OperatingSpeedMhz number
		Status                         health
	}](r, s.Memory) {
		if m.Status.absent() || m.CapacityMiB <= 0 {
			continue
		}
		sum += int(m.CapacityMiB)
		inv.Memory = append(inv.Memory, DIMM{ID: string(m.ID), Type: m.MemoryDeviceType.known(), MiB: int(m.CapacityMiB),
			MHz: int(m.OperatingSpeedMhz), Serial: m.SerialNumber.known(), Health: m.Status.text()})
	}
	if inv.MemoryMiB == 0 {
		inv.MemoryMiB = sum
	}
}

// nics are the host's Ethernet interfaces; where the system has none, the
// ports of the network adapters in its chassis. The port by which the host
// speaks to its own BMC is no NIC.
func (r *reader) nics(inv *Inventory, s computerSystem) {
	add := func(id string, mac text, link bool, mbps int) {
		hw, err := net.ParseMAC(mac.known())
		if err != nil || len(hw) != 6 || slices.ContainsFunc(inv.NICs, func(n NIC) bool { return n.MAC == hw.String() }) {
			return
		}
		inv.NICs = append(inv.NICs, NIC{ID: id, MAC: hw.String(), Link: link, Mbps: mbps})
	}
	for _, n := range list[struct {
		ID                              text `json:"Id"`
		MACAddress, PermanentMACAddress text
		LinkStatus                      text
		SpeedMbps                       number
		Status                          health
	}](r, s.EthernetInterfaces) {
		mac := n.PermanentMACAddress
		if mac.known() == "" {
			mac = n.MACAddress
		}
		if n.Status.absent() || toManager(string(n.ID)) {
			continue
		}
		add(string(n.ID), mac, n.LinkStatus == "LinkUp", int(n.SpeedMbps))
	}
	if len(inv.NICs) > 0 || r.err != nil {
		return
	}
	all, err := r.chassis(r.ctx)
	if err != nil {
		r.note(r.root.Chassis.path(), err)
		return
	}
	for _, c := range all {
		for _, a := range list[struct {
			ID    text `json:"Id"`
			Ports ref
		}](r, c.NetworkAdapters) {
			for _, p := range list[struct {
				ID         text `json:"Id"`
				LinkStatus text
				Speed      number `json:"CurrentSpeedGbps"`
				Ethernet   struct {
					AssociatedMACAddresses texts
				}
			}](r, a.Ports) {
				for _, mac := range p.Ethernet.AssociatedMACAddresses {
					add(string(p.ID), text(mac), p.LinkStatus == "LinkUp", int(p.Speed*1000))
				}
			}
		}
	}
}

func (r *reader) drives(inv *Inventory, s computerSystem) {
	for _, st := range list[struct{ Drives refs }](r, s.Storage) {
		if r.err != nil {
			return
		}
		raw, missing, err := r.resolve(r.ctx, st.Drives)
		r.missing = append(r.missing, missing...)
		if err != nil {
			r.note("the drives", err)
			return
		}
		for _, b := range raw {
			var d struct {
				ID                                          text `json:"Id"`
				SerialNumber, Manufacturer, Model, Protocol text
				Revision, FirmwareVersion                   text
				CapacityBytes                               number
				Status                                      health
			}
			if err := json.Unmarshal(b, &d); err != nil {
				r.note("a drive", err)
				continue
			}
			if d.Status.absent() || slices.ContainsFunc(inv.Drives, func(x Drive) bool { return x.Serial != "" && x.Serial == string(d.SerialNumber) }) {
				continue
			}
			fw := d.FirmwareVersion.known()
			if fw == "" {
				fw = d.Revision.known()
			}
			inv.Drives = append(inv.Drives, Drive{ID: string(d.ID), Serial: d.SerialNumber.known(), Vendor: d.Manufacturer.known(), Model: d.Model.known(),
				Bytes: int64(d.CapacityBytes), Protocol: d.Protocol.known(), Firmware: fw, Health: d.Status.text()})
		}
	}
	if len(inv.Drives) > 0 {
		return
	}
	for _, st := range list[struct {
		Devices []struct {
			Name, Manufacturer, Model text
			CapacityBytes             number
			Status                    health
		}
	}](r, s.SimpleStorage) {
		for _, d := range st.Devices {
			if d.Status.absent() || d.CapacityBytes <= 0 {
				continue
			}
			inv.Drives = append(inv.Drives, Drive{ID: string(d.Name), Vendor: d.Manufacturer.known(), Model: d.Model.known(),
				Bytes: int64(d.CapacityBytes), Health: d.Status.text()})
		}
	}
}

func (r *reader) firmware(inv *Inventory) {
	if r.err != nil || r.root.UpdateService.path() == "" {
		return
	}
	var us struct{ FirmwareInventory ref }
	if _, err := r.get(r.ctx, r.root.UpdateService.path(), &us); err != nil {
		r.note(r.root.UpdateService.path(), err)
		return
	}
	for _, f := range list[struct {
		ID            text `json:"Id"`
		Name, Version text
	}](r, us.FirmwareInventory) {
		if v := f.Version.known(); v != "" {
			inv.Firmware = append(inv.Firmware, Firmware{ID: string(f.ID), Name: string(f.Name), Version: v})
		}
	}
}
