package images

import (
	"bytes"
	"compress/gzip"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/fettle-dev/fettle/site"
)

func TestOSRelease(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Host
		bad        string
	}{
		{"Debian 12", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n", Host{"debian", "bookworm", "Debian GNU/Linux 12 (bookworm)"}, ""},
		{"Ubuntu 24.04", "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n", Host{"ubuntu", "noble", "Ubuntu 24.04.3 LTS"}, ""},
		{"Ubuntu 22.04", "ID=ubuntu\nVERSION_CODENAME=jammy\nID_LIKE=debian\n", Host{"ubuntu", "jammy", "ubuntu"}, ""},
		{"made of Ubuntu", "PRETTY_NAME='Linux Mint 22'\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n", Host{"ubuntu", "noble", "Linux Mint 22"}, ""},
		{"made of Debian", "ID=linuxmint\nID_LIKE=debian\nVERSION_CODENAME=faye\nDEBIAN_CODENAME=bookworm\n", Host{"debian", "bookworm", "linuxmint"}, ""},
		{"of neither", "PRETTY_NAME=\"Fedora Linux 42\"\nID=fedora\n", Host{}, "Fedora Linux 42"},
		{"no release", "ID=debian\n", Host{}, "VERSION_CODENAME"},
		{"release that is none", "ID=debian\nVERSION_CODENAME=--x\n", Host{}, "VERSION_CODENAME"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseOSRelease(strings.NewReader(tt.text))
			if got != tt.want || (err != nil) != (tt.bad != "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("parseOSRelease = %+v, %v; want %+v, %q", got, err, tt.want, tt.bad)
			}
		})
	}
	if _, err := readHost(t.TempDir() + "/none"); !errors.Is(err, ErrNoSuite) {
		t.Errorf("readHost of no file = %v; want ErrNoSuite", err)
	}
}

func TestFindKernel(t *testing.T) {
	for _, tt := range []struct{ name, packages, release, parts string }{
		{"Debian 12", "linux-base linux-image-6.1.0-56-amd64 linux-image-amd64", "6.1.0-56-amd64", "linux-image-6.1.0-56-amd64"},
		{"Debian 13", "linux-image-6.12.107+deb13-amd64 linux-image-amd64", "6.12.107+deb13-amd64", "linux-image-6.12.107+deb13-amd64"},
		{"Debian, in parts", "linux-base-7.2.13+deb14-amd64 linux-binary-7.2.13+deb14-amd64 linux-image-7.2.13+deb14-amd64 linux-image-amd64 linux-modules-7.2.13+deb14-amd64", "7.2.13+deb14-amd64",
			"linux-binary-7.2.13+deb14-amd64 linux-image-7.2.13+deb14-amd64 linux-modules-7.2.13+deb14-amd64"},
		{"Ubuntu", "intel-microcode linux-firmware linux-image-6.8.0-50-generic linux-image-generic linux-modules-6.8.0-50-generic linux-modules-extra-6.8.0-50-generic", "6.8.0-50-generic",
			"linux-image-6.8.0-50-generic linux-modules-6.8.0-50-generic linux-modules-extra-6.8.0-50-generic"},
		{"Ubuntu, virtual", "linux-image-6.8.0-50-generic linux-image-virtual linux-modules-6.8.0-50-generic", "6.8.0-50-generic", "linux-image-6.8.0-50-generic linux-modules-6.8.0-50-generic"},
		{"none", "linux-image-generic busybox", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pkgs []pkg
			for _, n := range strings.Fields(tt.packages) {
				pkgs = append(pkgs, pkg{Name: n})
			}
			release, parts := findKernel(pkgs)
			var names []string
			for _, p := range parts {
				names = append(names, p.Name)
			}
			if release != tt.release || strings.Join(names, " ") != tt.parts {
				t.Errorf("findKernel = %q, %v; want %q, %s", release, names, tt.release, tt.parts)
			}
		})
	}
}

