package images

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

// The layout of a disk image: GPT; BIOS boot where machines may have a BIOS, EFI
// system, root, which is the last, so that the agent can grow it.
const (
	sector    = 512
	mebi      = 1 << 20
	biosStart = 1 * mebi
	biosSize  = 1 * mebi
	espStart  = 2 * mebi
	espSize   = 262 * mebi // see makeESP
	rootStart = espStart + espSize
	tailSize  = 1 * mebi // holds the backup of the partition table
)

// rootPart is the number of the root partition.
func rootPart(arch string) int {
	if archs[arch].bios {
		return 3
	}
	return 2
}

// diskIDs are the identifiers of a disk image, derived from its inputs, so that
// the same inputs give the same.
type diskIDs struct {
	disk, bios, esp, rootPart, root, hash string // UUIDs
	espSerial                             uint32 // FAT volume id
}

func newIDs(in blob.Digest) diskIDs {
	id := func(what string) string {
		s := sha256.Sum256([]byte(string(in) + " " + what))
		s[6] = s[6]&0x0f | 0x80 // version 8, RFC 9562 §5.8
		s[8] = s[8]&0x3f | 0x80
		return fmt.Sprintf("%x-%x-%x-%x-%x", s[0:4], s[4:6], s[6:8], s[8:10], s[10:16])
	}
	s := sha256.Sum256([]byte(string(in) + " esp"))
	return diskIDs{disk: id("disk"), bios: id("bios"), esp: id("esp partition"), rootPart: id("root partition"), root: id("root"), hash: id("hash"), espSerial: binary.BigEndian.Uint32(s[:])}
}

// espFSTab is the FAT volume id as udev writes it.
func (d diskIDs) espFSTab() string {
	return fmt.Sprintf("%04X-%04X", d.espSerial>>16, d.espSerial&0xffff)
}

