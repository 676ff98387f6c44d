package bmc

import (
	"regexp"
	"slices"
	"strings"
)

// gpu completes a GPU from its PCIe device and function.
func (r *reader) gpu(p processor, on computerSystem, isHost bool) GPU {
	g := GPU{ID: string(p.ID), Vendor: p.Manufacturer.known(), Model: p.Model.known(), Serial: p.SerialNumber.known(),
		Firmware: p.FirmwareVersion.known(), Health: p.Status.text()}
	if dev := p.Links.PCIeDevice; dev.path() != "" && (g.Model == "" || g.Health == "" || g.Serial == "") && r.err == nil {
		var d pcieDevice
		r.one(dev, &d)
		for _, x := range []struct {
			to   *string
			from text
		}{{&g.Model, d.Model}, {&g.Model, d.Name}, {&g.Vendor, d.Manufacturer}, {&g.Serial, d.SerialNumber}, {&g.Firmware, d.FirmwareVersion}, {&g.Health, text(d.Status.text())}} {
			if *x.to == "" {
				*x.to = x.from.known()
			}
		}
	}
	if len(p.Links.PCIeFunctions) > 0 {
		var f pcieFunction
		r.one(p.Links.PCIeFunctions[0], &f)
		g.PCI = f.pci()
	}
	if g.Model == "" && !isHost { // a baseboard is of one kind; a server's own model is no GPU's
		g.Model = on.Model.known()
	}
	if g.Vendor == "" && !isHost {
		g.Vendor = on.Manufacturer.known()
	}
	if g.Model == "" {
		g.Model = p.Name.known()
	}
	return g
}

// pcieDevice is what we use of PCIeDevice (DSP0268).
type pcieDevice struct {
	ID                                text `json:"Id"`
	Name, Description                 text
	Manufacturer, Model, SerialNumber text
	FirmwareVersion, DeviceType       text
	Status                            health
	PCIeFunctions                     refs
	Links                             struct{ PCIeFunctions refs }
}

// pcieFunction is what we use of PCIeFunction.
type pcieFunction struct {
	VendorId, DeviceId     text //nolint:revive // the schema's names
	ClassCode, DeviceClass text
}

func pciHex(t text) string { return strings.TrimPrefix(strings.ToLower(t.known()), "0x") }

// pci is "vendor:device".
func (f pcieFunction) pci() string {
	if v, d := pciHex(f.VendorId), pciHex(f.DeviceId); v != "" && d != "" {
		return v + ":" + d
	}
	return ""
}

// screens are makers of the graphics of BMCs themselves, which show a console
// and compute nothing: ASPEED, Matrox, Cirrus, and those of virtual machines.
var screens = []string{"1a03", "102b", "1013", "1b36", "1234", "15ad"}

// accelerates tells that a function is of a GPU: a display or 3D controller or a
// processing accelerator (PCI Code and ID Assignment, classes 03h and 12h).
func (f pcieFunction) accelerates() bool {
	class := pciHex(f.ClassCode)
	return !slices.Contains(screens, pciHex(f.VendorId)) &&
		(strings.HasPrefix(class, "03") || strings.HasPrefix(class, "12") || class == "" && (f.DeviceClass == "DisplayController" || f.DeviceClass == "ProcessingAccelerators"))
}

// Words by which firmware names GPUs, and what sits beside them under the same
// maker's name.
var (
	gpuWords = regexp.MustCompile(`(?i)\b(gpus?|gpgpu|graphics|tesla|quadro|rtx|geforce|instinct|radeon|gaudi|[HAVP][1-3]00[A-Z]{0,3}|H20|B[123]00|L4|L20|L40S?|A(2|10|16|30|40)|T4|MI\d{2,3}[XA]?|G[HB][23]00)\b`)
	notGPU   = regexp.MustCompile(`(?i)bluefield|connectx|nvswitch|nvlink|switch|bridge|retimer|riser|dpu|ethernet|infiniband|network|raid|nvme|storage|ssd|matrox|aspeed|g200|audio`)
	gpuMaker = regexp.MustCompile(`(?i)nvidia|10de|amd|advanced micro|\bati\b|1002|intel|habana`)
)

// pcieGPUs finds GPUs among the PCIe devices, for BMCs that show none as
// processors: by what their functions are, or else by their names.
func (r *reader) pcieGPUs(inv *Inventory, s computerSystem) {
	devices := linked[pcieDevice](r, s.PCIeDevices)
	if len(devices) == 0 {
		for _, c := range r.around(s) {
			devices = append(devices, linked[pcieDevice](r, slices.Concat(c.PCIeDevices, c.Links.PCIeDevices))...)
		}
	}
	seen := map[string]bool{}
	for _, d := range devices {
		words := strings.Join([]string{string(d.ID), string(d.Name), string(d.Model), string(d.Description)}, " ")
		named := gpuWords.MatchString(strings.NewReplacer("_", " ", ".", " ").Replace(words)) || d.DeviceType == "GPU"
		if d.Status.absent() || seen[string(d.ID)] || notGPU.MatchString(words) || !named && d.Manufacturer.known() != "" && !gpuMaker.MatchString(string(d.Manufacturer)) {
			continue
		}
		seen[string(d.ID)] = true
		fs := linked[pcieFunction](r, slices.Concat(d.PCIeFunctions, d.Links.PCIeFunctions))
		i := slices.IndexFunc(fs, pcieFunction.accelerates)
		if i < 0 && (!named || len(fs) > 0 && slices.ContainsFunc(fs, func(f pcieFunction) bool { return f.ClassCode != "" || f.DeviceClass != "" })) {
			continue
		}
		g := GPU{ID: string(d.ID), Vendor: d.Manufacturer.known(), Model: d.Model.known(), Serial: d.SerialNumber.known(),
			Firmware: d.FirmwareVersion.known(), Health: d.Status.text()}
		if g.Model == "" {
			g.Model = d.Name.known()
		}
		if i >= 0 {
			g.PCI = fs[i].pci()
		}
		inv.GPUs = append(inv.GPUs, g)
	}
	r.hpeGPUs(inv, s)
}
