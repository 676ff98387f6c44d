package pxe

import (
	"fmt"
	"path"
)

// Architectures of RFC 4578 §2.1 and the IANA registry.
const (
	ArchBIOS          Arch = 0
	ArchIA64          Arch = 2
	ArchIA32          Arch = 6
	ArchX64           Arch = 7 // the registry's numbers; RFC 4578 has 7 and 9 the other way round,
	ArchEBC           Arch = 9 // and firmware of both opinions exists: both mean x64
	ArchARM32         Arch = 10
	ArchARM64         Arch = 11
	ArchIA32HTTP      Arch = 15
	ArchX64HTTP       Arch = 16
	ArchEBCHTTP       Arch = 17
	ArchARM32HTTP     Arch = 18
	ArchARM64HTTP     Arch = 19
	ArchBIOSHTTP      Arch = 20
	ArchARM32UBoot    Arch = 21
	ArchARM64UBoot    Arch = 22
	ArchARM32UBootHT  Arch = 23
	ArchARM64UBootHT  Arch = 24
	ArchRISCV32       Arch = 25
	ArchRISCV32HTTP   Arch = 26
	ArchRISCV64       Arch = 27
	ArchRISCV64HTTP   Arch = 28
	ArchLoong64       Arch = 39
	ArchLoong64HTTP   Arch = 40
	ArchRaspberryPi41 Arch = 41
)

// Boot loaders, by their names below "loaders/".
const (
	loaderBIOS     = "undionly.kpxe"
	loaderSNP      = "snponly.efi"
	loaderNative   = "ipxe.efi"
	loaderShim     = "shimx64.efi"
	loaderGRUB     = "grubx64.efi" // what loaderShim asks for
	loaderShimAA64 = "shimaa64.efi"
	loaderGRUBAA64 = "grubaa64.efi" // what loaderShimAA64 asks for
	loaderStub     = "linuxx64.efi.stub"
	loaderStubAA64 = "linuxaa64.efi.stub"
)

// archInfo is what the server knows of an architecture.
type archInfo struct {
	name   string
	uefi   bool
	http   bool
	loader string // default loader; "" means that this server has none for it
	native string // loader with its own NIC drivers, if there is one
	stub   string // what a unified kernel image begins with, if there is one
	signed string // loader that firmware starts with Secure Boot on, if there is one
	// asks is what firmware without a loader asks the TFTP server for by itself.
	asks string
}

// archs is the whole table of FIELD-NOTES "DHCP and network boot", item 10.
// Firmware that has no loader here still gets its address, and a sentence on
// the machine's timeline says that no loader exists for it.
func archs(a Arch) (archInfo, bool) {
	switch a {
	case ArchBIOS:
		return archInfo{name: "BIOS", loader: loaderBIOS}, true
	case ArchIA64:
		return archInfo{name: "Itanium UEFI", uefi: true}, true
	case ArchIA32:
		return archInfo{name: "UEFI IA32", uefi: true}, true
	case ArchEBC, ArchX64:
		return archInfo{name: "UEFI x64", uefi: true, loader: loaderSNP, native: loaderNative, signed: loaderShim, stub: loaderStub}, true
	case ArchARM32:
		return archInfo{name: "UEFI ARM32", uefi: true}, true
	case ArchARM64:
		return archInfo{name: "UEFI ARM64", uefi: true, loader: loaderShimAA64, signed: loaderShimAA64, stub: loaderStubAA64}, true
	case ArchIA32HTTP:
		return archInfo{name: "UEFI IA32 HTTP", uefi: true, http: true}, true
	case ArchX64HTTP, ArchEBCHTTP:
		return archInfo{name: "UEFI x64 HTTP", uefi: true, http: true, loader: loaderSNP, native: loaderNative, signed: loaderShim, stub: loaderStub}, true
	case ArchARM32HTTP:
		return archInfo{name: "UEFI ARM32 HTTP", uefi: true, http: true}, true
	case ArchARM64HTTP:
		return archInfo{name: "UEFI ARM64 HTTP", uefi: true, http: true, loader: loaderShimAA64, signed: loaderShimAA64, stub: loaderStubAA64}, true
	case ArchBIOSHTTP:
		return archInfo{name: "BIOS HTTP", http: true, loader: loaderBIOS}, true
	case ArchARM32UBoot:
		return archInfo{name: "U-Boot ARM32"}, true
	case ArchARM64UBoot:
		return archInfo{name: "U-Boot ARM64", asks: pxelinuxFolder}, true
	case ArchARM32UBootHT:
		return archInfo{name: "U-Boot ARM32 HTTP", http: true}, true
	case ArchARM64UBootHT:
		return archInfo{name: "U-Boot ARM64 HTTP", http: true}, true
	case ArchRISCV32:
		return archInfo{name: "UEFI RISC-V 32", uefi: true}, true
	case ArchRISCV32HTTP:
		return archInfo{name: "UEFI RISC-V 32 HTTP", uefi: true, http: true}, true
	case ArchRISCV64:
		return archInfo{name: "UEFI RISC-V 64", uefi: true}, true
	case ArchRISCV64HTTP:
		return archInfo{name: "UEFI RISC-V 64 HTTP", uefi: true, http: true}, true
	case ArchLoong64:
		return archInfo{name: "UEFI LoongArch64", uefi: true}, true
	case ArchLoong64HTTP:
		return archInfo{name: "UEFI LoongArch64 HTTP", uefi: true, http: true}, true
	case ArchRaspberryPi41:
		return archInfo{name: "Raspberry Pi", asks: piConfig}, true
	}
	return archInfo{}, false
}

// String names the architecture, for sentences.
func (a Arch) String() string {
	if i, ok := archs(a); ok {
		return i.name
	}
	return fmt.Sprintf("architecture %d", uint16(a))
}

// signedFor is the loader that a client's firmware starts with Secure Boot on;
// "" if there is none.
func signedFor(c Client) string {
	if !c.ArchKnown {
		return ""
	}
	info, _ := archs(c.Arch)
	return info.signed
}

// buildArch is the architecture of a UEFI iPXE that says what it was built for
// (its setting buildarch).
func buildArch(name string) (Arch, bool) {
	switch name {
	case "x86_64":
		return ArchX64, true
	case "arm64":
		return ArchARM64, true
	}
	return 0, false
}

// signedLoader tells whether a fetched file is one that Secure Boot is meant
// to let through.
func signedLoader(name string) bool {
	switch path.Base(name) {
	case loaderShim, loaderGRUB, loaderShimAA64, loaderGRUBAA64:
		return true
	}
	return false
}
