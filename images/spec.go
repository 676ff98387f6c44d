package images

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

// DefaultDiskSize is the size of a disk image whose site file says none. The
// agent grows the root partition to the disk, so it only needs to hold what is
// installed; unused space costs nothing, since zero chunks are not fetched.
const DefaultDiskSize = 3 << 30

// DiskSpec says what OS image is wanted.
type DiskSpec struct {
	Name       string // of the release: "IMAGE", or "IMAGE+HASH" with a profile's own packages
	Image      string // name of the site's image
	OS         string // "debian"
	Suite      string
	Components []string // default: those of the machine's own apt sources
	Arch       string   // default "amd64"
	Packages   []string // beyond what every image has; sorted, each once
	Size       int64    // bytes of the raw disk
}

// SpecFor is the disk image that a profile needs: its image, with the
// profile's packages baked in. Profiles with the same image and the same
// packages share one release.
func SpecFor(s *site.Site, p site.Profile) (DiskSpec, error) {
	img, ok := s.Image(p.Image)
	if !ok {
		return DiskSpec{}, fmt.Errorf("profile %s: the site has no image %q", p.Name, p.Image)
	}
	spec := DiskSpec{
		Name:       img.Name,
		Image:      img.Name,
		OS:         img.OS,
		Suite:      img.Suite,
		Components: slices.Clone(img.Components),
		Arch:       img.Arch,
		Packages:   append(slices.Clone(img.Packages), p.Packages...),
		Size:       int64(img.Size),
	}
	slices.Sort(spec.Packages)
	spec.Packages = slices.Compact(spec.Packages)
	if extra := extraPackages(p.Packages, img.Packages); len(extra) > 0 {
		spec.Name += "+" + blob.FromBytes([]byte(strings.Join(extra, "\n"))).Hex()[:8]
	}
	return spec.withDefaults(), spec.withDefaults().check()
}

// extraPackages is what ps has and base has not, sorted, each once.
func extraPackages(ps, base []string) []string {
	var out []string
	for _, p := range ps {
		if !slices.Contains(base, p) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (d DiskSpec) withDefaults() DiskSpec {
	if d.OS == "" {
		d.OS = "debian"
	}
	if d.Arch == "" {
		d.Arch = "amd64"
	}
	if d.Size == 0 {
		d.Size = DefaultDiskSize
	}
	return d
}

func (d DiskSpec) check() error {
	if err := CheckName(d.Name); err != nil {
		return err
	}
	if d.OS != "debian" {
		return fmt.Errorf("image %s: os %q cannot be built; build \"debian\", or import a disk image with fettle image import", d.Name, d.OS)
	}
	if d.Arch != "amd64" {
		return fmt.Errorf("image %s: architecture %q cannot be built yet; use amd64, or import a disk image", d.Name, d.Arch)
	}
	if !validSuite(d.Suite) {
		return fmt.Errorf("image %s: suite %q is not the name of a suite such as bookworm", d.Name, d.Suite)
	}
	if d.Size < 1<<30 {
		return fmt.Errorf("image %s: size %d bytes is too small; give at least 1 GiB", d.Name, d.Size)
	}
	for _, p := range d.Packages {
		if !validPackage(p) {
			return fmt.Errorf("image %s: %q is not a package name", d.Name, p)
		}
	}
	for _, c := range d.Components {
		if !validPackage(c) {
			return fmt.Errorf("image %s: %q is not an archive component such as main", d.Name, c)
		}
	}
	return nil
}

// validSuite and validPackage keep what goes into apt's sources and argument
// lists to names (Debian policy 5.6.1); in particular no leading dash.
func validSuite(s string) bool { return validWord(s, "-./_") }

// A dash at the end would tell apt to remove the package.
func validPackage(s string) bool { return validWord(s, "+-.") && !strings.HasSuffix(s, "-") }

func validWord(s, punct string) bool {
	for i, c := range s {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune(punct, c)) {
			return false
		}
	}
	return s != "" && len(s) < 200
}
