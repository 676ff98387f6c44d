package images

import (
	"context"
	"fmt"
)

// loadersRecipe is part of a loaders release's inputs.
const loadersRecipe = 2

// loaderFiles says which package brings which boot loader, and what it is
// called in the release.
var loaderFiles = map[string]map[string]string{
	"ipxe": {
		"usr/lib/ipxe/undionly.kpxe": FileUndionly,
		"usr/lib/ipxe/snponly.efi":   FileSnponly,
		"boot/ipxe.efi":              FileIPXE,
	},
	"shim-signed":               {"usr/lib/shim/shimx64.efi.signed": FileShim},
	"shim-helpers-amd64-signed": {"usr/lib/shim/mmx64.efi.signed": FileMokMgr},
	"systemd-boot-efi":          {"usr/lib/systemd/boot/efi/linuxx64.efi.stub": FileStub},
	"grub-efi-amd64-signed":     {"usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": FileGRUB},
}

// Loaders makes the release "loaders": what a network card's ROM or a firmware
// loads first. The programs are Debian's, byte for byte.
func (b *Builder) Loaders(ctx context.Context) (rel Release, cached bool, err error) {
	a, err := b.openHostApt(ctx, NameLoaders)
	if err != nil {
		return Release{}, false, err
	}
	defer a.close()
	all, err := a.resolve(ctx, sortedKeys(loaderFiles)...)
	if err != nil {
		return Release{}, false, err
	}
	var pkgs []pkg
	for _, name := range sortedKeys(loaderFiles) {
		p, ok := findPkg(all, name)
		if !ok {
			return Release{}, false, fmt.Errorf("building the boot loaders: apt resolved no package %s", name)
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
	if r, ok, err := b.cached(ctx, NameLoaders, in); err != nil || ok {
		return r, ok, err
	}
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return Release{}, false, err
	}
	b.progress(Progress{Name: NameLoaders, Stage: StageUnpack})
	r := Release{Name: NameLoaders, Kind: KindLoaders, Arch: "amd64", Inputs: in, Created: b.now().UTC(), Facts: map[string]string{}}
	for _, p := range pkgs {
		want := loaderFiles[p.Name]
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
