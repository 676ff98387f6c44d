package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	installerPackage = "debian-installer-12-netboot-amd64"
	installerAt      = "http://10.0.2.2:8480" // the namespace's loopback, as QEMU's user network shows it
)

// TestDebianInstaller boots the Debian installer from a filtered mirror of this
// machine's own Debian archive, in a network namespace that leads nowhere:
// until debootstrap has verified the site's signature and fetches packages, or
// with FETTLE_E2E_INSTALLER=full until the base system and a kernel are
// installed. Where the archive lacks the netboot files and part of the udebs, as
// mirrors of packages alone do, the files come from Debian's package of them
// (the signed SHA256SUMS vouches for them), debootstrap travels in a ramdisk, and
// the system is installed into memory, not onto a partitioned disk.
func TestDebianInstaller(t *testing.T) {
	if testing.Short() {
		t.Skip("the Debian installer takes minutes: not with -short")
	}
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "dpkg-deb", "debootstrap", "cpio"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	if os.Getenv("FETTLE_E2E_INSTALLER") == "" && os.Getenv("CI") != "true" {
		t.Skip("minutes of CPU: FETTLE_E2E_INSTALLER=debootstrap, or full")
	}
	if h, err := images.ThisHost(); err != nil || h.OS != site.OSDebian || h.Suite != "bookworm" {
		t.Skipf("the installer is Debian 12's, of this machine's own archive, and this machine has %s (%v)", h.Pretty, err)
	}
	full := os.Getenv("FETTLE_E2E_INSTALLER") == "full"
	ns := newRackNS(t)
	dir := t.TempDir()
	archive, netboot := installerFiles(t, dir)

	s, fettle := installerMirror(t, dir, archive, netboot)
	var debs, udebs int
	watch := newMirrorWatch()
	seen := make(chan string, 4096)
	ln, err := ns.listen("127.0.0.1:8480")
	if err != nil {
		t.Fatal(err)
	}
	h := watch.handler(mirrorAnswers(s, nil, slog.New(slog.DiscardHandler)))
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.URL.Path:
		default:
		}
		h.ServeHTTP(w, r)
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-served })

	// The kernel's ramdisks: the installer's, the site's key, and the answers.
	tree, err := servedSnapshot(s)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.ReadFile(filepath.Join(netboot, "amd64/initrd.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tree.Trees[0].Files {
		if f.Path == "site-installer.cpio.gz" {
			overlay, err := readBlob(t.Context(), s, f)
			if err != nil {
				t.Fatal(err)
			}
			initrd = append(initrd, overlay...)
		}
	}
	preseed := fettle("mirror", "client-config", "debian-installer", "--store", filepath.Join(dir, "store"), "--base-url", installerAt)
	initrd = append(initrd, make([]byte, -len(initrd)&3)...) // where the kernel looks for an archive that is not compressed
	initrd = append(initrd, installerAnswers(t, dir, preseed, full)...)
	file, console, log, packets := filepath.Join(dir, "initrd"), filepath.Join(dir, "console"), filepath.Join(dir, "syslog"), filepath.Join(dir, "packets")
	if err := os.WriteFile(file, initrd, 0o600); err != nil {
		t.Fatal(err)
	}

	wall, memory := 15*time.Minute, "1024"
	if full {
		wall, memory = 80*time.Minute, "6144" // the system that is installed lies in it too
	}
	ctx, cancel := context.WithTimeout(t.Context(), wall)
	defer cancel()
	var said bytes.Buffer
	cmd := ns.command(ctx, "qemu-system-x86_64", "-accel", "tcg", "-smp", "2", "-m", memory, "-display", "none", "-no-reboot", "-monitor", "none",
		"-kernel", filepath.Join(netboot, "amd64/linux"), "-initrd", file, "-append", "console=ttyS0 no_timer_check panic=-1 DEBIAN_FRONTEND=text TERM=dumb auto=true priority=critical",
		"-serial", "file:"+console, "-serial", "file:"+log, "-nic", "user,model=virtio-net-pci,ipv6=off,id=n0", "-object", "filter-dump,id=f0,netdev=n0,file="+packets+",maxlen=512")
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ended := false
	for done := false; !done; {
		select {
		case err := <-exited:
			ended, done = true, true
			if err != nil {
				t.Errorf("QEMU: %v\n%s", err, &said)
			}
		case p := <-seen:
			switch filepath.Ext(p) {
			case ".deb":
				if debs++; debs == 1 {
					t.Logf("debootstrap fetches packages after %s", time.Since(start).Round(time.Second))
				}
			case ".udeb":
				udebs++
			}
			done = !full && debs >= 20
		}
	}
	t.Logf("%s, %d udebs, %d packages; QEMU used %s of CPU", time.Since(start).Round(time.Second), udebs, debs, qemuCPU(cmd))
	if !ended {
		cancel()
		<-exited
	}
	syslog, _ := os.ReadFile(log)
	if !strings.Contains(string(syslog), `debootstrap: gpgv: Good signature from "fettle site`) || udebs < 2 || debs < 20 {
		screen, _ := os.ReadFile(console)
		t.Errorf("the installer did not come to its base system:\n%s\n%s", lastLines(string(syslog), 30), lastLines(string(screen), 10))
	}
	if full {
		for _, want := range []string{`PROOF kernel linux-image-amd64 [\d.]+`, `PROOF package hello [\d.-]+`, `PROOF apt-get update ok`} {
			if !regexp.MustCompile(want).Match(syslog) {
				t.Errorf("the installed system does not say %s:\n%s", want, lastLines(string(syslog), 40))
			}
		}
	}
	missing, _ := watch.all()
	for _, m := range missing {
		if !optionalForInstaller(m.Path) {
			t.Errorf("the installer asked for %s, which the mirror does not have (%d)", m.Path, m.Status)
		}
	}
	for _, out := range waysOut(t, packets) {
		t.Errorf("the installer tried to leave: %s", out)
	}
}

