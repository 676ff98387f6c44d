package labs

import (
	"cmp"

	"github.com/fettle-dev/fettle/site"
)

// board is the kind of virtual machine that stands for machines of an
// architecture.
type board struct {
	arch, machine string // as libvirt and QEMU call them
	emulator, pkg string // QEMU's program and its package
	cpu           string // without KVM; "" = QEMU's own choice
	uefi, secure  []ovmf // where distributions keep its firmware
	firmwarePkg   string
	apic, smm     bool   // what x86 alone has
	cd            string // the bus of its CD drive
	kcs           string // the device through which the guest speaks to its BMC; "" = none
	biosVersion   string // what the BMC says of UEFI firmware
	cpuModel      string
}

var boards = map[string]board{
	site.AMD64: {
		arch: "x86_64", machine: "q35", emulator: "qemu-system-x86_64", pkg: "qemu-system-x86",
		uefi: firmwares[:], secure: secureFirmwares[:], firmwarePkg: "ovmf", apic: true, smm: true, cd: "sata", kcs: "isa-ipmi-kcs",
		biosVersion: "OVMF", cpuModel: "QEMU virtual CPU",
	},
	// QEMU for ARM has no IPMI devices. Cortex-A57 has what Debian needs and is
	// quick to emulate; max is not, for its pointer authentication.
	site.ARM64: {
		arch: "aarch64", machine: "virt", emulator: "qemu-system-aarch64", pkg: "qemu-system-arm", cpu: "cortex-a57",
		uefi: armFirmwares[:], secure: armSecureFirmwares[:], firmwarePkg: "qemu-efi-aarch64", cd: "scsi",
		biosVersion: "AAVMF", cpuModel: "Cortex-A57",
	},
}

// armFirmwares are where distributions keep UEFI firmware for QEMU's virt.
// Debian, Ubuntu; Fedora; Arch; SUSE.
var armFirmwares = [...]ovmf{
	{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
	{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"},
	{"/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"},
	{"/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"},
}

// armSecureFirmwares is the same with Secure Boot on and Microsoft's keys
// enrolled, which Debian, Ubuntu and SUSE have.
var armSecureFirmwares = [...]ovmf{
	{"/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"},
	{"/usr/share/qemu/aavmf-aarch64-ms-code.bin", "/usr/share/qemu/aavmf-aarch64-ms-vars.bin"},
}

// engine is what this machine has to run an architecture's machines with.
type engine struct {
	emulator      string // path
	msec          bool   // it knows a socket's reconnect-ms, and perhaps no longer reconnect
	plain, secure ovmf
}

// board is the machine's kind.
func (m MachinePlan) board() board { return boards[cmp.Or(m.Arch, site.AMD64)] }
