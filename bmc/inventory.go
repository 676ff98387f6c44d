package bmc

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
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
	Arch    string `json:"arch,omitempty"` // "amd64", "arm64"; "" = not told
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

// NIC is one network port of the host. One of InfiniBand has a GUID instead of
// a MAC.
type NIC struct {
	ID   string `json:"id"`
	MAC  string `json:"mac"` // lower case, colons
	GUID string `json:"guid,omitempty"`
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

	others      []string // paths of systems that are other machines
	resources   int      // read so far
	haveChassis bool
	chassisOf   []chassis
}

func (d *redfishDriver) inventory(ctx context.Context) (Inventory, error) {
	all, missing, err := d.systems(ctx)
	if err != nil {
		return Inventory{}, err
	}
	main, err := d.chosen(all, missing)
	if err != nil {
		return Inventory{}, err
	}
	st, err := d.statusOf(ctx, main)
	if err != nil {
		return Inventory{}, err
	}
	r := &reader{redfishDriver: d, ctx: ctx, missing: missing}
	inv := Inventory{Status: st, CPUs: []CPU{}, Memory: []DIMM{}, NICs: []NIC{}, Drives: []Drive{}, GPUs: []GPU{}, Firmware: []Firmware{}}
	r.others = others(all, main)
	for _, s := range all {
		if s.ID == main.ID || s.isHost() < hostRank { // another node is another machine
			r.processors(&inv, s, s.ID == main.ID)
		}
	}
	if len(inv.GPUs) == 0 {
		r.pcieGPUs(&inv, main)
	}
	r.memory(&inv, main)
	r.nics(&inv, main)
	r.drives(&inv, main)
	inv.Firmware = append(inv.Firmware, r.firmware()...)
	inv.Missing = r.missing
	return inv, r.err
}

// list reads the members of a collection as T.
func list[T any](r *reader, from ref) []T {
	if r.err != nil || from.path() == "" {
		return nil
	}
	raw, missing, err := r.members(r.ctx, from.path())
	if r.keep(missing, len(raw)); err != nil {
		r.note(from.path(), err)
		return nil
	}
	return decoded[T](r, from.path(), raw)
}

// linked reads what links name: resources, or collections of them, as BMCs
// write where the schema has either.
func linked[T any](r *reader, from refs) (out []T) {
	if r.err != nil || len(from) == 0 {
		return nil
	}
	raw, missing, err := r.resolve(r.ctx, from[:min(len(from), maxMembers)])
	if r.keep(missing, len(raw)); err != nil {
		r.note(from.first(), err)
		return nil
	}
	var single []json.RawMessage
	for _, b := range raw {
		var coll struct {
			ID      text `json:"@odata.id"`
			Members refs
		}
		if unmarshal(b, &coll) == nil && coll.Members != nil {
			out = append(out, list[T](r, ref{id: string(coll.ID)})...)
			continue
		}
		single = append(single, b)
	}
	return append(out, decoded[T](r, from.first(), single)...)
}

func decoded[T any](r *reader, path string, raw []json.RawMessage) []T {
	out, err := decode[T](raw)
	if err != nil {
		r.note(path, err)
	}
	return out
}

// maxResources bounds one reading: lists of lists grow by multiplication.
const maxResources = 20_000

// keep notes what could not be read and counts what was.
func (r *reader) keep(missing []string, n int) {
	r.missing = append(r.missing, missing...)
	if r.resources += n + len(missing); r.resources > maxResources && r.err == nil {
		r.err = errTooMuch
	}
}

// note keeps what could not be read; the end of the session, of the context or
// of the BMC ends the reading.
func (r *reader) note(path string, err error) {
	if r.fatal(r.ctx, err) {
		r.err = err
		return
	}
	r.missing = append(r.missing, fmt.Sprintf("%s: %v", path, r.t.explain(r.ctx, err)))
}

// one reads a resource that may be missing.
func (r *reader) one(from ref, v any) bool {
	if r.err != nil || from.path() == "" {
		return false
	}
	if _, err := r.get(r.ctx, from.path(), v); err != nil {
		r.note(from.path(), err)
		return false
	}
	return true
}

// enclosures are the chassis of the service, read once.
func (r *reader) enclosures() []chassis {
	if !r.haveChassis && r.err == nil {
		r.haveChassis, r.chassisOf = true, list[chassis](r, r.root.Chassis)
	}
	return r.chassisOf
}

// around are the chassis that a system says it is in; all of them where it
// says nothing.
func (r *reader) around(s computerSystem) []chassis {
	var out []chassis
	for _, c := range r.enclosures() {
		for _, l := range s.Links.Chassis {
			if same(l.path(), c.ID) {
				out = append(out, c)
			}
		}
	}
	if len(out) == 0 {
		return r.enclosures()
	}
	return out
}

