package images

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestExitProgram(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{amd64: elf.EM_X86_64, arm64: elf.EM_AARCH64} {
		program, err := exitProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil || f.Machine != machine || len(f.Progs) != 1 || int(f.Progs[0].Filesz) != len(program) {
			t.Errorf("exitProgram(%s) = %+v, %v; want an ELF file of %v with one segment", arch, f, err, machine)
		}
		if arch != runtime.GOARCH {
			continue
		}
		path := filepath.Join(t.TempDir(), "exit")
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(path).CombinedOutput(); err != nil {
			t.Errorf("the program of %s = %v, %s; want exit status 0", arch, err, out)
		}
	}
	if _, err := exitProgram("riscv64"); err == nil {
		t.Error("exitProgram(riscv64) = nil; want an error")
	}
}

// TestCheckArch: a machine without an emulator says what it lacks, before
// anything is downloaded; one with an emulator runs the program.
func TestCheckArch(t *testing.T) {
	if err := CheckArch(t.Context(), runtime.GOARCH); err != nil {
		t.Errorf("CheckArch of this machine's own architecture = %v; want nil", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's namespace may not be there")
	}
	other := map[string]string{amd64: arm64, arm64: amd64}[runtime.GOARCH]
	program, err := exitProgram(other)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "exit")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	runs := exec.Command(path).Run() == nil
	err = CheckArch(t.Context(), other)
	if runs && err != nil {
		t.Errorf("CheckArch(%s) = %v, and its programs run here", other, err)
	}
	if !runs && (!errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "apt-get install qemu-user-static binfmt-support")) {
		t.Errorf("CheckArch(%s) = %v; want ErrForeign that says what to install", other, err)
	}
	// Other processes may be checking at this moment: what is left stays.
	for end := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		left, err := filepath.Glob("/var/tmp/fettle-image-*/tree/probe")
		if err == nil && len(left) == 0 {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("%v, %v are left of the check", left, err)
		}
	}
}

// TestLayoutOfArch: what an architecture's disk has, in the order of its numbers.
func TestLayoutOfArch(t *testing.T) {
	for _, tt := range []struct {
		arch, names string
		root        int
	}{{amd64, "bios esp root", 3}, {arm64, "esp root", 2}} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, rootStart+64*mebi); err != nil {
			t.Fatal(err)
		}
		needTool(t, "sfdisk")
		sfdisk, err := lookTool("sfdisk", "fdisk")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(sfdisk, "-q", path)
		cmd.Stdin = strings.NewReader(partitions(tt.arch, 32*mebi, newIDs("sha256:aa")))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v: %s", err, out)
		}
		out, err := exec.Command(sfdisk, "-l", "-q", "-o", "Name", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(string(out))[1:], " "); got != tt.names {
			t.Errorf("partitions of %s = %q; want %q", tt.arch, got, tt.names)
		}
		if got, err := lastPartition(path); err != nil || got != tt.root || rootPart(tt.arch) != tt.root {
			t.Errorf("root of %s is the last partition %d, %v, and rootPart says %d; want %d", tt.arch, got, err, rootPart(tt.arch), tt.root)
		}
	}
}

func TestSpecOfArch(t *testing.T) {
	arm := DiskSpec{Name: "x", OS: "debian", Suite: "bookworm", Arch: arm64}.withDefaults()
	names := " " + strings.Join(arm.include(), " ") + " "
	for _, want := range []string{" linux-image-arm64 ", " grub-efi-arm64-signed ", " shim-signed "} {
		if !strings.Contains(names, want) {
			t.Errorf("packages of arm64 = %v; want %s", names, want)
		}
	}
	for _, no := range []string{"amd64", "grub-pc"} {
		if strings.Contains(names, no) {
			t.Errorf("packages of arm64 = %v; want none with %s", names, no)
		}
	}
	if err := arm.check(); err != nil {
		t.Errorf("check = %v", err)
	}
	arm.Arch = "riscv64"
	if err := arm.check(); err == nil || !strings.Contains(err.Error(), "use amd64 or arm64") {
		t.Errorf("check of riscv64 = %v; want an error that names what there is", err)
	}
}
