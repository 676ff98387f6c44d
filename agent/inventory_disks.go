package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
)

// notDisks are block devices that hold nothing of their own: RAM, loops,
// optical and floppy drives, device mapper, RAID, network block devices, and
// the hardware partitions of eMMC.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|sr|fd|dm-|md|nbd|mtdblock|mmcblk\d+(boot|rpmb))`)

func (r Roots) disks() ([]wire.Disk, error) {
	names, err := r.list(r.Sys, "block")
	if err != nil {
		return nil, err
	}
	disks := []wire.Disk{}
	for _, name := range names {
		dir := filepath.Join(r.Sys, "block", name)
		if notDisks.MatchString(name) {
			continue
		}
		// The path behind an NVMe multipath head is not a disk of its own.
		if r.text(dir, "hidden") == "1" {
			continue
		}
		n := r.number(dir, "size") * 512 // always in units of 512 bytes
		if n == 0 {
			continue // an empty card reader
		}
		disks = append(disks, wire.Disk{
			Name: name, Serial: r.diskSerial(dir), Model: r.diskModel(dir), Bytes: n, Transport: r.transport(name, dir),
			SectorSize: int(r.number(dir, "queue/logical_block_size")),
			Removable:  r.text(dir, "removable") == "1", ReadOnly: r.text(dir, "ro") == "1",
		})
	}
	return disks, nil
}

// diskSerial looks where each driver puts it: virtio in serial, NVMe in
// device/serial, SCSI and ATA in the vital product data page 80 (SPC-4
// §7.8.15: four bytes of header), others in the world-wide name.
func (r Roots) diskSerial(dir string) string {
	for _, f := range []string{"serial", "device/serial"} {
		if s := r.text(dir, f); s != "" {
			return s
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(b) > 4 {
		if s := printable(b[4:]); s != "" {
			return s
		}
	}
	if s := r.text(dir, "device/wwid"); s != "" {
		// "t10.ATA     QEMU HARDDISK                           QM00001   "
		if f := strings.Fields(s); strings.HasPrefix(s, "t10.") && len(f) > 1 {
			return f[len(f)-1]
		}
		return s
	}
	return r.text(dir, "wwid")
}

func (r Roots) diskModel(dir string) string {
	model := r.text(dir, "device/model")
	if vendor := r.text(dir, "device/vendor"); vendor != "" && vendor != "ATA" && !strings.HasPrefix(vendor, "0x") && model != "" {
		return vendor + " " + model
	}
	return model
}

func (r Roots) transport(name, dir string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	}
	path, err := filepath.EvalSymlinks(dir)
	switch {
	case err == nil && strings.Contains(path, "/usb"):
		return "usb"
	case err == nil && strings.Contains(path, "/ata"):
		return "sata"
	case r.text(dir, "device/vendor") == "ATA":
		return "sata"
	}
	return "scsi"
}

// printable keeps the visible part of a fixed-width field.
func printable(b []byte) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, string(b)))
}
