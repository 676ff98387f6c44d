package images

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ErrForeign says that this machine does not run programs of an image's
// architecture, as installing packages into the image takes.
var ErrForeign = errors.New("programs of another architecture do not run here")

// CheckArch tells whether an OS image of an architecture can be built here.
func CheckArch(ctx context.Context, arch string) error {
	return (&Builder{}).checkArch(ctx, arch)
}

// checkArch runs a program of the architecture as the packages' own scripts will
// run: in a folder of its own, where no emulator is. The kernel must have opened
// that when it was registered (flag F of binfmt_misc), as Debian's and Ubuntu's
// packages ask it to.
func (b *Builder) checkArch(ctx context.Context, arch string) (err error) {
	if arch == runtime.GOARCH {
		return nil
	}
	program, err := exitProgram(arch)
	if err != nil {
		return err
	}
	dir, err := newMappedDir("/var/tmp")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.remove(context.WithoutCancel(ctx), b)) }()
	path := filepath.Join(dir.path, "probe")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		return fmt.Errorf("trying to run a program of %s: %w", arch, err)
	}
	if err := dir.allow(path, aclRead|aclExecute); err != nil {
		return err
	}
	err = b.run(ctx, tool{args: mapped("chroot", dir.path, "/probe"), pkg: "mmdebstrap"})
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrMissingTool) {
		return err
	}
	return fmt.Errorf("%w: an image of %s is installed by its own programs, which this %s machine has nothing to run with: apt-get install qemu-user-static binfmt-support (where no systemd runs, then update-binfmts --enable), or build it on a machine of %[2]s: %[4]w",
		ErrForeign, arch, runtime.GOARCH, err)
}

// exitProgram is the smallest program of an architecture that ends well: an ELF
// file of one segment, with exit(0) by Linux' system calls.
func exitProgram(arch string) ([]byte, error) {
	const at, heads = 0x400000, 64 + 56 // where it is loaded; what is before its code
	var machine elf.Machine
	var code []byte
	switch arch {
	case amd64:
		machine, code = elf.EM_X86_64, []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax, 60; xor edi, edi; syscall
	case arm64:
		machine = elf.EM_AARCH64
		for _, op := range []uint32{0xd2800000, 0xd2800ba8, 0xd4000001} { // mov x0, 0; mov x8, 93; svc 0
			code = binary.LittleEndian.AppendUint32(code, op)
		}
	default:
		return nil, fmt.Errorf("nothing is known of architecture %q: want amd64 or arm64", arch)
	}
	head := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: at + heads, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64}
	copy(head.Ident[:], append([]byte(elf.ELFMAG), byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)))
	size := uint64(heads + len(code))
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 0x10000}
	var b bytes.Buffer
	for _, part := range []any{head, segment, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil, fmt.Errorf("a program of %s: %w", arch, err)
		}
	}
	return b.Bytes(), nil
}
