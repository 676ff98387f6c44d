package images

import (
	"fmt"
	"path/filepath"
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
	Name       string   // of the release: "IMAGE", or "IMAGE+HASH" with a profile's own packages
	Image      string   // name of the site's image
	OS         string   // site.OSDebian, OSUbuntu, or OSHost: as the machine that builds it
	Suite      string   // none with OSHost
	Components []string // default: OSHost: those of the machine's own apt sources; else the distribution's free ones
	Arch       string   // default "amd64"
	Kernel     string   `json:",omitempty"` // package that leads to the kernel; "" = the distribution's
	Packages   []string // beyond what every image has; sorted, each once
	Sources    []Source `json:",omitempty"` // where packages come from; none: the machine's own apt sources
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
	if p.Layout.RAID != 0 {
		p.Packages = append(slices.Clone(p.Packages), "mdadm")
	}
	spec := DiskSpec{
		Name:       img.Name,
		Image:      img.Name,
		OS:         img.OS,
		Suite:      img.Suite,
		Components: slices.Clone(img.Components),
		Arch:       img.Arch,
		Kernel:     img.Kernel,
		Packages:   append(slices.Clone(img.Packages), p.Packages...),
		Size:       int64(img.Size),
	}
	slices.Sort(spec.Packages)
	spec.Packages = slices.Compact(spec.Packages)
	if extra := extraPackages(p.Packages, img.Packages); len(extra) > 0 {
		spec.Name += "+" + blob.FromBytes([]byte(strings.Join(extra, "\n"))).Hex()[:8]
	}
	for _, name := range img.Mirrors {
		i := slices.IndexFunc(s.Mirrors, func(m site.Mirror) bool { return m.Name == name })
		if i < 0 {
			return DiskSpec{}, fmt.Errorf("image %s: the site has no mirror %q", img.Name, name)
		}
		sources, err := mirrorSources(s, img, s.Mirrors[i])
		if err != nil {
			return DiskSpec{}, fmt.Errorf("image %s: mirror %s: %w", img.Name, name, err)
		}
		spec.Sources = append(spec.Sources, sources...)
	}
	return spec.withDefaults(), spec.withDefaults().check()
}

// mirrorSources are what a mirror of the site has of an image's release. One
// without addresses stands for the machine's own sources: it adds none.
func mirrorSources(s *site.Site, img site.Image, m site.Mirror) ([]Source, error) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, err
	}
	var out []Source
	for _, uri := range m.URLs {
		for _, suite := range m.Suites {
			components := m.Components
			if len(img.Components) > 0 {
				components = intersect(img.Components, m.Components)
			}
			if !ofSuite(suite, img.Suite) || len(components) == 0 {
				continue
			}
			src := Source{URI: strings.TrimSuffix(uri, "/"), Suite: suite, Components: components, File: "mirror " + m.Name}
			var rings []string
			for _, k := range m.Keyrings {
				if !filepath.IsAbs(k) {
					k = filepath.Join(dir, k)
				}
				rings = append(rings, k)
			}
			src.SignedBy = strings.Join(rings, ",")
			out = append(out, src)
		}
	}
	return out, nil
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
		d.OS = site.OSDebian
	}
	if d.Arch == "" {
		d.Arch = amd64
	}
	if len(d.Components) == 0 {
		d.Components = distros[d.OS].components
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
	if _, ok := distros[d.OS]; !ok && d.OS != site.OSHost {
		return fmt.Errorf("image %s: os %q cannot be built; build \"debian\", \"ubuntu\" or \"host\", or import a disk image with fettle image import", d.Name, d.OS)
	}
	if _, ok := archs[d.Arch]; !ok {
		return fmt.Errorf("image %s: architecture %q cannot be built; use amd64 or arm64, or import a disk image", d.Name, d.Arch)
	}
	if d.Kernel != "" && !validPackage(d.Kernel) {
		return fmt.Errorf("image %s: kernel %q is not a package name", d.Name, d.Kernel)
	}
	if (d.OS != site.OSHost || d.Suite != "") && !validSuite(d.Suite) {
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

// onHost is the spec with the distribution and release that os: host means on a
// machine.
func (d DiskSpec) onHost(h Host) DiskSpec {
	if d.OS == site.OSHost {
		d.OS, d.Suite = h.OS, h.Suite
	}
	return d
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
