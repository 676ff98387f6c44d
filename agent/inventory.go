package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
)

// Roots is where the kernel shows the machine: /sys, /proc, /dev; elsewhere in
// tests.
type Roots struct {
	Sys, Proc, Dev string
	PCINames       string // a pci.ids file; may be missing
}

// SystemRoots are the real ones.
func SystemRoots() Roots {
	return Roots{Sys: "/sys", Proc: "/proc", Dev: "/dev", PCINames: "/usr/share/misc/pci.ids"}
}

// Inventory reads everything anew. What a machine does not have or the kernel
// does not show stays empty; an error means that sysfs itself cannot be read.
func (r Roots) Inventory(version string) (wire.Inventory, error) {
	inv := wire.Inventory{Agent: version, Kernel: r.text(r.Proc, "sys/kernel/osrelease")}
	dmi := func(name string) string { return r.text(r.Sys, "class/dmi/id", name) }
	inv.System = wire.System{Manufacturer: dmi("sys_vendor"), Product: dmi("product_name"),
		Serial: dmi("product_serial"), UUID: strings.ToLower(dmi("product_uuid"))}
	inv.Firmware = r.firmware()
	var err error
	if inv.CPU, err = r.cpu(); err != nil {
		return inv, err
	}
	if inv.Memory, err = r.memory(); err != nil {
		return inv, err
	}
	if inv.Disks, err = r.disks(); err != nil {
		return inv, err
	}
	if inv.NICs, err = r.nics(); err != nil {
		return inv, err
	}
	if inv.PCI, inv.GPUs, err = r.pci(); err != nil {
		return inv, err
	}
	inv.BMC = r.bmc()
	return inv, nil
}

// text is a small file's content without surrounding blanks; "" when it cannot
// be read: sysfs attributes come and go with drivers.
func (r Roots) text(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(bytes.TrimRight(b, "\x00\n ")), ""))
}

func (r Roots) number(elem ...string) int64 {
	n, err := strconv.ParseInt(r.text(elem...), 0, 64)
	if err != nil {
		return 0
	}
	return n
}

// list names the entries of a directory in order; a missing one has none.
func (r Roots) list(elem ...string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(elem...))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("taking the inventory: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// link is the last element of a symbolic link's target.
func (r Roots) link(elem ...string) string {
	t, err := os.Readlink(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return filepath.Base(t)
}

// firmware: a kernel started by UEFI has /sys/firmware/efi; the variable
// SecureBoot is four bytes of attributes and one of value (UEFI 2.10 §3.3).
func (r Roots) firmware() wire.Firmware {
	f := wire.Firmware{Kind: wire.FirmwareBIOS, Vendor: r.text(r.Sys, "class/dmi/id/bios_vendor"), Version: r.text(r.Sys, "class/dmi/id/bios_version")}
	efi := filepath.Join(r.Sys, "firmware/efi")
	if st, err := os.Stat(efi); err == nil && st.IsDir() {
		f.Kind = wire.FirmwareUEFI
		b, err := os.ReadFile(filepath.Join(efi, "efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
		f.SecureBoot = err == nil && len(b) == 5 && b[4] == 1
	}
	return f
}

// cpu counts what the kernel runs on; sockets and cores by their ids.
func (r Roots) cpu() (wire.CPU, error) {
	b, err := os.ReadFile(filepath.Join(r.Proc, "cpuinfo"))
	if err != nil {
		return wire.CPU{}, fmt.Errorf("taking the inventory: %w", err)
	}
	c := wire.CPU{Arch: runtime.GOARCH}
	sockets, cores := map[string]bool{}, map[string]bool{}
	var socket string
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			c.Threads++
			socket = ""
		case "model name":
			c.Model = value
		case "physical id":
			socket = value
			sockets[value] = true
		case "core id":
			cores[socket+"/"+value] = true
		}
	}
	// Kernels on other architectures have no ids there: one socket, and each
	// thread is a core unless sysfs knows better.
	if len(sockets) == 0 {
		cpus, err := r.list(r.Sys, "devices/system/cpu")
		if err != nil {
			return c, err
		}
		for _, cpu := range cpus {
			top := filepath.Join(r.Sys, "devices/system/cpu", cpu, "topology")
			if core := r.text(top, "core_id"); core != "" {
				pkg := r.text(top, "physical_package_id")
				sockets[pkg], cores[pkg+"/"+core] = true, true
			}
		}
	}
	c.Sockets, c.Cores = max(1, len(sockets)), len(cores)
	if c.Cores == 0 {
		c.Cores = c.Threads
	}
	return c, nil
}

// memory is the sum of the memory devices of SMBIOS type 17 (DSP0134 §7.18),
// or what the kernel has, if firmware says less or nothing.
func (r Roots) memory() (int64, error) {
	b, err := os.ReadFile(filepath.Join(r.Proc, "meminfo"))
	if err != nil {
		return 0, fmt.Errorf("taking the inventory: %w", err)
	}
	var kernel int64
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			if kernel, err = strconv.ParseInt(f[1], 10, 64); err != nil {
				return 0, fmt.Errorf("taking the inventory: MemTotal: %w", err)
			}
			kernel *= 1024
		}
	}
	var installed int64
	// Not readable in some virtual machines: then there is nothing to add up.
	if table, err := os.ReadFile(filepath.Join(r.Sys, "firmware/dmi/tables/DMI")); err == nil {
		installed = smbiosMemory(table)
	}
	return max(installed, kernel), nil
}