// optionalForInstaller tells of what the installer and debootstrap look for and
// do without: choose-mirror tries the names of all releases, apt translations.
func optionalForInstaller(p string) bool {
	suite, rest, ok := strings.Cut(strings.TrimPrefix(p, "/apt/debian/dists/"), "/")
	switch {
	case ok && rest == "Release" && suite != "bookworm":
		return true
	case strings.Contains(rest, "/i18n/"), strings.HasSuffix(rest, "/Packages.xz"), strings.HasSuffix(rest, "/Packages.diff/Index"):
		return true
	}
	return false
}

// installerFiles finds this machine's Debian archive, and the netboot files in
// Debian's package of them, which is kept for the next time.
func installerFiles(t *testing.T, dir string) (archive *url.URL, netboot string) {
	t.Helper()
	out, err := exec.Command("apt-get", "--print-uris", "download", installerPackage).Output()
	e2eNeed(t, err, "the machine's Debian archive has no "+installerPackage)
	at, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "'"), "'")
	base, _, ok2 := strings.Cut(at, "/pool/")
	if archive, err = url.Parse(base); err != nil || !ok || !ok2 {
		t.Fatalf("apt-get --print-uris download %s said %q", installerPackage, out)
	}
	name := filepath.Base(at)
	cache, err := filepath.Abs("../../.cache/installer")
	if err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(cache, name)
	if _, err := os.Stat(deb); err != nil {
		cmd := exec.Command("apt-get", "-q", "-o", "Acquire::Retries=3", "download", installerPackage)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("apt-get download: %v\n%s", err, out)
		}
		got, err := filepath.Glob(filepath.Join(dir, installerPackage+"*.deb"))
		if err != nil || len(got) != 1 {
			t.Fatalf("apt-get download left %v, %v", got, err)
		}
		if err := os.MkdirAll(cache, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", got[0], deb+".new").CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
		if err := os.Rename(deb+".new", deb); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "netboot")
	if out, err := exec.Command("dpkg-deb", "-x", deb, to).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb -x: %v\n%s", err, out)
	}
	return archive, filepath.Join(to, "usr/lib/debian-installer/images/12/amd64/text/debian-installer")
}

// installerMirror mirrors what the installer needs from the archive, which a
// server on loopback makes whole with the netboot files.
func installerMirror(t *testing.T, dir string, archive *url.URL, netboot string) (*airgap.Store, func(args ...string) string) {
	t.Helper()
	const files = "/dists/bookworm/main/installer-amd64/current/images/netboot/debian-installer/"
	mux := http.NewServeMux()
	mux.Handle(files, http.StripPrefix(files, http.FileServer(http.Dir(netboot))))
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(archive) }, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)})
	front := httptest.NewServer(mux)
	t.Cleanup(front.Close)

	store, site := filepath.Join(dir, "store"), filepath.Join(dir, "site")
	copyTree(t, "../../examples/two-gpu", site)
	keys, err := os.ReadFile("/usr/share/keyrings/debian-archive-keyring.gpg")
	e2eNeed(t, err, "Debian's keys are not installed")
	if err := os.WriteFile(filepath.Join(site, "debian.gpg"), keys, 0o644); err != nil {
		t.Fatal(err)
	}
	appendTo(t, filepath.Join(site, "site.yaml"), `
mirrors:
  - name: debian
    format: apt
    urls: [`+front.URL+`]
    keyrings: [debian.gpg]
    suites: [bookworm]
    components: [main]
    archs: [amd64]
    packages: [hello]
    installer: true
    udebs: [base-installer, bootstrap-base, di-utils, "ext4-modules-*", "crc-modules-*"]
`)
	if debs, err := filepath.Abs("../../.cache/store/cache/debs"); err == nil {
		if err := os.MkdirAll(filepath.Join(store, "cache"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(debs, filepath.Join(store, "cache", "debs")); err != nil {
			t.Fatal(err)
		}
	}
	fettle := func(args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, getenv: os.Getenv, log: slog.New(slog.DiscardHandler)}
		if status := run(t.Context(), e, append([]string{"fettle"}, args...)); status != exitOK {
			t.Fatalf("fettle %s = %d; want 0\n%s%s", strings.Join(args, " "), status, out.String(), errOut.String())
		}
		return out.String()
	}
	key := filepath.Join(dir, "key")
	fettle("bundle", "key", "--site", site, "--key", key)
	fettle("mirror", "sync", "--site", site, "--store", store, "--key", key)
	s, err := airgap.OpenStore(filepath.Join(store, mirrorFolder))
	if err != nil {
		t.Fatal(err)
	}
	return s, fettle
}

