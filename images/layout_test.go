package images

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
)

// TestESP: the EFI system partition is FAT32 to whoever counts its clusters,
// in sectors of 512 bytes and in those of 4096 that the agent makes of them:
// everything behind the boot sectors is whole sectors of either.
func TestESP(t *testing.T) {
	needTool(t, "mkfs.vfat", "fsck.vfat", "mmd", "mcopy")
	dir := t.TempDir()
	esp := filepath.Join(dir, "esp.img")
	boot := bootFiles{shim: bytes.Repeat([]byte("shim "), 2000), grub: bytes.Repeat([]byte("GRUB "), 200_000)}
	if err := testBuilder(t).makeESP(t.Context(), DiskSpec{OS: site.OSDebian, Arch: amd64}, dir, esp, boot, newIDs("sha256:00")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.vfat", "-n", esp).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat = %v; want no complaint\n%s", err, out)
	}
	grub := filepath.Join(dir, "grub")
	cmd := exec.Command("mcopy", "-i", esp, "::/EFI/BOOT/grubx64.efi", grub)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil || mustRead(t, grub) != string(boot.grub) {
		t.Errorf("mcopy = %v; want GRUB as it was put there\n%s", err, out)
	}
	b := []byte(mustRead(t, esp)[:512])
	// Microsoft's FAT specification 1.03: BPB_BytsPerSec and what follows.
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	sectors, reserved, table := u16(11), u16(14)*512, u32(36)*512
	clusters := (u32(32)*512 - reserved - 2*table) / 4096
	if sectors != 512 || b[13] != 8 || reserved%4096 != 0 || reserved < 8*4096 || table%4096 != 0 || table == 0 {
		t.Errorf("the ESP has sectors of %d, clusters of %d of them, %d reserved bytes, tables of %d; want 512, 8, multiples of 4096", sectors, b[13], reserved, table)
	}
	if clusters < 65525 {
		t.Errorf("the ESP has %d clusters of 4096 bytes; want at least 65525, or it is FAT16", clusters)
	}
	if fi, err := os.Stat(esp); err != nil || fi.Size()%4096 != 0 || rootStart%(4*mebi) != 0 {
		t.Errorf("the ESP has %v bytes (%v), root begins at %d; want whole chunks", fi, err, rootStart)
	}
	if !strings.HasPrefix(string(b[82:]), "FAT32") {
		t.Errorf("the ESP's type is %q; want FAT32", b[82:90])
	}
}
