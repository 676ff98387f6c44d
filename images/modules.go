package images

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// agentModules are the kernel modules that the agent's ramdisk carries, beside
// what they depend on. Modules that a kernel has built in or does not have are
// passed over, except those of mustModules.
var agentModules = []string{
	// network
	"virtio_net", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
	"bnx2", "bnx2x", "bnxt_en", "tg3", "mlx4_en", "mlx5_core", "r8169", "8139cp", "8139too", "atlantic",
	"be2net", "cxgb4", "ena", "enic", "gve", "mana", "nfp", "qede", "qlcnic", "sfc", "vmxnet3", "hv_netvsc",
	"ionic", "8021q", "bonding", "af_packet", "realtek", "broadcom", "marvell", "cdc_ether", "cdc_ncm", "rndis_host", "usbnet",
	// storage
	"nvme", "vmd", "ahci", "ata_piix", "ata_generic", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "sg", "ses",
	"megaraid_sas", "mpt3sas", "mpi3mr", "aacraid", "hpsa", "smartpqi", "arcmsr", "isci", "pm80xx", "mvsas",
	"mptsas", "mptspi", "sym53c8xx", "vmw_pvscsi", "hv_storvsc", "lpfc", "qla2xxx", "fnic", "scsi_transport_spi",
	"usb_storage", "uas", "xhci_pci", "ehci_pci", "ohci_pci", "uhci_hcd", "loop",
	"raid0", "raid1", "raid10", "raid456", "dm_mod", "dm_crypt",
	// platform
	"virtio_pci", "virtio_rng", "virtio_console", "ipmi_si", "ipmi_ssif", "ipmi_devintf", "ipmi_poweroff", "ipmi_watchdog",
	"efivarfs", "efi_pstore", "qemu_fw_cfg", "dmi_sysfs", "msr", "i2c_i801", "i2c_piix4", "hv_vmbus", "hv_utils",
	"usbhid", "hid_generic", "atkbd", "i8042", "edac_mce_amd", "tpm_tis", "tpm_crb", "sp5100_tco", "iTCO_wdt",
	// arm64's servers: NICs and disks of Kunpeng, disks and USB that are no PCI
	// functions, and the I2C controllers behind which the BMC of Grace and Altra is
	"hns3", "hisi_sas_v2_hw", "hisi_sas_v3_hw", "ahci_platform", "xhci_plat_hcd", "virtio_mmio", "i2c_tegra", "i2c_designware_platform",
	// file systems
	"ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8",
	// checksums that file systems ask the kernel's crypto layer for
	"crc32c_generic", "crc32c_intel", "crct10dif_generic", "crct10dif_pclmul", "crc64_rocksoft_generic", "libcrc32c",
}

// mustModules are those without which a ramdisk is of no use.
var mustModules = []string{"virtio_net", "e1000e", "igb", "ixgbe", "i40e", "ice", "bnxt_en", "mlx5_core", "tg3",
	"nvme", "ahci", "sd_mod", "virtio_blk", "megaraid_sas", "mpt3sas", "ext4", "vfat", "ipmi_si", "ipmi_devintf"}

// moduleName is the kernel's name of a module file: dashes are underscores.
func moduleName(p string) string {
	base := path.Base(p)
	i := strings.Index(base, ".ko")
	if i < 0 {
		return ""
	}
	return strings.ReplaceAll(base[:i], "-", "_")
}

// pickModules returns the paths of the wanted modules and of all that they
// depend on, sorted. files are the modules by path, builtin the content of
// modules.builtin. A module that is compressed (Debian from 13 on, Ubuntu from
// 24.04 on) becomes plain, in files and by its path: the ramdisk is compressed
// as a whole, and the depmod and modprobe in it need to know of no compression.
func pickModules(files tree, builtin []byte, want, must []string) ([]string, error) {
	byName := map[string]string{}
	for p := range files {
		if n := moduleName(p); n != "" {
			byName[n] = p
		}
	}
	built := map[string]bool{}
	for line := range bytes.Lines(builtin) {
		built[moduleName(string(bytes.TrimSpace(line)))] = true
	}
	need := map[string]bool{}
	var add func(name, from string) error
	add = func(name, from string) error {
		name = strings.ReplaceAll(name, "-", "_")
		p, ok := byName[name]
		if !ok {
			if built[name] || from == "" {
				return nil
			}
			return fmt.Errorf("kernel module %s depends on %s, which the kernel package does not have", from, name)
		}
		f, err := plainModule(p, files[p])
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		if f.Path != p {
			delete(files, p)
			p = f.Path
			files[p], byName[name] = f, p
		}
		if need[p] {
			return nil
		}
		need[p] = true
		info, err := moduleInfo(files[p].Data)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		for _, list := range info["depends"] {
			for dep := range strings.SplitSeq(list, ",") {
				if dep == "" {
					continue
				}
				if err := add(dep, name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, name := range want {
		if err := add(name, ""); err != nil {
			return nil, err
		}
	}
	for _, name := range must {
		if p, ok := byName[name]; !built[name] && (!ok || !need[p]) {
			return nil, fmt.Errorf("the kernel package has no module %s, which the agent needs; is it a cloud or otherwise trimmed kernel?", name)
		}
	}
	out := make([]string, 0, len(need))
	for p := range need {
		out = append(out, p)
	}
	slices.Sort(out)
	return out, nil
}

// plainModule is a module without compression, with the path that it then has.
func plainModule(p string, f debFile) (debFile, error) {
	stem, ext := strings.TrimSuffix(p, path.Ext(p)), path.Ext(p)
	f.Path = p
	var r io.Reader
	var err error
	switch ext {
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(f.Data))
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(f.Data))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(f.Data), zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return f, nil
	}
	if err == nil {
		f.Data, err = io.ReadAll(r)
	}
	if err != nil {
		return debFile{}, fmt.Errorf("uncompressing /%s: %w", p, err)
	}
	f.Path = stem
	return f, nil
}

// moduleInfo reads the section .modinfo of a module: NUL-separated key=value
// (include/linux/moduleparam.h).
func moduleInfo(ko []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, fmt.Errorf("reading it as ELF: %w", err)
	}
	sec := f.Section(".modinfo")
	if sec == nil {
		return nil, fmt.Errorf("it has no section .modinfo")
	}
	data, err := sec.Data()
	if err != nil {
		return nil, fmt.Errorf("reading its section .modinfo: %w", err)
	}
	out := map[string][]string{}
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok {
			out[k] = append(out[k], v)
		}
	}
	return out, nil
}
