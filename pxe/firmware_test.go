//go:build linux

package pxe

import (
	"fmt"
	"strings"
	"testing"
)

// TestFirmwareBootsKernel boots real firmware to an init that prints files of
// two ramdisks.
func TestFirmwareBootsKernel(t *testing.T) {
	for _, tc := range []struct {
		name   string
		args   func(t *testing.T) []string
		loader string
		uefi   bool
		row    matrixRow
	}{
		{"BIOS with iPXE ROM", func(*testing.T) []string { return bios() }, "", false, matrixRow{fwSeaBIOS, "PXE → script → kernel, 2 ramdisks"}},
		{"UEFI PXE then snponly", func(t *testing.T) []string { return uefi(t) }, "tftp.read", true, matrixRow{fwOVMF, "PXE → snponly.efi → script → kernel, 2 ramdisks"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns, f := firmwareRig(t, testKernel(t))
			ramdisks(t, f)
			m := qemu(t, ns, tc.args(t)...)
			m.await(t, f, "kernel fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool {
					return e.Kind == "http.get" && e.Name == "agent/vmlinuz" && e.Err == nil
				})
				return ok
			})
			m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
			want := "MARK a=first b=second!"
			if !strings.Contains(m.console(), want) || !strings.Contains(m.console(), "fettle.mark=via-pxe") {
				con := m.console()
				t.Errorf("console lacks %q and the command line:\n%s", want, con[max(0, len(con)-3000):])
			}
			if tc.loader != "" {
				if _, ok := f.timeline.find(func(e Exchange) bool {
					return e.Kind == tc.loader && e.Err == nil && e.Bytes > 0 && e.MAC != nil
				}); !ok {
					t.Errorf("timeline has no %s:\n%s", tc.loader, f.timeline.text())
				}
			}
			c := f.asked[len(f.asked)-1]
			if c.UUID != testUUID {
				t.Errorf("Client.UUID = %q; want %q: byte order of option 97", c.UUID, testUUID)
			}
			if !c.IPXE || c.UEFI != tc.uefi || c.Addr != testAddr {
				t.Errorf("last Client = %+v; want iPXE, UEFI %v, address %v", c, tc.uefi, testAddr)
			}
			m.saw(t, tc.row.firmware, tc.row.way, "the ramdisk's init runs")
		})
	}
}

// TestFirmwareHTTPBoot boots OVMF by HTTP alone.
func TestFirmwareHTTPBoot(t *testing.T) {
	ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
	m := qemu(t, ns, uefi(t, "IPv4PXESupport")...)
	m.await(t, f, "script fetched", func() bool {
		_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" })
		return ok
	})
	for _, kind := range []string{"http.head", "http.get"} {
		if _, ok := f.timeline.find(func(e Exchange) bool {
			return e.Kind == kind && e.Name == "loaders/snponly.efi" && e.Err == nil
		}); !ok {
			t.Errorf("timeline has no %s of snponly.efi:\n%s", kind, f.timeline.text())
		}
	}
	m.saw(t, fwOVMF, "HTTP boot → snponly.efi → script", "the script is fetched")
}

// TestFirmwareBootsDisk has machines that ask the network first and are told
// to boot their disk: item 22, the decision is the server's.
func TestFirmwareBootsDisk(t *testing.T) {
	disk := func(path string) []string {
		return []string{"-drive", "if=none,id=d0,format=raw,file=" + path, "-device", "virtio-blk-pci,drive=d0,bootindex=2"}
	}
	t.Run("BIOS by sanboot", func(t *testing.T) {
		ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
		f.decision = Decision{Action: BootDisk, Reason: "ready"}
		m := qemu(t, ns, append(bios(), disk(bootDisk(t, "MARK-FROM-DISK"))...)...)
		m.await(t, f, "disk started", func() bool { return strings.Contains(m.console(), "MARK-FROM-DISK") })
		if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" }); !ok {
			t.Errorf("the disk started without the script:\n%s", f.timeline.text())
		}
		m.saw(t, fwSeaBIOS, "PXE → script → disk", "the disk starts, by sanboot")
	})
	// The firmware itself is told to leave, by a boot file that is missing: PXE
	// goes on to HTTP boot, as that does to what comes next. The test below
	// sees the way to the end.
	t.Run("UEFI by a missing file", func(t *testing.T) {
		ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
		f.decision = Decision{Action: BootDisk, Reason: "ready"}
		m := qemu(t, ns, uefi(t)...)
		m.await(t, f, "went on from PXE to HTTP boot", func() bool {
			_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "http.get" })
			return ok
		})
		for _, kind := range []string{"tftp.read", "http.get"} {
			if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == kind }); !ok || e.Name != quirkNextDevice || e.Bytes != 0 || e.Err != nil {
				t.Errorf("%s = %+v; want a request for %s alone", kind, e, quirkNextDevice)
			}
		}
		m.saw(t, fwOVMF, "PXE, told to boot its disk", "goes on to its next boot entry at once")
	})
	// iPXE from the network is told to leave: exit 1 makes the firmware go on.
	t.Run("UEFI by exit status", func(t *testing.T) {
		ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
		f.booter = booterFunc(func(c Client) (Decision, error) {
			if c.IPXE || c.HTTP {
				return Decision{Action: BootDisk, Reason: "ready"}, nil
			}
			return f.decision, nil
		})
		m := qemu(t, ns, append(uefi(t), disk(espDisk(t))...)...)
		m.await(t, f, "disk started", func() bool { return strings.Count(m.console(), ipxeStarts) >= 2 })
		if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" }); !ok {
			t.Errorf("the disk started without the script:\n%s", f.timeline.text())
		}
		loaders := 0
		f.timeline.find(func(e Exchange) bool {
			if e.Kind == "tftp.read" && e.Bytes > 0 {
				loaders++
			}
			return false
		})
		if loaders != 1 {
			t.Errorf("%d loaders fetched; want 1 from the network, the second iPXE from the disk:\n%s", loaders, f.timeline.text())
		}
		m.saw(t, fwOVMF, "PXE → snponly.efi → script → disk", "goes on to its disk, which starts, by exit 1")
	})
}

// ipxeStarts is the first line of iPXE on the console.
const ipxeStarts = "iPXE initialising devices"

// TestFirmwareRetries has a kernel that never loads: the script tries a
// bounded number of times, says so on the console, and leaves.
func TestFirmwareRetries(t *testing.T) {
	ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi")
	delete(f.files.(mapFiles), "agent/vmlinuz")
	m := qemu(t, ns, bios()...)
	m.await(t, f, "gave up", func() bool { return strings.Contains(m.console(), "fettle: giving up") })
	con := m.console()
	for try := 1; try <= scriptTries; try++ {
		if s := fmt.Sprintf("(try %d of %d)", try, scriptTries); !strings.Contains(con, s) {
			t.Errorf("console lacks %q:\n%s", s, con[max(0, len(con)-3000):])
		}
	}
	misses := 0
	f.timeline.find(func(e Exchange) bool {
		if e.Kind == "http.get" && strings.Contains(e.Text, "no such file: agent/vmlinuz") {
			misses++
		}
		return false
	})
	if misses != scriptTries {
		t.Errorf("%d refusals recorded; want %d:\n%s", misses, scriptTries, f.timeline.text())
	}
	m.saw(t, fwSeaBIOS, "PXE → script, kernel missing", "4 tries, then it gives up and says so")
}
