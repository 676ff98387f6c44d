//go:build linux

package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	firmwareCPU  = 100 // seconds of QEMU's CPU before a boot has failed
	firmwareWall = 6 * time.Minute
	testUUID     = "0d9bfa2c-5a3b-4c1d-8e2f-001122334455"
)

// machine is a QEMU guest in a namespace, its NIC on the server's tap.
type machine struct {
	ns     *netns
	cmd    *exec.Cmd
	serial string
	exited chan error
	began  time.Time
	used   float64 // seconds of CPU when it was last looked at
}

// saw takes a result to the matrix of BOOTING.md.
func (m *machine) saw(t *testing.T, firmware, way, result string) {
	t.Helper()
	saw(t, firmware, way, result, time.Since(m.began).Seconds(), m.cpu())
}

func qemu(t *testing.T, ns *netns, args ...string) *machine {
	t.Helper()
	return qemuArch(t, ns, "x86_64", args...)
}

func qemuArch(t *testing.T, ns *netns, arch string, args ...string) *machine {
	t.Helper()
	program := "qemu-system-" + arch
	needTool(t, program, "/dev/net/tun", "/usr/lib/ipxe/snponly.efi")
	m := &machine{ns: ns, serial: filepath.Join(t.TempDir(), "serial"), exited: make(chan error, 1), began: time.Now()}
	args = append([]string{program, "-accel", "tcg", "-m", "512", "-display", "none", "-no-reboot", "-monitor", "none",
		"-uuid", testUUID, "-serial", "file:" + m.serial, "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"}, args...)
	m.cmd = ns.command(context.Background(), args...)
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	exited, err := start(m.cmd) // a test that is killed leaves no guest
	if err != nil {
		t.Fatal(err)
	}
	go func() { m.exited <- <-exited }()
	t.Cleanup(func() {
		m.end(t) // nothing writes to stderr any more
		if stderr.Len() > 0 {
			t.Logf("qemu: %s", &stderr)
		}
	})
	return m
}

// end switches the machine off and waits until its NIC is free.
func (m *machine) end(t *testing.T) {
	t.Helper()
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	select {
	case err := <-m.exited:
		m.exited <- err
	case <-time.After(30 * time.Second):
		t.Fatal("QEMU does not end")
	}
}

// cpu is the CPU seconds that the guest has used, its last known when it ended. `ip netns exec` becomes QEMU
// by exec, so the process is the one that was started.
func (m *machine) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		return m.used
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	sys, _ := strconv.Atoi(f[12])
	m.used = max(m.used, float64(user+sys)/100)
	return m.used
}

func (m *machine) console() string {
	b, _ := os.ReadFile(m.serial)
	return string(b)
}

// await waits until ok, within the bounds.
func (m *machine) await(t *testing.T, s *fixture, what string, ok func() bool) {
	t.Helper()
	start, used := time.Now(), 0.0
	failed := ""
	err := eventually(t.Context(), firmwareWall, func() bool {
		if ok() {
			return true
		}
		if c := m.cpu(); c > 0 {
			used = c
		}
		select {
		case err := <-m.exited:
			m.exited <- err
			if !ok() {
				failed = fmt.Sprintf("QEMU ended: %v", err)
			}
			return true
		default:
		}
		if used > firmwareCPU {
			failed = fmt.Sprintf("%v CPU seconds used", used)
			return true
		}
		return false
	})
	if err != nil {
		failed = err.Error()
	}
	if failed != "" {
		con := m.console()
		t.Fatalf("%s: %s\ntimeline:\n%sconsole:\n%s", what, failed, s.timeline.text(), con[max(0, len(con)-6000):])
	}
	t.Logf("%s after %.1f s, %.1f CPU s", what, time.Since(start).Seconds(), m.cpu())
}

// firmwareRig is a namespace with a tap, a server on it, and files to boot.
func firmwareRig(t *testing.T, kernel string, networks ...Network) (*netns, *fixture) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots firmware: left out with -short")
	}
	ns := newNS(t)
	ns.run(t, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	if len(networks) == 0 || networks[0].has4() {
		ns.run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "tap0")
	}
	ns.run(t, "ip", "link", "set", "tap0", "up")
	if len(networks) == 0 {
		n := testNetwork()
		n.Advertise = AdvertiseNothing // iPXE waits 16 s for a router otherwise
		networks = append(networks, n)
	}
	f := newFixture(t, networks...)
	f.now = time.Now
	f.timeline.tell(t)
	files := mapFiles{"agent/vmlinuz": "@" + kernel, "agent/a": "", "agent/b": ""}
	for _, n := range LoaderNames() {
		if haveTool("/usr/lib/ipxe/" + n) {
			files["loaders/"+n] = "@/usr/lib/ipxe/" + n
		}
	}
	f.files = files
	f.decision = Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/a", "agent/b"},
		Cmdline: "console=ttyS0 panic=-1 fettle.mark=via-pxe", Reason: "test"}
	saveCapture(t, f)
	ns.serve(t, f.Server, "tap0")
	return ns, f
}

