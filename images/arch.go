package images

// arch is what differs between the processors that images are made for.
type arch struct {
	bios     bool     // machines may start from BIOS: the disk has GRUB for it, too
	packages []string // that bring its boot loaders
	// Where Debian and Ubuntu have shim, its key manager, and the signed GRUB that
	// reads disks; and what they are called in the EFI system partition's EFI/BOOT:
	// shim by the name that firmware looks for (UEFI 2.10 §3.5.1.1), the others by
	// those that shim looks for.
	shims, moks, grubs        []string
	bootName, mokName, grubAs string
	// consoles are the kernel's arguments for them; the last is /dev/console. None:
	// the kernel takes the serial port that the firmware names in its SPCR table.
	consoles string
	drivers  []string // in the image's own ramdisk beside initramfsModules
}

var archs = map[string]arch{
	amd64: {
		bios: true, packages: []string{"grub-pc-bin", "grub-efi-amd64-signed"},
		shims: []string{"usr/lib/shim/shimx64.efi.signed", "usr/lib/shim/shimx64.efi.signed.latest"},
		moks:  []string{"usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"},
		grubs: []string{"usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"},

		bootName: "BOOTX64.EFI", mokName: FileMokMgr, grubAs: FileGRUB,
		consoles: "console=tty0 console=ttyS0,115200",
	},
	arm64: {
		packages: []string{"grub-efi-arm64-signed"},
		shims:    []string{"usr/lib/shim/shimaa64.efi.signed", "usr/lib/shim/shimaa64.efi.signed.latest"},
		moks:     []string{"usr/lib/shim/mmaa64.efi.signed", "usr/lib/shim/mmaa64.efi"},
		grubs:    []string{"usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"},

		bootName: "BOOTAA64.EFI", mokName: FileMokMgrARM64, grubAs: FileGRUBARM64,
		drivers: []string{"ahci_platform", "hisi_sas_v2_hw", "hisi_sas_v3_hw", "virtio_mmio", "xhci_plat_hcd"},
	},
}
