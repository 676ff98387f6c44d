package fabric

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// netbootDir is where Debian's debian-installer-12-netboot-amd64 puts its
// kernel and ramdisk; FETTLE_NETBOOT_DIR overrides it.
const netbootDir = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"

// BenchmarkGuestDownload lets a Linux guest in QEMU (TCG, virtio-net) fetch
// 64 MiB over HTTP from a host: the path of every image.
func BenchmarkGuestDownload(b *testing.B) {
	qemu := need(b, "qemu-system-x86_64")
	dir := netbootDir
	if d := os.Getenv("FETTLE_NETBOOT_DIR"); d != "" {
		dir = d
	}
	if _, err := os.Stat(filepath.Join(dir, "linux")); err != nil {
		b.Skipf("install debian-installer-12-netboot-amd64 or set FETTLE_NETBOOT_DIR: %v", err)
	}
	const size = 64 << 20
	s := startSwitch(b, Config{})
	local, peer := udpPort(b, s, PortConfig{Name: "machine"})
	host := newHost(b, s, "server", 0, "192.0.2.1/24")
	ln, err := host.Listen(b.Context(), netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		b.Fatal(err)
	}
	type served struct {
		took  time.Duration
		bytes int64
	}
	gets := make(chan served, 16)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, start := int64(0), time.Now()
		w.Header().Set("Content-Length", strconv.Itoa(size))
		for buf := make([]byte, 64<<10); n < size; {
			m, err := w.Write(buf)
			if n += int64(m); err != nil {
				break
			}
		}
		gets <- served{time.Since(start), n}
	})}
	done := make(chan struct{})
	go func() { srv.Serve(ln); close(done) }()
	b.Cleanup(func() { srv.Close(); <-done })

	initrd := filepath.Join(b.TempDir(), "initrd")
	if err := os.WriteFile(initrd, guestRamdisk(b, filepath.Join(dir, "initrd.gz"), b.N), 0o600); err != nil {
		b.Fatal(err)
	}
	var console bytes.Buffer
	cmd := exec.CommandContext(within(b, 5*time.Minute), qemu, "-machine", "pc", "-accel", "tcg", "-m", "512",
		"-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(dir, "linux"), "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 rdinit=/bench.sh",
		"-netdev", fmt.Sprintf("socket,id=n,udp=%s,localaddr=%s", local, peer), "-device", "virtio-net-pci,netdev=n")
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Run(); err != nil {
		b.Fatalf("QEMU: %v\n%s", err, console.String())
	}
	close(gets)
	var all served
	n := 0
	for g := range gets {
		all.took, all.bytes, n = all.took+g.took, all.bytes+g.bytes, n+1
	}
	if n != b.N || all.bytes != int64(b.N)*size || strings.Count(console.String(), "fetched") != b.N {
		b.Fatalf("%d downloads of %d bytes; want %d of %d\n%s", n, all.bytes, b.N, int64(b.N)*size, console.String())
	}
	b.ReportMetric(0, "ns/op") // would count the guest's boot
	b.ReportMetric(float64(all.bytes)/1e6/all.took.Seconds(), "MB/s")
	st := host.ip.Stats().TCP
	b.ReportMetric(100*float64(st.Retransmits.Value())/float64(st.SegmentsSent.Value()), "%resent")
	b.ReportMetric(float64(st.Timeouts.Value())/float64(b.N), "RTOs/op")
}

// guestRamdisk is Debian's ramdisk and a second archive with our init.
func guestRamdisk(b *testing.B, base string, n int) []byte {
	b.Helper()
	d, err := os.ReadFile(base)
	if err != nil {
		b.Fatal(err)
	}
	script := fmt.Sprintf(`#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
modprobe virtio_pci; modprobe virtio_net
dev=$(ls /sys/class/net | grep -v '^lo$')
ip link set $dev up; ip addr add 192.0.2.2/24 dev $dev
for i in $(seq %d); do wget -q -O /dev/null http://192.0.2.1/blob && echo fetched; done
poweroff -f; sleep 9
`, n)
	var out bytes.Buffer
	out.Write(d)
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
	newc(&out, "bench.sh", 0o100755, script)
	newc(&out, "TRAILER!!!", 0, "")
	return out.Bytes()
}

// newc appends a file in cpio's format (kernel, early-userspace/buffer-format).
func newc(w io.Writer, name string, mode int, body string) {
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		1, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	io.WriteString(w, h+strings.Repeat("\x00", -len(h)&3))
	io.WriteString(w, body+strings.Repeat("\x00", -len(body)&3))
}