// saveCapture writes what the firmware sent to $FETTLE_CAPTURES, for testdata.
func saveCapture(t *testing.T, f *fixture) {
	t.Helper()
	dir := os.Getenv("FETTLE_CAPTURES")
	if dir == "" {
		return
	}
	file, err := os.Create(filepath.Join(dir, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+".pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	f.capture = NewCapture()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.capture.Stream(ctx, file) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, file.Close()); err != nil {
			t.Error(err)
		}
	})
}

// ramdisks fills the two ramdisks: an init that reads a file of each.
func ramdisks(t *testing.T, f *fixture) {
	t.Helper()
	ramdisksFor(t, f, "amd64", "ttyS0", 4, 64)
}

// ramdisksFor is ramdisks for an architecture, its console and that's device
// numbers.
func ramdisksFor(t *testing.T, f *fixture, arch, console string, major, minor int) {
	t.Helper()
	dir := t.TempDir()
	src := `package main
import ("fmt";"os";"syscall")
func main() {
	syscall.Mkdir("/dev", 0o755); syscall.Mknod("/dev/ttyS0", syscall.S_IFCHR|0o600, 4<<8|64)
	syscall.Mkdir("/proc", 0o755); syscall.Mount("proc", "/proc", "proc", 0, "")
	c, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY, 0)
	if err == nil {
		a, _ := os.ReadFile("/a.txt"); b, _ := os.ReadFile("/b.txt"); l, _ := os.ReadFile("/proc/cmdline")
		fmt.Fprintf(c, "\nMARK a=%s b=%s cmdline=%s\n", a, b, l)
		c.Sync()
	}
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}
`
	src = strings.NewReplacer("ttyS0", console, "4<<8|64", fmt.Sprintf("%d<<8|%d", major, minor)).Replace(src)
	for name, text := range map[string]string{"main.go": src, "go.mod": "module init\n\ngo 1.24\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", "init", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building init: %v\n%s", err, out)
	}
	init, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	files := f.files.(mapFiles)
	// The first ends at an odd length: it must be padded before the second.
	files["agent/a"] = cpio(map[string]string{"init": string(init), "a.txt": "first"})
	files["agent/b"] = cpio(map[string]string{"b.txt": "second!"})
}

// cpio is an archive in the kernel's format (newc, buffer-format.rst).
func cpio(files map[string]string) string {
	var b bytes.Buffer
	add := func(name, data string, mode int) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-b.Len()%4)%4))
		b.WriteString(data)
		b.Write(make([]byte, (4-b.Len()%4)%4))
	}
	for name, data := range files {
		add(name, data, 0o100755)
	}
	add("TRAILER!!!", "", 0)
	return b.String()
}

// testKernel is a Debian kernel: FETTLE_TEST_KERNEL, or the host's own.
func testKernel(t *testing.T) string {
	t.Helper()
	if k := os.Getenv("FETTLE_TEST_KERNEL"); k != "" {
		return k
	}
	if found, _ := filepath.Glob("/boot/vmlinuz-*"); len(found) > 0 {
		return found[len(found)-1]
	}
	return fetchKernel(t)
}

// fetchKernel gets the cloud kernel's package with the machine's own apt, once.
func fetchKernel(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		missing(t, "no kernel to boot: set FETTLE_TEST_KERNEL")
	}
	cache = filepath.Join(cache, "fettle-test", "kernel")
	kernels := func() []string {
		found, _ := filepath.Glob(filepath.Join(cache, "*", "boot", "vmlinuz-*"))
		return found
	}
	if k := kernels(); len(k) > 0 {
		return k[0]
	}
	needTool(t, "apt-get", "apt-cache", "dpkg-deb")
	tmp := t.TempDir()
	script := `set -e; export LC_ALL=C; cd "$1"
p=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
apt-get -o Acquire::Retries=3 download "$p" >/dev/null; dpkg-deb -x linux-image-*.deb x; mkdir -p "$2/k/boot"; cp x/boot/vmlinuz-* "$2/k/boot/"`
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", tmp, cache).CombinedOutput(); err != nil {
		missing(t, "no kernel to boot: set FETTLE_TEST_KERNEL, or make apt-get download work: %v\n%s", err, out)
	}
	if k := kernels(); len(k) > 0 {
		return k[0]
	}
	t.Fatal(errors.New("the kernel's package holds no kernel"))
	return ""
}

const ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"

// uefi is the arguments for OVMF with EDK2's own network stack, over IPv4.
func uefi(t *testing.T, off ...string) []string {
	t.Helper()
	return ovmf(t, append(off, "IPv6PXESupport")...)
}

// ovmf is OVMF with ways of booting switched off.
func ovmf(t *testing.T, off ...string) []string {
	t.Helper()
	needTool(t, ovmfCode)
	vars := filepath.Join(t.TempDir(), "vars.fd")
	b, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-machine", "q35", "-drive", "if=pflash,format=raw,readonly=on,file=" + ovmfCode, "-drive", "if=pflash,format=raw,file=" + vars,
		"-device", "virtio-net-pci,netdev=n0,romfile=,bootindex=1,mac=" + testMAC.String()}
	for _, what := range off {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/"+what+",string=n")
	}
	return args
}

// Debian's OVMF with Secure Boot and Microsoft's keys enrolled.
const (
	ovmfSecure     = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
	signedShim     = "/usr/lib/shim/shimx64.efi.signed"
	signedGRUB     = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
)

// uefiSecure is the arguments for OVMF with Secure Boot on: its variables are
// protected by SMM. off is as for uefi.
func uefiSecure(t *testing.T, f *fixture, off ...string) []string {
	t.Helper()
	needTool(t, ovmfSecure, ovmfSecureVars, signedShim, signedGRUB)
	files := f.files.(mapFiles)
	files["loaders/"+loaderShim], files["loaders/"+loaderGRUB] = "@"+signedShim, "@"+signedGRUB
	args := uefi(t, off...)
	b, err := os.ReadFile(ovmfSecureVars)
	if err != nil {
		t.Fatal(err)
	}
	vars := filepath.Join(t.TempDir(), "vars.fd")
	if err := os.WriteFile(vars, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		switch {
		case a == "q35":
			args[i] = "q35,smm=on"
		case strings.Contains(a, ovmfCode):
			args[i] = strings.ReplaceAll(a, ovmfCode, ovmfSecure)
		case strings.HasPrefix(a, "if=pflash") && strings.Contains(a, "vars.fd"):
			args[i] = "if=pflash,format=raw,file=" + vars
		}
	}
	return append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
}

// withROM gives the NIC back the ROM that QEMU has for it, an EFI iPXE, and
// switches the firmware's own ways of booting over the family off.
func withROM(args []string, v6 bool) []string {
	off, on := "IPv4PXESupport", "IPv6PXESupport"
	if v6 {
		off, on = on, off
	}
	for i, a := range args {
		args[i] = strings.NewReplacer("romfile=,", "", on, off).Replace(a)
	}
	return args
}

func bios() []string {
	return []string{"-machine", "pc,graphics=off", "-device", "virtio-net-pci,netdev=n0,bootindex=1,mac=" + testMAC.String()}
}

// bootDisk makes a BIOS boot sector that writes a mark to the first serial
// port and stops.
func bootDisk(t *testing.T, mark string) string {
	t.Helper()
	code := []byte{0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x17, 0x7c, // cli; xor ax,ax; mov ds,ax; mov si,0x7c17
		0xba, 0xf8, 0x03, // mov dx,0x3f8
		0xac,       // lodsb
		0x84, 0xc0, // test al,al
		0x74, 0x03, // jz stop
		0xee,       // out dx,al
		0xeb, 0xf8, // jmp lodsb
		0xf4, 0xeb, 0xfd, // stop: hlt; jmp stop
		0x90}
	sector := make([]byte, 1<<20)
	copy(sector, code)
	copy(sector[len(code):], mark+"\x00")
	sector[510], sector[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// espDisk makes a FAT disk whose \EFI\BOOT\BOOTX64.EFI is iPXE: that it runs
// is seen on the console.
func espDisk(t *testing.T) string {
	t.Helper()
	needTool(t, "mkfs.vfat", "mmd", "mcopy")
	path := filepath.Join(t.TempDir(), "esp.img")
	for _, args := range [][]string{
		{"truncate", "-s", "64M", path},
		{"mkfs.vfat", path},
		{"mmd", "-i", path, "::EFI", "::EFI/BOOT"},
		{"mcopy", "-i", path, "/usr/lib/ipxe/snponly.efi", "::EFI/BOOT/BOOTX64.EFI"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return path
}
