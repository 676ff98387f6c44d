//go:build linux

package pxe

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestFirmwareSecureBoot boots OVMF with Secure Boot on and Microsoft's keys
// enrolled: shim, Debian's signed GRUB, Debian's signed kernel.
func TestFirmwareSecureBoot(t *testing.T) {
	// The kernel itself says that Secure Boot is on.
	t.Run("kernel and two ramdisks", func(t *testing.T) {
		ns, f := firmwareRig(t, testKernel(t))
		ramdisks(t, f)
		f.decision.Loader = LoaderSigned
		m := qemu(t, ns, uefiSecure(t, f)...)
		m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
		con := m.console()
		for _, want := range []string{"MARK a=first b=second!", "fettle.mark=via-pxe", "secureboot: Secure boot enabled",
			"fettle: machine " + testMAC.String(), "fettle: starting vmlinuz"} {
			if !strings.Contains(con, want) {
				t.Errorf("console lacks %q:\n%s", want, con[max(0, len(con)-5000):])
			}
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" }); !ok || e.MAC.String() != testMAC.String() || e.Bytes == 0 {
			t.Errorf("script on the timeline = %+v; want the machine's GRUB configuration:\n%s", e, f.timeline.text())
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Err != nil }); ok {
			t.Errorf("the timeline of a good boot tells of a failure: %s", e.Text)
		}
		m.saw(t, fwSecure, "PXE → shim → GRUB → kernel, 2 ramdisks", "the ramdisk's init runs; the kernel says that Secure Boot is on")
	})
	// Without its kernel it tries a bounded number of times, says so, and goes
	// on to the disk, whose own shim starts.
	t.Run("gives up and starts the disk", func(t *testing.T) {
		ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
		delete(f.files.(mapFiles), "agent/vmlinuz")
		f.decision.Loader = LoaderSigned
		disk := signedDisk(t, "MARK-FROM-SIGNED-DISK")
		m := qemu(t, ns, append(uefiSecure(t, f), "-drive", "if=none,id=d0,format=raw,file="+disk, "-device", "virtio-blk-pci,drive=d0,bootindex=2")...)
		m.await(t, f, "disk started", func() bool { return strings.Contains(m.console(), "MARK-FROM-SIGNED-DISK") })
		con := m.console()
		if got := strings.Count(con, "fettle: loading vmlinuz (try "); got != scriptTries {
			t.Errorf("%d tries on the console; want %d:\n%s", got, scriptTries, con[max(0, len(con)-5000):])
		}
		misses := 0
		f.timeline.find(func(e Exchange) bool {
			if strings.Contains(e.Text, "did not get") && strings.Contains(e.Text, "agent/vmlinuz") {
				misses++
			}
			return false
		})
		if misses != scriptTries {
			t.Errorf("%d refusals recorded; want %d:\n%s", misses, scriptTries, f.timeline.text())
		}
		m.saw(t, fwSecure, "PXE → shim → GRUB, kernel missing", "4 tries, then the disk's own shim starts")
	})
	// Nobody said that the machine has Secure Boot on: it refuses iPXE, and from
	// then on is given what it may start. By HTTP that is nothing: it is told so.
	// Switched on again, it comes to its kernel.
	t.Run("unsigned loader", func(t *testing.T) {
		ns, f := firmwareRig(t, testKernel(t))
		ramdisks(t, f)
		m := qemu(t, ns, uefiSecure(t, f)...)
		m.await(t, f, "went on from PXE to HTTP boot, and from there", func() bool {
			_, ok := f.timeline.find(func(e Exchange) bool { return strings.HasPrefix(e.Kind, "http.") && e.Name == quirkNotByHTTP })
			return ok
		})
		if con := m.console(); !strings.Contains(con, "Access Denied") || strings.Contains(con, ipxeStarts) {
			t.Errorf("console does not tell that the firmware refused iPXE:\n%s", con[max(0, len(con)-3000):])
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.restarted" }); !ok || !strings.Contains(e.Text, "is Secure Boot on?") {
			t.Errorf("the timeline says %+v; want that the loader did not start", e)
		}
		if got := decode(t, f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)).BootFileNameOption(); got != loaderShim {
			t.Errorf("the next PXE is offered %q; want %q", got, loaderShim)
		}
		m.saw(t, fwSecure, "PXE → snponly.efi (nobody said secure-boot)", "refused by the firmware; its next try gets shim")
		m.saw(t, fwSecure, "HTTP boot", "told that there is no way; goes on to its next boot entry")
		m.end(t)
		m = qemu(t, ns, uefiSecure(t, f)...)
		m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
		if con := m.console(); !strings.Contains(con, "secureboot: Secure boot enabled") {
			t.Errorf("the kernel does not say that Secure Boot is on:\n%s", con[max(0, len(con)-3000):])
		}
		m.saw(t, fwSecure, "PXE, switched on again after that → shim → GRUB → kernel, 2 ramdisks", "the ramdisk's init runs; the kernel says that Secure Boot is on")
	})
}

