package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/blob"
)

// importRecipe is part of an imported release's inputs.
const importRecipe = 1

// Import makes a disk release from a disk image file: raw, qcow2 (and what
// else qemu-img reads), each also compressed with zstd. Its root partition
// must be the last on the disk, in a GPT, because the agent grows it. The
// image must bring its own boot loaders and cloud-init: fettle changes nothing
// in it. arch is that of the machines that it is for. cached tells that the
// same file was imported under this name before.
func (b *Builder) Import(ctx context.Context, name, arch, file string) (rel Release, cached bool, err error) {
	if err := CheckName(name); err != nil {
		return Release{}, false, err
	}
	if _, ok := archs[arch]; !ok {
		return Release{}, false, fmt.Errorf("importing %s: architecture %q: want amd64 or arm64", file, arch)
	}
	if slices.Contains([]string{NameAgent, NameLoaders, AgentName(arm64), LoadersName(arm64)}, name) {
		return Release{}, false, fmt.Errorf("the name %s is taken by what fettle builds itself; choose another", name)
	}
	digest, err := digestFile(ctx, file, func(done, total int64) {
		b.progress(Progress{Name: name, Stage: StageVerify, Text: "reading " + filepath.Base(file), Done: done, Total: total})
	})
	if err != nil {
		return Release{}, false, fmt.Errorf("importing %s: %w", file, err)
	}
	of := arch
	if of == amd64 {
		of = "" // as it was before there were others
	}
	in, err := inputs(struct {
		Import int
		File   blob.Digest
		Arch   string `json:",omitempty"`
	}{importRecipe, digest, of})
	if err != nil {
		return Release{}, false, err
	}
	if r, ok, err := b.cached(ctx, name, in); err != nil || ok {
		return r, ok, err
	}
	dir, remove, err := b.workDir("import")
	if err != nil {
		return Release{}, false, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	raw, format, err := b.toRaw(ctx, name, dir, file)
	if err != nil {
		return Release{}, false, fmt.Errorf("importing %s: %w", file, err)
	}
	root, err := lastPartition(raw)
	if err != nil {
		return Release{}, false, fmt.Errorf("importing %s: %w", file, err)
	}
	files, stats, err := b.packDisk(ctx, name, raw, root)
	if err != nil {
		return Release{}, false, fmt.Errorf("importing %s: %w", file, err)
	}
	r, err := b.finish(ctx, Release{Name: name, Kind: KindDisk, Arch: arch, Inputs: in, Created: b.now().UTC(), Files: files, Facts: map[string]string{
		"imported": filepath.Base(file), "format": format, "file-digest": string(digest), "used-bytes": strconv.FormatInt(stats.used, 10),
	}})
	return r, false, err
}

func digestFile(ctx context.Context, file string, progress func(done, total int64)) (blob.Digest, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	h, buf, done := sha256.New(), make([]byte, mebi), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		progress(done, fi.Size())
		if err == io.EOF {
			return blob.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// toRaw makes a raw disk of file, a sparse copy in dir unless it is raw
// already.
func (b *Builder) toRaw(ctx context.Context, name, dir, file string) (string, string, error) {
	head := make([]byte, 4)
	f, err := os.Open(file)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, head); err != nil {
		return "", "", fmt.Errorf("it is too short to be a disk image: %w", err)
	}
	if binary.LittleEndian.Uint32(head) == 0xfd2fb528 { // RFC 8878 §3.1.1
		b.progress(Progress{Name: name, Stage: StageConvert, Text: "decompressing"})
		out := filepath.Join(dir, "unpacked")
		if err := unpackZstd(ctx, out, file); err != nil {
			return "", "", fmt.Errorf("decompressing it: %w", err)
		}
		raw, format, err := b.toRaw(ctx, name, dir, out)
		return raw, format + ", zstd", err
	}
	var info struct {
		Format  string `json:"format"`
		Backing string `json:"backing-filename"`
	}
	out, err := b.output(ctx, tool{args: []string{"qemu-img", "info", "--output=json", "--", file}, pkg: "qemu-utils"})
	if err != nil {
		return "", "", err
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return "", "", fmt.Errorf("reading qemu-img's answer: %w", err)
	}
	if info.Backing != "" {
		return "", "", fmt.Errorf("it is a difference to %s; flatten it first with qemu-img convert", info.Backing)
	}
	if info.Format == "raw" {
		return file, info.Format, nil
	}
	b.progress(Progress{Name: name, Stage: StageConvert, Text: info.Format + " to raw"})
	raw := filepath.Join(dir, "disk.raw")
	err = b.run(ctx, tool{args: []string{"qemu-img", "convert", "-f", info.Format, "-O", "raw", "--", file, raw}, pkg: "qemu-utils"})
	return raw, info.Format, err
}

func unpackZstd(ctx context.Context, to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	dec, err := zstd.NewReader(in)
	if err != nil {
		return err
	}
	defer dec.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	buf, size := make([]byte, mebi), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := dec.Read(buf)
		if n > 0 && !allZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(out.Truncate(size), out.Sync())
}

// lastPartition is the number of the partition that lies last on a disk with a
// GPT (UEFI specification 2.10 §5.3), which must be a file system's.
func lastPartition(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	head := make([]byte, 92)
	if _, err := f.ReadAt(head, sector); err != nil || !bytes.HasPrefix(head, []byte("EFI PART")) {
		return 0, errors.New("it has no GUID partition table; fettle can only deploy disks that have one")
	}
	le := binary.LittleEndian
	if backup := int64(le.Uint64(head[32:])); backup >= fi.Size()/sector {
		return 0, fmt.Errorf("it is truncated: its partition table says %d sectors, the file has %d", backup+1, fi.Size()/sector)
	}
	first, count, size := int64(le.Uint64(head[72:])), int64(le.Uint32(head[80:])), int64(le.Uint32(head[84:]))
	if count > 1024 || size < 128 || size > 4096 || first < 2 || first > fi.Size()/sector {
		return 0, errors.New("its partition table is malformed")
	}
	table := make([]byte, count*size)
	if _, err := f.ReadAt(table, first*sector); err != nil {
		return 0, fmt.Errorf("reading its partition table: %w", err)
	}
	last, start := 0, int64(-1)
	var typ []byte
	for i := range count {
		e := table[i*size:][:128]
		if allZero(e[:16]) {
			continue
		}
		if s := int64(le.Uint64(e[32:])); s > start {
			last, start, typ = int(i)+1, s, e[:16]
		}
	}
	switch {
	case last == 0:
		return 0, errors.New("its partition table is empty")
	case bytes.Equal(typ, espType):
		return 0, fmt.Errorf("its last partition (%d) is the EFI system partition; the root partition must lie last, so that it can grow", last)
	}
	return last, nil
}

// espType is C12A7328-F81F-11D2-BA4B-00A0C93EC93B as stored.
var espType = []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
