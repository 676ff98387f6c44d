package images

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// loadersRecipe is part of a loaders release's inputs.
const loadersRecipe = 3

// loader is one file of a loaders release, and where distributions have it:
// PACKAGE:PATH, the first that there is.
type loader struct {
	file string
	from []string
}

// loaderFiles are the boot loaders of an architecture. Neither Debian nor
// Ubuntu has iPXE for arm64. Ubuntu's shim-signed brings shim as
// shimx64.efi.signed.latest and the key manager; Debian's key manager is a
// package of its own. Ubuntu 22.04 has the stub in systemd itself.
var loaderFiles = map[string][]loader{amd64: {
	{FileUndionly, []string{"ipxe:usr/lib/ipxe/undionly.kpxe"}},
	{FileSnponly, []string{"ipxe:usr/lib/ipxe/snponly.efi"}},
	{FileIPXE, []string{"ipxe:boot/ipxe.efi", "ipxe:usr/lib/ipxe/ipxe-amd64.efi", "ipxe:usr/lib/ipxe/ipxe.efi"}},
	{FileShim, []string{"shim-signed:usr/lib/shim/shimx64.efi.signed", "shim-signed:usr/lib/shim/shimx64.efi.signed.latest"}},
	{FileMokMgr, []string{"shim-helpers-amd64-signed:usr/lib/shim/mmx64.efi.signed", "shim-signed:usr/lib/shim/mmx64.efi"}},
	{FileStub, []string{"systemd-boot-efi:usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd:usr/lib/systemd/boot/efi/linuxx64.efi.stub"}},
	{FileGRUB, []string{"grub-efi-amd64-signed:usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"}},
}, arm64: {
	{FileShimARM64, []string{"shim-signed:usr/lib/shim/shimaa64.efi.signed", "shim-signed:usr/lib/shim/shimaa64.efi.signed.latest"}},
	{FileMokMgrARM64, []string{"shim-helpers-arm64-signed:usr/lib/shim/mmaa64.efi.signed", "shim-signed:usr/lib/shim/mmaa64.efi"}},
	{FileStubARM64, []string{"systemd-boot-efi:usr/lib/systemd/boot/efi/linuxaa64.efi.stub", "systemd:usr/lib/systemd/boot/efi/linuxaa64.efi.stub"}},
	{FileGRUBARM64, []string{"grub-efi-arm64-signed:usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed"}},
}}

// loaderPackages are the packages to ask for: of each loader those that the
// archive has, but systemd only where nothing else has its stub.
func loaderPackages(loaders []loader, known map[string]bool) (map[string][]string, error) {
	want := map[string][]string{} // paths by package
	for _, l := range loaders {
		var first string
		for _, from := range l.from {
			name, path, _ := strings.Cut(from, ":")
			if !known[name] || name == "systemd" && first != "" {
				continue
			}
			first = name
			want[name] = append(want[name], path)
		}
		if first == "" {
			name, _, _ := strings.Cut(l.from[0], ":")
			return nil, fmt.Errorf("building the boot loaders: the archive has no package %s, which brings %s; on Ubuntu see that the components main and universe are among apt's sources", name, l.file)
		}
	}
	return want, nil
}

// Loaders makes the release "loaders" for amd64, see LoadersFor.
func (b *Builder) Loaders(ctx context.Context) (rel Release, cached bool, err error) {
	return b.LoadersFor(ctx, amd64)
}

// LoadersFor makes the release [LoadersName] of an architecture: what a network
// card's ROM or a firmware loads first. The programs are the distribution's, byte
// for byte.
func (b *Builder) LoadersFor(ctx context.Context, arch string) (rel Release, cached bool, err error) {
	name, loaders := LoadersName(arch), loaderFiles[arch]
	if loaders == nil {
		return Release{}, false, fmt.Errorf("there are no boot loaders for architecture %q: want amd64 or arm64", arch)
	}
	a, err := b.openHostApt(ctx, name, arch)
	if err != nil {
		return Release{}, false, err
	}
	defer a.close()
	known, err := a.known(ctx, loaderNames(loaders)...)
	if err != nil {
		return Release{}, false, err
	}
	packages, err := loaderPackages(loaders, known)
	if err != nil {
		return Release{}, false, err
	}
	all, err := a.resolve(ctx, sortedKeys(packages)...)
	if err != nil {
		return Release{}, false, err
	}
	var pkgs []pkg
	for _, want := range sortedKeys(packages) {
		p, ok := findPkg(all, want)
		if !ok {
			return Release{}, false, fmt.Errorf("building the boot loaders: apt resolved no package %s", want)
		}
		pkgs = append(pkgs, p)
	}
	in, err := inputs(struct {
		Recipe int
		Pkgs   []pkg
	}{loadersRecipe, pkgs})
	if err != nil {
		return Release{}, false, err
	}
	if r, ok, err := b.cached(ctx, name, in); err != nil || ok {
		return r, ok, err
	}
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return Release{}, false, err
	}
	b.progress(Progress{Name: name, Stage: StageUnpack})
	r := Release{Name: name, Kind: KindLoaders, Arch: arch, Inputs: in, Created: b.now().UTC(), Facts: map[string]string{}}
	found := map[string]debFile{} // by PACKAGE:PATH
	for _, p := range pkgs {
		err := b.readDeb(ctx, debs[p.Name], func(path string) bool { return slices.Contains(packages[p.Name], path) }, func(f debFile) error {
			found[p.Name+":"+f.Path] = f
			return nil
		})
		if err != nil {
			return Release{}, false, err
		}
		r.Facts[p.Name] = p.Version
	}
	for _, l := range loaders {
		i := slices.IndexFunc(l.from, func(from string) bool { return len(found[from].Data) > 0 })
		if i < 0 {
			return Release{}, false, fmt.Errorf("building the boot loaders: %s is not where it is looked for: %s", l.file, describeMissing(l, pkgs))
		}
		file, err := b.putBytes(ctx, l.file, found[l.from[i]].Data)
		if err != nil {
			return Release{}, false, err
		}
		r.Files = append(r.Files, file)
	}
	r, err = b.finish(ctx, r)
	return r, false, err
}

// loaderNames are all packages that may have one of the loaders.
func loaderNames(loaders []loader) []string {
	names := map[string]bool{}
	for _, l := range loaders {
		for _, from := range l.from {
			name, _, _ := strings.Cut(from, ":")
			names[name] = true
		}
	}
	return sortedKeys(names)
}

// describeMissing says which packages were looked into for a loader.
func describeMissing(l loader, pkgs []pkg) string {
	var out []string
	for _, from := range l.from {
		name, path, _ := strings.Cut(from, ":")
		if p, ok := findPkg(pkgs, name); ok {
			out = append(out, fmt.Sprintf("package %s %s has no /%s", p.Name, p.Version, path))
		}
	}
	return strings.Join(out, "; ")
}