// TestFirmwareSecureROM boots OVMF with Secure Boot on and iPXE in its NIC's
// ROM, which asks before the firmware does: the firmware starts no kernel for
// it, so it is sent to shim.
func TestFirmwareSecureROM(t *testing.T) {
	grub := func(f *fixture) func() bool {
		return func() bool {
			_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" && e.Name == grubConfig })
			return ok
		}
	}
	t.Run("secure-boot", func(t *testing.T) {
		ns, f := firmwareRig(t, testKernel(t))
		ramdisks(t, f)
		f.decision.Loader = LoaderSigned
		m := qemu(t, ns, withROM(uefiSecure(t, f), false)...)
		m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
		con := m.console()
		for _, want := range []string{"Open Source Network Boot Firmware", "fettle: starting the signed boot loader shimx64.efi (try 1 of 4)", "MARK a=first b=second!", "secureboot: Secure boot enabled"} {
			if !strings.Contains(con, want) {
				t.Errorf("console lacks %q:\n%s", want, con[max(0, len(con)-5000):])
			}
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Err != nil }); ok {
			t.Errorf("the timeline of a good boot tells of a failure: %s", e.Text)
		}
		m.saw(t, fwSecure, "iPXE in the NIC's ROM → script → shim → GRUB → kernel, 2 ramdisks", "the ramdisk's init runs; the kernel says that Secure Boot is on")
	})
	// Nobody said so: the script's kernel is not let start, iPXE tells, and the
	// next script sends it to shim.
	t.Run("nobody said so", func(t *testing.T) {
		ns, f := firmwareRig(t, testKernel(t))
		ramdisks(t, f)
		m := qemu(t, ns, withROM(uefiSecure(t, f), false)...)
		m.await(t, f, "GRUB asked for its configuration", grub(f))
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.refused" }); !ok || !strings.Contains(e.Text, "its firmware refuses unsigned kernels (Secure Boot on)") {
			t.Errorf("the timeline says %+v; want that the kernel was refused:\n%s", e, f.timeline.text())
		}
		m.saw(t, fwSecure, "iPXE in the NIC's ROM → script → kernel (nobody said secure-boot)", "refused by the firmware; the next script gets shim, and GRUB its configuration")
	})
	// What iPXE shows shim is made from two answers then.
	t.Run("ProxyDHCP", func(t *testing.T) {
		ns, f := proxyRig(t)
		f.decision.Loader = LoaderSigned
		ns.serve(t, f.Server, "br0")
		m := qemu(t, ns, withROM(uefiSecure(t, f), false)...)
		m.await(t, f, "GRUB asked for its configuration", grub(f))
		m.saw(t, fwSecure, "ProxyDHCP beside dnsmasq, iPXE in the NIC's ROM → script → shim → GRUB", "GRUB gets its configuration")
	})
}

// signedDisk is a disk as Debian installs itself on one: shim, the signed GRUB
// beside it, whose configuration says mark.
func signedDisk(t *testing.T, mark string) string {
	t.Helper()
	const grub = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
	needTool(t, "mkfs.vfat", "mmd", "mcopy", signedShim, grub)
	dir := t.TempDir()
	path, cfg := filepath.Join(dir, "esp.img"), filepath.Join(dir, "grub.cfg")
	if err := os.WriteFile(cfg, []byte("echo "+mark+"\nsleep 60\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"truncate", "-s", "64M", path},
		{"mkfs.vfat", path},
		{"mmd", "-i", path, "::EFI", "::EFI/BOOT", "::EFI/debian"},
		{"mcopy", "-i", path, signedShim, "::EFI/BOOT/BOOTX64.EFI"},
		{"mcopy", "-i", path, grub, "::EFI/BOOT/grubx64.efi"},
		{"mcopy", "-i", path, cfg, "::EFI/debian/grub.cfg"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return path
}