// installerAnswers is a ramdisk with the site's answers, and what this machine's
// archive lacks: debootstrap, and a target without a partitioner.
func installerAnswers(t *testing.T, dir, preseed string, full bool) []byte {
	t.Helper()
	kernel := "none"
	if full {
		kernel = "linux-image-amd64"
	}
	files := map[string]string{
		"preseed.cfg": preseed + `d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string installed
d-i netcfg/get_domain string example.org
d-i anna/no_kernel_modules boolean true
d-i base-installer/kernel/image string ` + kernel + `
d-i preseed/early_command string sh /early
`,
		// What runs on must not hold preseed's pipes. Its own end: bootstrap-base is
		// configured, which is when the base system and the kernel are installed.
		"early": `mkdir -p /target && mount -t tmpfs -o size=1900M tmpfs /target
(tail -n +1 -f /var/log/syslog >/dev/ttyS1) 2>/dev/null 3>&- &
(
	until sed -n '/^Package: bootstrap-base$/,/^$/p' /var/lib/dpkg/status | grep -q 'Status: install ok installed'; do sleep 2; done
	in="chroot /target"
	$in apt-get update && echo 'PROOF apt-get update ok' >/dev/ttyS1
	$in apt-get -y install hello
	$in dpkg-query -W -f 'PROOF package ${Package} ${Version}\n' hello >/dev/ttyS1
	$in dpkg-query -W -f 'PROOF kernel ${Package} ${Version}\n' linux-image-amd64 >/dev/ttyS1
	sleep 1
	poweroff -f
) >/dev/null 2>&1 3>&- &
`,
	}
	for _, f := range []string{"/usr/sbin/debootstrap", "/usr/share/debootstrap/functions", "/usr/share/debootstrap/scripts/bookworm", "/usr/share/debootstrap/scripts/debian-common"} {
		data, err := os.ReadFile(f) // bookworm is a link
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(f, "/")] = string(data)
	}
	root := filepath.Join(dir, "answers")
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[name]), 0o755); err != nil {
			t.Fatal(err)
		}
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			names = append(names, d)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	cmd := exec.Command("cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0")
	cmd.Dir, cmd.Stdin = root, strings.NewReader(strings.Join(slices.Compact(names), "\n")+"\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// waysOut are what a capture of QEMU's user network (pcap, Ethernet) has that
// was to go farther than that network, and names that somebody outside would
// have been asked for.
func waysOut(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil || len(data) < 24 {
		t.Fatalf("the capture has %d bytes, %v", len(data), err)
	}
	near := netip.MustParsePrefix("10.0.2.0/24")
	found := map[string]bool{}
	packets := 0
	for data = data[24:]; len(data) >= 16; {
		n := int(binary.LittleEndian.Uint32(data[8:]))
		if len(data) < 16+n {
			break // cut when QEMU ended
		}
		p := data[16 : 16+n]
		data = data[16+n:]
		packets++
		if len(p) < 34 || binary.BigEndian.Uint16(p[12:]) != 0x0800 {
			continue
		}
		ip := p[14:]
		to := netip.AddrFrom4([4]byte(ip[16:20]))
		if !near.Contains(to) && !to.IsMulticast() && to != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			found[fmt.Sprintf("to %s, protocol %d", to, ip[9])] = true
		}
		head := int(ip[0]&15) * 4
		if ip[9] != 17 || len(ip) < head+8 || binary.BigEndian.Uint16(ip[head+2:]) != 53 {
			continue
		}
		var q dnsmessage.Parser
		if _, err := q.Start(ip[head+8:]); err != nil {
			continue
		}
		question, err := q.Question()
		name := question.Name.String()
		if err == nil && !strings.HasSuffix(name, ".arpa.") && !strings.HasSuffix(name, ".example.org.") {
			found["for the name "+name] = true
		}
	}
	if packets == 0 {
		t.Error("the capture has no packets")
	}
	return slices.Sorted(maps.Keys(found))
}

// qemuCPU is the CPU time of a program that runs in a namespace.
func qemuCPU(cmd *exec.Cmd) time.Duration {
	if cmd.ProcessState != nil {
		return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Second)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	var user, system int
	_, _ = fmt.Sscan(f[11], &user)
	_, _ = fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}
