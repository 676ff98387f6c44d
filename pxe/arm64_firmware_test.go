//go:build linux

package pxe

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirmwareARM64 boots AAVMF by PXE (shim and Debian's signed GRUB for arm64)
// and by HTTP (the kernel as a unified image) to Debian's arm64 kernel and an
// init in two ramdisks.
func TestFirmwareARM64(t *testing.T) {
	const code, vars = "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"
	needTool(t, "qemu-system-aarch64", code, vars)
	files := fetchARM64(t)
	for _, tc := range []struct {
		name, off, way, kind, file string
	}{
		{"PXE", "IPv4HTTPSupport", "PXE → shim → GRUB → kernel, 2 ramdisks", "tftp.read", "loaders/" + loaderShimAA64},
		{"HTTP", "IPv4PXESupport", "HTTP boot → unified kernel image", "http.get", ukiName(testMAC)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns, f := firmwareRig(t, files["vmlinuz"])
			ramdisksFor(t, f, "arm64", "ttyAMA0", 204, 64)
			have := f.files.(mapFiles)
			for _, name := range []string{loaderShimAA64, loaderGRUBAA64, loaderStubAA64} {
				have["loaders/"+name] = "@" + files[name]
			}
			f.decision.Cmdline = "console=ttyAMA0 panic=-1 fettle.mark=via-pxe"
			b, err := os.ReadFile(vars)
			if err != nil {
				t.Fatal(err)
			}
			nvram := filepath.Join(t.TempDir(), "vars.fd")
			if err := os.WriteFile(nvram, b, 0o600); err != nil {
				t.Fatal(err)
			}
			m := qemuArch(t, ns, "aarch64", "-machine", "virt", "-cpu", "cortex-a57",
				"-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+nvram,
				"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/"+tc.off+",string=n",
				"-device", "virtio-net-pci,netdev=n0,romfile=,bootindex=1,mac="+testMAC.String())
			m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
			con := m.console()
			for _, want := range []string{"MARK a=first b=second!", "fettle.mark=via-pxe"} {
				if !strings.Contains(con, want) {
					t.Errorf("console lacks %q:\n%s", want, con[max(0, len(con)-5000):])
				}
			}
			if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == tc.kind && e.Name == tc.file && e.Err == nil && e.Bytes > 0 }); !ok {
				t.Errorf("timeline has no %s of %s:\n%s", tc.kind, tc.file, f.timeline.text())
			}
			if c := f.asked[len(f.asked)-1]; !c.UEFI || !strings.HasPrefix(c.Arch.String(), "UEFI ARM64") {
				t.Errorf("last Client = %+v; want UEFI ARM64", c)
			}
			m.saw(t, fwAAVMF, tc.way, "the ramdisk's init runs")
		})
	}
}

// fetchARM64 gets arm64's shim, GRUB and cloud kernel from the machine's own
// archive, once: apt with lists of its own, nothing of the machine's changed.
func fetchARM64(t *testing.T) map[string]string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		missing(t, "no folder to keep arm64 packages in: %v", err)
	}
	cache = filepath.Join(cache, "fettle-test", "arm64")
	files := map[string]string{}
	for _, name := range []string{"vmlinuz", loaderShimAA64, loaderGRUBAA64, loaderStubAA64} {
		files[name] = filepath.Join(cache, name)
	}
	if haveTool(filepath.Join(cache, "done-2")) {
		return files
	}
	needTool(t, "apt-get", "apt-cache", "dpkg-deb")
	const script = `set -e; umask 022; export LC_ALL=C; cd "$1"; mkdir -p state/lists/partial cache/archives/partial deb x; : > status
cat > apt.conf <<EOF
Dir::State "$1/state"; Dir::State::status "$1/status"; Dir::Cache "$1/cache";
APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";
EOF
export APT_CONFIG="$1/apt.conf"; apt-get update -qq
p=$(apt-cache depends linux-image-cloud-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
cd deb; apt-get download -qq "$p" shim-signed grub-efi-arm64-signed systemd-boot-efi; for d in *.deb; do dpkg-deb -x "$d" ../x; done; cd ..
mkdir -p "$2"; cp x/boot/vmlinuz-* "$2/vmlinuz"; cp x/usr/lib/shim/shimaa64.efi.signed "$2/shimaa64.efi"
cp x/usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed "$2/grubaa64.efi"
cp x/usr/lib/systemd/boot/efi/linuxaa64.efi.stub "$2/"; : > "$2/done-2"`
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", t.TempDir(), cache).CombinedOutput(); err != nil {
		missing(t, "arm64 packages: %v\n%s", errors.Join(err, ctx.Err()), out)
	}
	return files
}
