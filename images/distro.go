package images

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/site"
)

// distro is what differs between the distributions that images are made of.
type distro struct {
	title   string            // in the boot menu
	vendor  string            // folder of the EFI system partition where its signed GRUB looks for grub.cfg
	kernels map[string]string // by architecture: the package that leads to the newest general kernel
	// components are those of an image that names none.
	components []string
	lacks      map[string][]string // by suite: packages of basePackages that it does not have, and does without
	keyring    string              // beginning of its archive's keyrings in /usr/share/keyrings, which images have too
	exclude    []string
}

// distros are known by what a site's image says, and by os-release's ID.
var distros = map[string]distro{
	site.OSDebian: {
		title: "Debian GNU/Linux", vendor: "debian", keyring: "debian-archive-", components: []string{"main"},
		kernels: map[string]string{amd64: "linux-image-amd64", arm64: "linux-image-arm64"},
	},
	site.OSUbuntu: {
		title: "Ubuntu", vendor: "ubuntu", keyring: "ubuntu-archive-", components: []string{"main", "universe"},
		kernels: map[string]string{amd64: "linux-image-generic", arm64: "linux-image-generic"},
		lacks:   map[string][]string{"jammy": {"systemd-resolved"}}, // it is in systemd
		// linux-image-generic depends on linux-firmware, half a gigabyte, most of
		// it for hardware that no server has: as with docExcludes' modules.
		exclude: firmwareExcludes,
	},
}

// firmwareExcludes are what linux-firmware has for graphics of desktops, radio,
// sound, cameras and systems on a chip. Images keep the rule for packages that
// come later, so that what drivers of a data centre's accelerators bring is
// spared: NVIDIA's firmware is in folders named by the driver's version, where
// linux-firmware's, for nouveau, are named by chips.
var firmwareExcludes = []string{
	"/lib/firmware/amdgpu/*", "/lib/firmware/radeon/*", "/lib/firmware/i915/*", "/lib/firmware/nvidia/[a-z]*",
	"/lib/firmware/iwlwifi-*", "/lib/firmware/intel/iwlwifi/*", "/lib/firmware/ath*", "/lib/firmware/rtw8*", "/lib/firmware/rtlwifi/*", "/lib/firmware/rtl_bt/*",
	"/lib/firmware/brcm/*", "/lib/firmware/cypress/*", "/lib/firmware/mediatek/*", "/lib/firmware/mrvl/*", "/lib/firmware/libertas/*", "/lib/firmware/ti-connectivity/*",
	"/lib/firmware/qca/*", "/lib/firmware/qcom/[b-z]*", "/lib/firmware/intel/ibt-*", "/lib/firmware/intel/avs/*", "/lib/firmware/intel/catpt/*", "/lib/firmware/intel/sof*",
	"/lib/firmware/intel/vsc/*", "/lib/firmware/intel/vpu/*", "/lib/firmware/intel/ipu*", "/lib/firmware/amdnpu/*", "/lib/firmware/amdtee/*",
	"/lib/firmware/cirrus/*", "/lib/firmware/ti/*", "/lib/firmware/dvb-*", "/lib/firmware/v4l-*", "/lib/firmware/meson/*", "/lib/firmware/rockchip/*", "/lib/firmware/imx/*",
	"/lib/firmware/nxp/*", "/lib/firmware/powervr/*", "/lib/firmware/arm/*",
}

// kernelPackage is the real kernel, what packages such as linux-image-amd64
// and linux-image-generic lead to; it names its release.
var kernelPackage = regexp.MustCompile(`^linux-image-([0-9][0-9A-Za-z.+~-]*)$`)

// findKernel finds the real kernel among resolved packages, and all the
// packages that its release comes in. In Debian, until 6.16, it is one; Debian
// has the program in linux-binary-RELEASE and the modules in
// linux-modules-RELEASE since then; Ubuntu has linux-modules-RELEASE and
// linux-modules-extra-RELEASE.
func findKernel(pkgs []pkg) (release string, parts []pkg) {
	for _, p := range pkgs {
		if m := kernelPackage.FindStringSubmatch(p.Name); m != nil {
			release = m[1]
		}
	}
	if release == "" {
		return "", nil
	}
	for _, p := range pkgs {
		switch strings.TrimSuffix(p.Name, "-"+release) {
		case "linux-image", "linux-binary", "linux-modules", "linux-modules-extra":
			parts = append(parts, p)
		}
	}
	return release, parts
}

// Host is a machine's distribution and release.
type Host struct{ OS, Suite, Pretty string }

// ThisHost is this machine's.
func ThisHost() (Host, error) { return readHost("") }

// readHost reads os-release(5). A distribution that is made of Debian or
// Ubuntu is taken for that, with the release that it says it is made of.
func readHost(path string) (Host, error) {
	paths := []string{path}
	if path == "" {
		paths = []string{"/etc/os-release", "/usr/lib/os-release"}
	}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		defer f.Close()
		h, err := parseOSRelease(f)
		if err != nil {
			return Host{}, fmt.Errorf("%s: %w", p, err)
		}
		return h, nil
	}
	return Host{}, fmt.Errorf("%w: no %s says which distribution this machine has", ErrNoSuite, strings.Join(paths, " and no "))
}

func parseOSRelease(r io.Reader) (Host, error) {
	vars := map[string]string{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if k, v, ok := strings.Cut(strings.TrimSpace(sc.Text()), "="); ok {
			vars[k] = strings.Trim(v, `"'`)
		}
	}
	if err := sc.Err(); err != nil {
		return Host{}, err
	}
	pretty := vars["PRETTY_NAME"]
	if pretty == "" {
		pretty = vars["ID"]
	}
	for _, id := range append([]string{vars["ID"]}, strings.Fields(vars["ID_LIKE"])...) {
		if _, ok := distros[id]; !ok {
			continue
		}
		suite := vars[strings.ToUpper(id)+"_CODENAME"] // of those that are made of it
		if suite == "" {
			suite = vars["VERSION_CODENAME"]
		}
		if !validSuite(suite) {
			return Host{}, errors.New("it names no VERSION_CODENAME; say which suite to build from")
		}
		return Host{OS: id, Suite: suite, Pretty: pretty}, nil
	}
	return Host{}, fmt.Errorf("%w: this machine has %s, and packages are fetched from Debian's or Ubuntu's archive only", ErrNoSuite, pretty)
}