// makeDisk makes the raw disk: table, boot loaders, file systems.
func (b *Builder) makeDisk(ctx context.Context, spec DiskSpec, dir string, trees mappedDir, disk, root string, boot bootFiles, ids diskIDs) error {
	size := spec.Size / mebi * mebi
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := trees.allow(disk, aclRead|aclWrite); err != nil { // mke2fs below is somebody else
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	rootSize := size - rootStart - tailSize
	if err := b.run(ctx, tool{args: []string{"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk}, pkg: "fdisk", stdin: strings.NewReader(partitions(spec.Arch, rootSize, ids))}); err != nil {
		return err
	}
	if archs[spec.Arch].bios {
		core, bootImg, err := b.biosLoader(ctx, root, ids)
		if err != nil {
			return err
		}
		if err := embedGRUB(f, bootImg, core, biosStart/sector, biosSize/sector); err != nil {
			return err
		}
	}
	esp := filepath.Join(dir, "esp.img")
	if err := b.makeESP(ctx, spec, dir, esp, boot, ids); err != nil {
		return err
	}
	if err := copyInto(f, espStart, esp); err != nil {
		return err
	}
	b.progress(Progress{Name: spec.Name, Stage: StageDisk, Text: "file systems"})
	conf := filepath.Join(filepath.Dir(disk), "mke2fs.conf")
	if err := os.WriteFile(conf, []byte(mke2fsConfig), 0o644); err != nil {
		return err
	}
	err = b.run(ctx, tool{args: mapped("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", ids.root,
		"-m", "1", "-E", fmt.Sprintf("offset=%d,hash_seed=%s,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", rootStart, ids.hash),
		"-d", root, disk, fmt.Sprintf("%dk", rootSize/1024)), pkg: "e2fsprogs",
		env: []string{"MKE2FS_CONFIG=" + conf, fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", ramdiskTime), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", ramdiskTime)}})
	if err != nil {
		return fmt.Errorf("%w; if the file system is too small, raise the image's size (%d MiB) in the site file", err, size/mebi)
	}
	return f.Sync()
}

// partitions is the partition table as sfdisk(8) reads it.
func partitions(arch string, rootSize int64, ids diskIDs) string {
	var t strings.Builder
	fmt.Fprintf(&t, "label: gpt\nlabel-id: %s\nunit: sectors\n", ids.disk)
	if archs[arch].bios {
		fmt.Fprintf(&t, "start=%d, size=%d, type=21686148-6449-6E6F-744E-656564454649, uuid=%s, name=\"bios\"\n", biosStart/sector, biosSize/sector, ids.bios)
	}
	fmt.Fprintf(&t, "start=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=%s, name=\"esp\"\n", espStart/sector, espSize/sector, ids.esp)
	fmt.Fprintf(&t, "start=%d, size=%d, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=%s, name=\"root\"\n", rootStart/sector, rootSize/sector, ids.rootPart)
	return t.String()
}

// mke2fsConfig is Debian 12's: the features of a root file system, whatever
// this machine's own mke2fs.conf switches on. GRUB 2.06 reads neither
// metadata_csum_seed nor orphan_file, and e2fsprogs 1.46 (Ubuntu 22.04) does
// not know the latter by name.
const mke2fsConfig = `[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
		inode_size = 256
	}
`

// biosLoader makes GRUB's core for BIOS with the image's own grub-mkimage.
func (b *Builder) biosLoader(ctx context.Context, root string, ids diskIDs) (core, bootImg []byte, err error) {
	// The folder is of this build alone, inside the image's /boot/grub.
	rel := "boot/grub/.mkimage"
	dir := filepath.Join(root, rel)
	if err := b.run(ctx, tool{args: mapped("mkdir", "-m", "755", dir), pkg: "coreutils"}); err != nil {
		return nil, nil, err
	}
	early := fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)/boot/grub\n", ids.root)
	if err := b.run(ctx, tool{args: mapped("tee", filepath.Join(dir, "early.cfg")), pkg: "coreutils", stdin: strings.NewReader(early), out: io.Discard}); err != nil {
		return nil, nil, err
	}
	err = b.run(ctx, tool{args: append(mapped("chroot", root, "grub-mkimage", "-O", "i386-pc", "-d", "/usr/lib/grub/i386-pc",
		"-p", "/boot/grub", "-c", "/"+rel+"/early.cfg", "-o", "/"+rel+"/core.img"), biosModules...), pkg: "coreutils"})
	if err != nil {
		return nil, nil, err
	}
	if core, err = os.ReadFile(filepath.Join(dir, "core.img")); err != nil {
		return nil, nil, err
	}
	if bootImg, err = os.ReadFile(filepath.Join(root, "usr/lib/grub/i386-pc/boot.img")); err != nil {
		return nil, nil, err
	}
	return core, bootImg, b.run(ctx, tool{args: mapped("rm", "-rf", "--one-file-system", "--", dir), pkg: "coreutils"})
}

// biosModules are built into GRUB's core for BIOS.
var biosModules = []string{"biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "linux", "configfile", "test", "echo", "serial", "terminal",
	"ls", "cat", "halt", "reboot", "sleep", "minicmd", "gzio", "zstd"}

// makeESP makes the EFI system partition: shim where firmware looks for a
// removable medium's loader, the signed GRUB beside it, and the configuration
// where the signed GRUB looks (its prefix is /EFI/debian or /EFI/ubuntu).
//
// Its clusters, tables and reserved area are multiples of 4096 bytes, so that
// the agent can make its boot sector count in sectors of 4096. FAT32, which
// UEFI wants of a disk, has 65525 clusters at least (Microsoft's FAT
// specification 1.03, "FAT type determination"): hence 262 MiB.
func (b *Builder) makeESP(ctx context.Context, spec DiskSpec, dir, esp string, boot bootFiles, ids diskIDs) error {
	of, vendor := archs[spec.Arch], distros[spec.OS].vendor
	f, err := os.Create(esp)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(espSize), f.Close()); err != nil {
		return err
	}
	if err := b.run(ctx, tool{args: []string{"mkfs.vfat", "--invariant", "-F", "32", "-S", "512", "-s", "8", "-R", "64", "-n", "ESP", "-i", fmt.Sprintf("%08x", ids.espSerial), esp}, pkg: "dosfstools"}); err != nil {
		return err
	}
	env := []string{"MTOOLS_SKIP_CHECK=1", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", ramdiskTime), "MTOOLSRC=/dev/null"}
	if err := b.run(ctx, tool{args: []string{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/" + vendor}, pkg: "mtools", env: env}); err != nil {
		return err
	}
	cfg := fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n", ids.root)
	for _, x := range []struct {
		to   string
		data []byte
	}{
		{"EFI/BOOT/" + of.bootName, boot.shim}, {"EFI/BOOT/" + of.grubAs, boot.grub}, {"EFI/BOOT/" + of.mokName, boot.mokManager},
		{"EFI/" + vendor + "/grub.cfg", []byte(cfg)},
	} {
		if x.data == nil {
			continue
		}
		tmp := filepath.Join(dir, filepath.Base(x.to))
		if err := os.WriteFile(tmp, x.data, 0o644); err != nil {
			return err
		}
		if err := b.run(ctx, tool{args: []string{"mcopy", "-i", esp, tmp, "::/" + x.to}, pkg: "mtools", env: env}); err != nil {
			return err
		}
	}
	return nil
}

// copyInto copies a file into the disk at an offset, leaving holes where it is
// zero.
func copyInto(disk *os.File, at int64, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, mebi)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 && !allZero(buf[:n]) {
			if _, err := disk.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
