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
	if got := l.Alike("lib"); len(got) != 1 || got[0] != "libc" {
		t.Errorf("Alike(lib) = %v; want libc", got)
	}
}
