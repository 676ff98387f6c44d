package images

import (
	"context"
	"fmt"
)

// loadersRecipe is part of a loaders release's inputs.
const loadersRecipe = 2

// loaderFiles says for an architecture which package brings which boot loader,
// and what it is called in the release. Debian 12 has no iPXE for arm64.
var loaderFiles = map[string]map[string]map[string]string{amd64: {
	"ipxe": {
		"usr/lib/ipxe/undionly.kpxe": FileUndionly,
		"usr/lib/ipxe/snponly.efi":   FileSnponly,
		"boot/ipxe.efi":              FileIPXE,
	},
	"shim-signed":               {"usr/lib/shim/shimx64.efi.signed": FileShim},
	"shim-helpers-amd64-signed": {"usr/lib/shim/mmx64.efi.signed": FileMokMgr},
	"systemd-boot-efi":          {"usr/lib/systemd/boot/efi/linuxx64.efi.stub": FileStub},
	"grub-efi-amd64-signed":     {"usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": FileGRUB},
}, arm64: {
	"shim-signed":               {"usr/lib/shim/shimaa64.efi.signed": FileShimARM64},
	"shim-helpers-arm64-signed": {"usr/lib/shim/mmaa64.efi.signed": FileMokMgrARM64},
	"systemd-boot-efi":          {"usr/lib/systemd/boot/efi/linuxaa64.efi.stub": FileStubARM64},
	"grub-efi-arm64-signed":     {"usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed": FileGRUBARM64},
}}

// Loaders makes the release "loaders" for amd64, see LoadersFor.
func (b *Builder) Loaders(ctx context.Context) (rel Release, cached bool, err error) {
	return b.LoadersFor(ctx, amd64)
}

// LoadersFor makes the release [LoadersName] of an architecture: what a network
// card's ROM or a firmware loads first. The programs are Debian's, byte for
// byte.
func (b *Builder) LoadersFor(ctx context.Context, arch string) (rel Release, cached bool, err error) {
	name, packages := LoadersName(arch), loaderFiles[arch]
	if packages == nil {
		return Release{}, false, fmt.Errorf("there are no boot loaders for architecture %q: want amd64 or arm64", arch)
	}
	a, err := b.openHostApt(ctx, name, arch)
	if err != nil {
		return Release{}, false, err
	}
	defer a.close()
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
	for _, p := range pkgs {
		want := packages[p.Name]
		found := tree{}
		err := b.readDeb(ctx, debs[p.Name], func(path string) bool { return want[path] != "" }, func(f debFile) error {
			found[f.Path] = f
			return nil
		})
		if err != nil {
			return Release{}, false, err
		}
		for _, path := range sortedKeys(want) {
			f, ok := found[path]
			if !ok || len(f.Data) == 0 {
				return Release{}, false, fmt.Errorf("building the boot loaders: package %s %s has no /%s", p.Name, p.Version, path)
			}
			file, err := b.putBytes(ctx, want[path], f.Data)
			if err != nil {
				return Release{}, false, err
			}
			r.Files = append(r.Files, file)
		}
		r.Facts[p.Name] = p.Version
	}
	r, err = b.finish(ctx, r)
	return r, false, err
}
