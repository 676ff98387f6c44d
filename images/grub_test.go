package images

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestEmbedGRUB(t *testing.T) {
	boot := bytes.Repeat([]byte{0xb0}, sector)
	boot[510], boot[511] = 0x55, 0xaa
	core := bytes.Repeat([]byte{0xc0}, 5*sector+100)
	le := binary.LittleEndian
	le.PutUint16(core[grubBlockList+10:], grubKernelSeg)
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := bytes.Repeat([]byte{0x77}, 64)
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if err := embedGRUB(f, boot, core, 2048, 2048); err == nil {
		t.Error("embedGRUB on a disk without a table = nil; want an error")
	}
	f.WriteAt(table, 446)
	f.WriteAt([]byte{0x55, 0xaa}, 510)
	if err := embedGRUB(f, boot, core, 2048, 2048); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, sector)
	f.ReadAt(got, 0)
	if !bytes.Equal(got[446:510], table) || !bytes.Equal(got[mbrCodeEnd:446], make([]byte, 446-mbrCodeEnd)) {
		t.Errorf("the partition table or disk signature changed: % x", got[mbrCodeEnd:])
	}
	if n := le.Uint64(got[grubKernelSector:]); n != 2048 {
		t.Errorf("boot.img loads sector %d; want 2048", n)
	}
	if got[grubBootDrive] != 0xff || got[grubDriveCheck] != 0x90 || got[grubDriveCheck+1] != 0x90 || got[0] != 0xb0 {
		t.Errorf("boot.img is patched to % x", got[grubBootDrive:grubDriveCheck+2])
	}
	f.ReadAt(got, 2048*sector)
	if a, n := le.Uint64(got[grubBlockList:]), le.Uint16(got[grubBlockList+8:]); a != 2049 || n != 5 {
		t.Errorf("the block list says %d sectors from %d; want 5 from 2049", n, a)
	}
	for _, tt := range []struct {
		name       string
		boot, core []byte
		count      int64
		want       string
	}{
		{"core too big", boot, core, 5, "needs 6 sectors"},
		{"no boot sector", boot[:100], core, 2048, "boot.img"},
		{"no signature", make([]byte, sector), core, 2048, "boot.img"},
		{"short core", boot, core[:600], 2048, "core.img"},
		{"unknown segment", boot, bytes.Repeat([]byte{1}, 2*sector), 2048, "unknown version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := embedGRUB(f, tt.boot, tt.core, 2048, tt.count); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("embedGRUB = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestGRUBConfig(t *testing.T) {
	ids := newIDs("sha256:aa")
	cfg := grubConfig("Ubuntu", amd64, ids)
	// What wire.Deploy.KernelArgs asks of an image.
	for _, want := range []string{"if [ -f /boot/grub/fettle-args.cfg ]; then\n\tsource /boot/grub/fettle-args.cfg\nfi", "$fettle_args\n\tinitrd", "root=UUID=" + ids.root, "menuentry 'Ubuntu, previous kernel'", "linux $links/vmlinuz.old"} {
		if !strings.Contains(cfg, want) {
			t.Errorf("grub.cfg lacks %q:\n%s", want, cfg)
		}
	}
	if !strings.Contains(cfg, "ro console=tty0 console=ttyS0,115200 $fettle_args") || !strings.Contains(cfg, "serial --unit=0") {
		t.Errorf("grub.cfg of amd64 names no serial port:\n%s", cfg)
	}
	// The firmware says which serial port is the console.
	if arm := grubConfig("Ubuntu", arm64, ids); strings.Contains(arm, "console=") || strings.Contains(arm, "serial") || !strings.Contains(arm, " ro $fettle_args\n") {
		t.Errorf("grub.cfg of arm64 names a serial port:\n%s", arm)
	}
	if newIDs("sha256:aa") != ids || newIDs("sha256:ab") == ids {
		t.Error("newIDs does not follow its inputs")
	}
}

func TestGRUBConfigParses(t *testing.T) {
	needTool(t, "grub-script-check")
	for _, arch := range []string{amd64, arm64} {
		cmd := exec.Command("grub-script-check")
		cmd.Stdin = strings.NewReader(grubConfig("Debian GNU/Linux", arch, newIDs("sha256:aa")))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("grub-script-check of %s's: %v: %s", arch, err, out)
		}
	}
}
