//go:build linux

package pxe

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFirmwareUBoot boots U-Boot for arm64 as Debian builds it for QEMU: with
// its own environment, which asks for a script, and with the boot target "pxe"
// that many boards have (include/config_distro_bootcmd.h, BOOTENV_DEV_PXE).
func TestFirmwareUBoot(t *testing.T) {
	const uboot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
	needTool(t, "qemu-system-aarch64", uboot)
	files := fetchARM64(t)
	mac := net.HardwareAddr{0x52, 0x52, 0x52, 0x52, 0x52, 0x52} // that of its environment, whatever QEMU's card has
	for _, tc := range []struct {
		name, way, script, file string
	}{
		{"boot script", "boot target dhcp → boot.scr.uimg → pxelinux.cfg → kernel, 2 ramdisks", "", ubootScript},
		{"pxelinux.cfg", "boot target pxe → pxelinux.cfg → kernel, 2 ramdisks", "run boot_pci_enum; dhcp; if pxe get; then pxe boot; fi; ", ramdiskName(mac)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns, f := firmwareRig(t, files["vmlinuz"])
			f.leases.fixed[mac.String()] = testAddr
			ramdisksFor(t, f, "arm64", "ttyAMA0", 204, 64)
			f.decision.Cmdline = "console=ttyAMA0 panic=-1 fettle.mark=via-pxe"
			bios := uboot
			if tc.script != "" {
				bios = ubootWith(t, uboot, tc.script)
			}
			m := qemuArch(t, ns, "aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-bios", bios,
				"-device", "virtio-net-pci,netdev=n0,romfile=,mac="+mac.String())
			m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
			con := m.console()
			for _, want := range []string{"U-Boot 20", "MARK a=first b=second!", "fettle.mark=via-pxe"} {
				if !strings.Contains(con, want) {
					t.Errorf("console lacks %q:\n%s", want, con[max(0, len(con)-5000):])
				}
			}
			for _, want := range []func(Exchange) bool{
				func(e Exchange) bool {
					return e.Kind == "tftp.read" && e.Name == tc.file && e.Err == nil && e.Bytes > 0
				},
				func(e Exchange) bool { return e.Kind == "script" && e.Text == "fetched its U-Boot configuration" },
			} {
				if _, ok := f.timeline.find(want); !ok {
					t.Errorf("timeline lacks %s or the configuration:\n%s", tc.file, f.timeline.text())
				}
			}
			m.saw(t, fwUBoot, tc.way, "the ramdisk's init runs")
		})
	}
}

// ubootWith is a copy of U-Boot whose environment's bootcmd_dhcp is another:
// of the same length, as the environment is in the program.
func ubootWith(t *testing.T, path, script string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\x00bootcmd_dhcp="))
	end := bytes.IndexByte(rest, 0)
	if !ok || end < len(script) {
		t.Fatalf("%s has no bootcmd_dhcp of %d bytes", path, len(script))
	}
	copy(rest, fmt.Sprintf("%-*s", end, script)) // in b
	to := filepath.Join(t.TempDir(), "u-boot.bin")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