// TestCompressedModules picks modules as Debian 12, 13 and Ubuntu 24.04 pack
// them: the ramdisk has them plain.
func TestCompressedModules(t *testing.T) {
	var x, g bytes.Buffer
	xw, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	gw := gzip.NewWriter(&g)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	nvme, core, virtio, ext4 := koFile("depends=nvme-core"), koFile("depends="), koFile("depends=ext4"), koFile("depends=")
	for _, err := range []error{func() error { _, err := xw.Write(nvme); return err }(), xw.Close(), func() error { _, err := gw.Write(virtio); return err }(), gw.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files := tree{
		"k/nvme.ko.xz":       {Path: "k/nvme.ko.xz", Mode: 0o644, Data: x.Bytes()},
		"k/nvme-core.ko.zst": {Path: "k/nvme-core.ko.zst", Data: zw.EncodeAll(core, nil)},
		"k/virtio_net.ko.gz": {Path: "k/virtio_net.ko.gz", Data: g.Bytes()},
		"k/ext4.ko":          {Path: "k/ext4.ko", Data: ext4},
		"k/snd.ko.zst":       {Path: "k/snd.ko.zst", Data: []byte("nobody reads it")},
	}
	got, err := pickModules(files, nil, []string{"nvme", "virtio_net", "nvme_core"}, []string{"nvme", "ext4"})
	if want := []string{"k/ext4.ko", "k/nvme-core.ko", "k/nvme.ko", "k/virtio_net.ko"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("pickModules = %v, %v; want %v", got, err, want)
	}
	for p, want := range map[string][]byte{"k/nvme.ko": nvme, "k/nvme-core.ko": core, "k/virtio_net.ko": virtio, "k/ext4.ko": ext4} {
		if f := files[p]; !bytes.Equal(f.Data, want) || f.Path != p {
			t.Errorf("%s = %s with %d bytes; want the module's own %d", p, f.Path, len(f.Data), len(want))
		}
	}
	if f := files["k/nvme.ko"]; f.Mode != 0o644 {
		t.Errorf("mode of nvme.ko = %o; want that of the package", f.Mode)
	}
	if _, err := pickModules(files, nil, []string{"snd"}, nil); err == nil || !strings.Contains(err.Error(), "snd.ko.zst") {
		t.Errorf("a damaged module = %v; want an error that names its file", err)
	}
}

const (
	noble = `Types: deb
URIs: http://archive.example.org/ubuntu/
Suites: noble noble-updates noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
Architectures: amd64

Types: deb
URIs: http://security.example.org/ubuntu/
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
Architectures: amd64

Types: deb
URIs: http://ports.example.org/ubuntu-ports/
Suites: noble noble-updates noble-security
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
Architectures: arm64 riscv64

Types: deb
URIs: https://ppa.example.org/somebody/ppa/ubuntu/
Suites: noble
Components: main
Signed-By: /etc/apt/keyrings/somebody.gpg
`
	jammy = `# Ubuntu 22.04 names no keyrings: apt's trust store has the archive's.
deb http://archive.example.org/ubuntu jammy main restricted
deb http://archive.example.org/ubuntu jammy-updates main restricted
deb http://archive.example.org/ubuntu jammy universe
deb http://security.example.org/ubuntu jammy-security main restricted
deb [arch=arm64,armhf] http://ports.example.org/ubuntu-ports jammy main
`
)

func TestUbuntuSources(t *testing.T) {
	deb, err := parseDeb822(strings.NewReader(noble), "ubuntu.sources")
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseSourceList(strings.NewReader(jammy), "sources.list")
	if err != nil {
		t.Fatal(err)
	}
	const ring = "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] "
	for _, tt := range []struct {
		suite, arch string
		components  []string
		want        []string
	}{
		{"noble", "amd64", []string{"main", "universe"}, []string{
			ring + "http://archive.example.org/ubuntu noble main universe",
			ring + "http://archive.example.org/ubuntu noble-updates main universe",
			ring + "http://security.example.org/ubuntu noble-security main universe"}},
		{"noble", "arm64", nil, []string{
			ring + "http://ports.example.org/ubuntu-ports noble main universe",
			ring + "http://ports.example.org/ubuntu-ports noble-updates main universe",
			ring + "http://ports.example.org/ubuntu-ports noble-security main universe"}},
		{"jammy", "amd64", []string{"main", "universe"}, []string{
			"deb http://archive.example.org/ubuntu jammy main",
			"deb http://archive.example.org/ubuntu jammy-updates main",
			"deb http://archive.example.org/ubuntu jammy universe",
			"deb http://security.example.org/ubuntu jammy-security main"}},
		{"jammy", "arm64", nil, []string{
			"deb http://archive.example.org/ubuntu jammy main restricted",
			"deb http://archive.example.org/ubuntu jammy-updates main restricted",
			"deb http://archive.example.org/ubuntu jammy universe",
			"deb http://security.example.org/ubuntu jammy-security main restricted",
			"deb http://ports.example.org/ubuntu-ports jammy main"}},
	} {
		var got []string
		for _, s := range archiveSources(append(deb, list...), tt.suite, tt.arch, tt.components) {
			got = append(got, s.Line())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("archiveSources(%s, %s) =\n%s\nwant\n%s", tt.suite, tt.arch, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}

// TestSuiteOfAnotherDistribution: a Debian image on an Ubuntu machine says what
// to do.
func TestSuiteOfAnotherDistribution(t *testing.T) {
	needTool(t, "apt-config")
	etc := t.TempDir()
	mustWrite(t, etc+"/sources.list.d/ubuntu.sources", noble)
	b := testBuilder(t)
	b.Apt.Etc, b.Host = etc, Host{OS: "ubuntu", Suite: "noble", Pretty: "Ubuntu 24.04.3 LTS"}
	for _, tt := range []struct {
		spec DiskSpec
		want []string
	}{
		{DiskSpec{Name: "d", OS: "debian", Suite: "bookworm"}, []string{"suite bookworm", "which have noble (Ubuntu 24.04.3 LTS)", "mirrors:", "os: host"}},
		{DiskSpec{Name: "d", OS: "ubuntu", Suite: "jammy"}, []string{"suite jammy", "noble"}},
	} {
		if _, _, err := b.Disk(t.Context(), tt.spec); !errors.Is(err, ErrNoSuite) || slices.ContainsFunc(tt.want, func(w string) bool { return !strings.Contains(err.Error(), w) }) {
			t.Errorf("Disk(%s) = %v; want ErrNoSuite with %q", tt.spec.Suite, err, tt.want)
		}
	}
	mustWrite(t, etc+"/sources.list.d/ubuntu.sources", strings.Split(noble, "\n\n")[0])
	if _, err := b.hostSources("noble", "arm64", nil); !errors.Is(err, ErrNoSuite) || !strings.Contains(err.Error(), "noble and architecture arm64") {
		t.Errorf("hostSources(arm64) of amd64's = %v; want ErrNoSuite that names both", err)
	}
}

func TestUbuntuPackages(t *testing.T) {
	debian := DiskSpec{Name: "d", OS: "debian", Suite: "trixie"}.withDefaults()
	jammy, noble := DiskSpec{Name: "j", OS: "ubuntu", Suite: "jammy"}.withDefaults(), DiskSpec{Name: "n", OS: "ubuntu", Suite: "noble", Kernel: "linux-image-virtual"}.withDefaults()
	for _, tt := range []struct {
		spec       DiskSpec
		has, lacks []string
	}{
		{debian, []string{"linux-image-amd64", "systemd-resolved"}, []string{"linux-image-generic"}},
		{jammy, []string{"linux-image-generic"}, []string{"linux-image-amd64", "systemd-resolved"}},
		{noble, []string{"linux-image-virtual", "systemd-resolved"}, []string{"linux-image-generic", "linux-image-amd64"}},
	} {
		got := tt.spec.include()
		for _, p := range tt.has {
			if !slices.Contains(got, p) {
				t.Errorf("packages of %s lack %s: %v", tt.spec.Suite, p, got)
			}
		}
		for _, p := range tt.lacks {
			if slices.Contains(got, p) {
				t.Errorf("packages of %s have %s", tt.spec.Suite, p)
			}
		}
	}
	if !slices.Equal(noble.Components, []string{"main", "universe"}) || !slices.Equal(debian.Components, []string{"main"}) {
		t.Errorf("components = %v, %v; want main and universe, main", noble.Components, debian.Components)
	}
	x := noble.excludes()
	for _, want := range []string{"/lib/firmware/amdgpu/*", "/usr/lib/firmware/amdgpu/*", "/usr/lib/modules/*/kernel/sound/*", "/usr/share/man/*"} {
		if !slices.Contains(x, want) {
			t.Errorf("excludes lack %s", want)
		}
	}
	host := DiskSpec{Name: "h", OS: site.OSHost}.withDefaults()
	if err := host.check(); err != nil {
		t.Errorf("check of os: host = %v; want nil", err)
	}
	if got := host.onHost(Host{OS: "ubuntu", Suite: "noble"}); got.OS != "ubuntu" || got.Suite != "noble" || len(got.Components) != 0 {
		t.Errorf("onHost = %+v; want ubuntu noble with the machine's own components", got)
	}
}

// TestFirmwareExcludes: dpkg matches as fnmatch(3) without FNM_PATHNAME.
func TestFirmwareExcludes(t *testing.T) {
	var rules []*regexp.Regexp
	for _, x := range (DiskSpec{OS: "ubuntu"}).excludes() {
		text := strings.ReplaceAll(strings.ReplaceAll(regexp.QuoteMeta(x), `\*`, ".*"), `\?`, ".")
		text = regexp.MustCompile(`\\\[(.*?)\\\]`).ReplaceAllString(text, "[$1]")
		rules = append(rules, regexp.MustCompile("^"+text+"$"))
	}
	for path, want := range map[string]bool{
		"/lib/firmware/nvidia/ga102/gr/fecs_bl.bin.zst":               true,
		"/usr/lib/firmware/nvidia/tu102/gsp/booter_load.bin.zst":      true,
		"/lib/firmware/nvidia/550.90.07/gsp_ga10x.bin":                false,
		"/lib/firmware/qcom/aic100/sbl.bin.zst":                       false,
		"/lib/firmware/qcom/sm8250/a650_zap.mbn.zst":                  true,
		"/lib/firmware/mellanox/mlxsw_spectrum-13.2010.1006.mfa2":     false,
		"/usr/lib/firmware/bnx2x/bnx2x-e2-7.13.21.0.fw.zst":           false,
		"/lib/firmware/intel/ice/ddp/ice-1.3.36.0.pkg.zst":            false,
		"/lib/firmware/intel-ucode/06-8f-08":                          false,
		"/lib/firmware/amd-ucode/microcode_amd_fam19h.bin":            false,
		"/lib/firmware/iwlwifi-so-a0-gf-a0-89.ucode.zst":              true,
		"/lib/modules/6.8.0-50-generic/kernel/drivers/net/ethernet/x": false,
	} {
		if got := slices.ContainsFunc(rules, func(r *regexp.Regexp) bool { return r.MatchString(path) }); got != want {
			t.Errorf("%s is left out: %v; want %v", path, got, want)
		}
	}
}

// TestImageFromSiteMirrors: an image that the machine's own sources know
// nothing of, built from mirrors of the site.
func TestImageFromSiteMirrors(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir+"/keys/debian.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
	mustWrite(t, dir+"/keys/more.gpg", "\x99binary")
	t.Chdir(filepath.Dir(dir)) // as in: fettle image build --site site
	s := &site.Site{Dir: filepath.Base(dir),
		Images: []site.Image{{Name: "deb", OS: "debian", Suite: "bookworm", Mirrors: []string{"debian", "own"}}, {Name: "lost", OS: "debian", Suite: "bookworm", Mirrors: []string{"x"}}},
		Mirrors: []site.Mirror{{Name: "debian", Format: "apt", URLs: []string{"http://deb.example.org/debian/"}, Suites: []string{"bookworm", "bookworm-updates", "trixie"},
			Components: []string{"main"}, Keyrings: []string{"keys/debian.asc", "keys/more.gpg"}}, {Name: "own", Format: "apt", Suites: []string{"bookworm"}}}}
	spec, err := SpecFor(s, site.Profile{Name: "p", Image: "deb"})
	if err != nil || len(spec.Sources) != 2 {
		t.Fatalf("SpecFor = %+v, %v; want two sources", spec, err)
	}
	ring := dir + "/keys/debian.asc," + dir + "/keys/more.gpg"
	if got, want := spec.Sources[1].Line(), "deb [signed-by="+ring+"] http://deb.example.org/debian bookworm-updates main"; got != want {
		t.Errorf("source = %q; want %q", got, want)
	}
	if _, err := SpecFor(s, site.Profile{Name: "p", Image: "lost"}); err == nil || !strings.Contains(err.Error(), `no mirror "x"`) {
		t.Errorf("SpecFor with no such mirror = %v; want an error that names it", err)
	}
	a := &apt{dir: t.TempDir(), sources: append(slices.Clone(spec.Sources), Source{URI: "http://m.example.org/debian", Suite: "bookworm-security", Components: []string{"main"}, SignedBy: "/etc/apt/keyrings/mine.gpg"},
		Source{URI: "http://n.example.org/debian", Suite: "bookworm-security", Components: []string{"main"}, SignedBy: "/usr/share/keyrings/debian-archive-keyring.gpg"})}
	// What apt reads here: copies, since apt in a user namespace cannot enter a
	// home; their form is known by their content.
	lines, err := a.sourceLines(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := "deb [signed-by=" + a.dir + "/key-0-0.asc," + a.dir + "/key-0-1.gpg] http://deb.example.org/debian bookworm main"; lines[0] != want || mustRead(t, a.dir+"/key-0-1.gpg") != "\x99binary" {
		t.Errorf("sourceLines = %q; want %q and the keys beside it", lines[0], want)
	}
	// What the image has: the mirror's keys, since its own trust store may not
	// know them; of this machine's keyrings only the distribution's.
	files, err := machineFiles(a, spec, newIDs("sha256:aa"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range files {
		got[f.Path] = string(f.Data)
	}
	want := "deb [signed-by=/etc/apt/keyrings/fettle-0-0.asc,/etc/apt/keyrings/fettle-0-1.gpg] http://deb.example.org/debian bookworm main\n" +
		"deb [signed-by=/etc/apt/keyrings/fettle-1-0.asc,/etc/apt/keyrings/fettle-1-1.gpg] http://deb.example.org/debian bookworm-updates main\n" +
		"deb http://m.example.org/debian bookworm-security main\n" +
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://n.example.org/debian bookworm-security main\n"
	if got["etc/apt/sources.list"] != want || got["etc/apt/keyrings/fettle-0-1.gpg"] != "\x99binary" {
		t.Errorf("sources.list =\n%swant\n%s", got["etc/apt/sources.list"], want)
	}
}
