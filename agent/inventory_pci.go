package agent

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
)

func (r Roots) nics() ([]wire.NIC, error) {
	names, err := r.list(r.Sys, "class/net")
	if err != nil {
		return nil, err
	}
	nics := []wire.NIC{}
	for _, name := range names {
		dir := filepath.Join(r.Sys, "class/net", name)
		// Physical ports have a device; ARPHRD_ETHER is 1, INFINIBAND 32.
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
			continue
		}
		n := wire.NIC{Name: name, MAC: strings.ToLower(r.text(dir, "address")), Link: r.text(dir, "carrier") == "1",
			Driver: r.link(dir, "device/driver")}
		if mbps := r.number(dir, "speed"); n.Link && mbps > 0 {
			n.Mbps = int(mbps)
		}
		// A virtio port's device is on the virtio bus; its parent is PCI.
		if d, err := filepath.EvalSymlinks(filepath.Join(dir, "device")); err == nil {
			for range 3 {
				if isPCIAddress(filepath.Base(d)) {
					n.PCI = filepath.Base(d)
					break
				}
				d = filepath.Dir(d)
			}
		}
		nics = append(nics, n)
	}
	return nics, nil
}

// isPCIAddress: domain:bus:device.function, 0000:01:00.0.
func isPCIAddress(s string) bool {
	return len(s) >= 12 && strings.Count(s, ":") == 2 && s[len(s)-2] == '.'
}

// accelerators are classes of PCI functions that compute but show no picture:
// 1200 processing accelerators (PCI code and ID assignment §1.19).
func isGPU(class string) bool {
	return strings.HasPrefix(class, "03") || strings.HasPrefix(class, "1200")
}

func (r Roots) pci() ([]wire.PCI, []wire.GPU, error) {
	names, err := r.list(r.Sys, "bus/pci/devices")
	if err != nil {
		return nil, nil, err
	}
	devices, gpus := []wire.PCI{}, []wire.GPU{}
	var want []string
	for _, name := range names {
		dir := filepath.Join(r.Sys, "bus/pci/devices", name)
		hex := func(attr string) string { return strings.ToLower(strings.TrimPrefix(r.text(dir, attr), "0x")) }
		p := wire.PCI{Address: name, ID: hex("vendor") + ":" + hex("device"), Class: hex("class"), Driver: r.link(dir, "driver")}
		devices = append(devices, p)
		if isGPU(p.Class) {
			gpus = append(gpus, wire.GPU{PCI: p.ID, Address: name})
			want = append(want, p.ID)
		}
	}
	if len(want) > 0 {
		models := r.pciModels(want)
		for i := range gpus {
			gpus[i].Model = models[gpus[i].PCI]
		}
	}
	return devices, gpus, nil
}

// pciModels looks names up in a pci.ids file: vendors at the line's start,
// their devices behind one tab.
func (r Roots) pciModels(ids []string) map[string]string {
	models := map[string]string{}
	f, err := os.Open(r.PCINames)
	if err != nil {
		return models // names are a courtesy
	}
	defer f.Close()
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	var vendor, vendorName string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "\t\t") {
			continue
		}
		id, name, ok := strings.Cut(strings.TrimPrefix(line, "\t"), "  ")
		switch {
		case !ok:
		case line[0] != '\t':
			vendor, vendorName = id, name
		case wanted[vendor+":"+id]:
			models[vendor+":"+id] = vendorName + " " + name
		}
	}
	return models
}
