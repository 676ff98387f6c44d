package airgap

import (
	"reflect"
	"testing"
)

func TestWhy(t *testing.T) {
	pkg := func(name, version, arch, why string) Item {
		return Item{Path: "pool/" + name + "_" + arch + ".deb", Kind: KindPackage, Name: name, Version: version, Arch: arch, Why: why}
	}
	l := Lock{Version: LockVersion, Mirrors: []LockedMirror{
		{Name: "debian", Format: "apt", Items: []Item{
			pkg("libc", "2", "amd64", "tool"), pkg("libc", "2", "arm64", "other"),
			pkg("tool", "1", "amd64", "driver"), pkg("other", "1", "arm64", "the site file"),
			pkg("nvme", "3", "amd64", "profile train (gpu-01)"),
			pkg("a", "1", "amd64", "b"), pkg("b", "1", "amd64", "a"),
			{Path: ".upstream/x/InRelease", Kind: KindEvidence, Name: "libc"},
		}},
		{Name: "images", Format: "images", Items: []Item{
			{Path: "agent/1/vmlinuz", Kind: KindBuilt, Name: "agent", Version: "1", Why: "every machine"},
			{Path: "agent/1/initrd", Kind: KindBuilt, Name: "agent", Version: "1", Why: "every machine"},
		}},
		{Name: "vendor", Format: "apt", Items: []Item{pkg("driver", "5", "all", "the site file")}},
		{Name: "mods", Format: "go", Items: []Item{
			{Path: "a/@v/v1.mod", Kind: KindIndex, Name: "x.org/a", Version: "v1", Why: "x.org/b@v2"}, {Path: "a/@v/v1.zip", Kind: KindPackage, Name: "x.org/a", Version: "v1", Why: "x.org/b@v2"},
			{Path: "b/@v/v1.mod", Kind: KindIndex, Name: "x.org/b", Version: "v1", Why: "nothing of this"}, {Path: "b/@v/v2.mod", Kind: KindIndex, Name: "x.org/b", Version: "v2", Why: "go.mod"},
		}},
		{Name: "py", Format: "pypi", Items: []Item{pkg("lib", "1", "cp311-cp311-manylinux", "app"), pkg("app", "2", "py3-none-any", "requirements.txt")}},
		{Name: "whole", Format: "rpm", Items: []Item{pkg("tool", "9", "x86_64", "")}},
	}}
	for _, tt := range []struct {
		name string
		want [][]string
	}{
		{"libc", [][]string{{"tool 1", "driver 5", "mirror vendor of the site file"}, {"other 1", "mirror debian of the site file"}}},
		{"nvme", [][]string{{"profile train (gpu-01)"}}},
		{"pool/nvme_amd64.deb", [][]string{{"profile train (gpu-01)"}}},
		{"tool", [][]string{{"driver 5", "mirror vendor of the site file"}, {"mirror whole is whole"}}},
		{"agent", [][]string{{"every machine"}}},
		{"a", [][]string{{"b 1", "a 1"}}},
		{"x.org/a", [][]string{{"x.org/b v2", "go.mod"}}},
		{"lib", [][]string{{"app 2", "requirements.txt"}}},
		{"none", nil},
	} {
		var got [][]string
		for _, r := range l.Why(tt.name) {
			got = append(got, r.Chain)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Why(%s) = %q; want %q", tt.name, got, tt.want)
		}
	}
	if got := l.Alike("ibc"); len(got) != 1 || got[0] != "libc" {
		t.Errorf("Alike(ibc) = %v; want libc", got)
	}
}