// same compares URIs, which some BMCs end with a slash here and not there.
func same(a, b string) bool {
	return strings.TrimRight(localPath(a), "/") == strings.TrimRight(localPath(b), "/")
}

// processor is what we use of Processor (DSP0268).
type processor struct {
	ID                                                        text `json:"Id"`
	ProcessorType, Manufacturer, Model, SerialNumber, Version text
	FirmwareVersion, Name                                     text
	InstructionSet, ProcessorArchitecture                     text
	ProcessorID                                               struct{ EffectiveFamily text } `json:"ProcessorId"`
	TotalCores, TotalThreads                                  number
	Status                                                    health
	Links                                                     struct {
		PCIeDevice    ref
		PCIeFunctions refs
	}
}

// arch is the architecture by Debian's name: as the instruction set says, which
// tells 64-bit ARM from the rest (DSP0268), else as the family does, which for
// ARM is SMBIOS's (DSP0134 table 26): 257 ARMv8, 258 ARMv9. A GB200's tray tells
// the latter alone.
func (p processor) arch() string {
	switch p.InstructionSet {
	case "x86-64":
		return "amd64"
	case "ARM-A64":
		return "arm64"
	}
	if n, err := strconv.ParseUint(string(p.ProcessorID.EffectiveFamily), 0, 16); err == nil && (n == 257 || n == 258) {
		return "arm64"
	}
	if p.ProcessorArchitecture == "x86" && p.InstructionSet == "" {
		return "amd64"
	}
	return ""
}

func (r *reader) processors(inv *Inventory, s computerSystem, isHost bool) {
	for _, p := range list[processor](r, s.Processors) {
		if p.Status.absent() {
			continue
		}
		switch {
		case p.ProcessorType == "GPU":
			inv.GPUs = append(inv.GPUs, r.gpu(p, s, isHost))
		case isHost && (p.ProcessorType == "CPU" || p.ProcessorType == ""):
			model := p.Model.known()
			if model == "" {
				model = p.Version.known() // SMBIOS's name of the processor's model
			}
			if model == "" && p.TotalCores == 0 && p.Manufacturer.known() == "" && p.Status.own() == "" {
				continue // an empty socket whose state is not told
			}
			inv.CPUs = append(inv.CPUs, CPU{ID: string(p.ID), Vendor: p.Manufacturer.known(), Model: model, Arch: p.arch(),
				Cores: int(p.TotalCores), Threads: int(p.TotalThreads), Health: p.Status.text()})
		}
	}
}

// memory are the modules. What is installed is what the system sums up, or the
// modules' sum; the latter too where the summary is the same in another unit
// (older iDRACs and others tell 10^9 bytes as GiB, or the reverse).
func (r *reader) memory(inv *Inventory, s computerSystem) {
	sum, whole := 0, len(r.missing)
	for _, m := range list[struct {
		ID                             text `json:"Id"`
		MemoryDeviceType, SerialNumber text
		MemoryType, DIMMType           text
		CapacityMiB, OperatingSpeedMhz number
		SizeMB, MaximumFrequencyMHz    number // iLO 4
		Status                         health
	}](r, s.Memory) {
		if m.CapacityMiB <= 0 {
			m.CapacityMiB = m.SizeMB
		}
		if m.OperatingSpeedMhz <= 0 {
			m.OperatingSpeedMhz = m.MaximumFrequencyMHz
		}
		if m.Status.absent() || m.CapacityMiB <= 0 || strings.HasPrefix(string(m.ID), "GPU") { // a GPU's own is no DIMM of the host
			continue
		}
		kind := m.MemoryDeviceType.known()
		for _, t := range []text{m.DIMMType, m.MemoryType} {
			if kind == "" {
				kind = t.known()
			}
		}
		sum += int(m.CapacityMiB)
		inv.Memory = append(inv.Memory, DIMM{ID: string(m.ID), Type: kind, MiB: int(m.CapacityMiB),
			MHz: int(m.OperatingSpeedMhz), Serial: m.SerialNumber.known(), Health: m.Status.text()})
	}
	inv.MemoryMiB = int(math.Round(float64(s.MemorySummary.TotalSystemMemoryGiB) * 1024))
	if inv.MemoryMiB <= 0 {
		inv.MemoryMiB = sum
	}
	const decimal = 1 << 30 / 1e9 // of a GiB in GB
	if sum > 0 && whole == len(r.missing) {
		ratio := float64(inv.MemoryMiB) / float64(sum)
		if math.Abs(ratio-decimal) < 0.005 || math.Abs(ratio-1/decimal) < 0.005 {
			inv.MemoryMiB = sum
		}
	}
}
