package provision

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
)

// Difference is one way in which a machine is not what the site file says.
type Difference struct {
	Field string `json:"field"` // as in the site file, e.g. "disks[0].size"
	Want  string `json:"want"`
	Got   string `json:"got"`
}

// fieldArch is the one field whose difference no policy lets pass: an image for
// other processors would not start.
const fieldArch = "arch"

func (d Difference) String() string {
	return fmt.Sprintf("%s: the site file says %s, the machine has %s", d.Field, d.Want, d.Got)
}

// memorySlack is the part of a machine's memory that firmware and kernel may
// keep to themselves before it counts as missing.
const memorySlack = 0.08

// Compare tells how a machine differs from the site file. What the file leaves
// unsaid is not compared; what the machine has beyond it is no difference,
// except GPUs of a listed kind, which must be exactly as many.
func Compare(m site.Machine, inv wire.Inventory) []Difference {
	var out []Difference
	add := func(field, want, got string) {
		if got == "" {
			got = "none"
		}
		out = append(out, Difference{field, want, got})
	}
	if m.Serial != "" && m.Serial != inv.System.Serial {
		add("serial", m.Serial, inv.System.Serial)
	}
	if got := inv.CPU.Arch; got != "" && got != archOf(m.Arch) {
		add(fieldArch, archOf(m.Arch), got)
	}
	if m.Firmware != "" && string(m.Firmware) != inv.Firmware.Kind {
		add("firmware", string(m.Firmware), inv.Firmware.Kind)
	}
	if m.SecureBoot && !inv.Firmware.SecureBoot {
		add("secure-boot", "on", "off")
	}
	if m.CPUs != 0 && m.CPUs != inv.CPU.Threads {
		add("cpus", fmt.Sprint(m.CPUs), fmt.Sprint(inv.CPU.Threads))
	}
	if m.Memory != 0 && math.Abs(float64(inv.Memory-int64(m.Memory))) > memorySlack*float64(m.Memory) {
		add("memory", m.Memory.String(), site.Bytes(inv.Memory).String())
	}
	for i, want := range m.NICs {
		field := fmt.Sprintf("nics[%d]", i)
		j := slices.IndexFunc(inv.NICs, func(n wire.NIC) bool { return strings.EqualFold(n.MAC, want.MAC.String()) })
		switch {
		case j < 0:
			add(field+".mac", want.MAC.String(), macs(inv.NICs))
		case want.Boot && !inv.NICs[j].Link:
			add(field, "a link on "+want.MAC.String(), "no link")
		}
	}
	for i, want := range m.Disks {
		field := fmt.Sprintf("disks[%d]", i)
		j := slices.IndexFunc(inv.Disks, func(d wire.Disk) bool { return d.Serial == want.Serial })
		if j < 0 {
			add(field+".serial", want.Serial, diskSerials(inv.Disks))
			continue
		}
		got := inv.Disks[j]
		if want.Size != 0 && got.Bytes < int64(want.Size) {
			add(field+".size", "at least "+want.Size.String(), site.Bytes(got.Bytes).String())
		}
		if want.SectorSize != 0 && got.SectorSize != 0 && got.SectorSize != want.SectorSize {
			add(field+".sector-size", fmt.Sprint(want.SectorSize), fmt.Sprint(got.SectorSize))
		}
		if want.Model != "" && !strings.Contains(got.Model, want.Model) {
			add(field+".model", want.Model, got.Model)
		}
	}
	for i, want := range m.GPUs {
		n := 0
		for _, g := range inv.GPUs {
			if strings.EqualFold(g.PCI, want.PCI) {
				n++
			}
		}
		if n != want.Count {
			add(fmt.Sprintf("gpus[%d].count", i), fmt.Sprintf("%d × %s (%s)", want.Count, want.Model, want.PCI), fmt.Sprint(n))
		}
	}
	return out
}

func macs(nics []wire.NIC) string {
	var s []string
	for _, n := range nics {
		s = append(s, n.MAC)
	}
	return strings.Join(s, ", ")
}

func diskSerials(disks []wire.Disk) string {
	var s []string
	for _, d := range disks {
		s = append(s, fmt.Sprintf("%s (%s)", d.Serial, d.Name))
	}
	return strings.Join(s, ", ")
}
