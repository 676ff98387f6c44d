package site

import (
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	s := mustLoad(t, "../examples/rack")
	tests := []struct {
		name  string
		exprs []string
		want  string // names, or the error behind "!"
	}{
		{"names in the site's order", []string{"gpu-02", "cmp-01", "gpu-02"}, "cmp-01 gpu-02"},
		{"commas", []string{"gpu-01,cmp-03"}, "cmp-03 gpu-01"},
		{"range", []string{"cmp-[01-03]"}, "cmp-01 cmp-02 cmp-03"},
		{"list in brackets", []string{"cmp-[01,03-04]"}, "cmp-01 cmp-03 cmp-04"},
		{"all", []string{"all"}, "cmp-01 cmp-02 cmp-03 cmp-04 gpu-01 gpu-02 sto-01 sto-02"},
		{"profile", []string{"profile=train"}, "gpu-01 gpu-02"},
		{"owner and firmware", []string{"owner=platform+firmware=bios"}, "sto-02"},
		{"union of filters", []string{"purpose=storage", "profile=train"}, "gpu-01 gpu-02 sto-01 sto-02"},
		{"range and filter", []string{"sto-[01-02]+firmware=uefi"}, "sto-01"},
		{"nothing", nil, "!no machine is named"},
		{"empty", []string{"", ","}, "!no machine is named"},
		{"unknown name", []string{"gpu-1"}, `!there is no machine "gpu-1"; did you mean "gpu-01"?`},
		{"range beyond", []string{"gpu-[01-04]"}, "!does not have: gpu-03, gpu-04"},
		{"width counts", []string{"gpu-[1-2]"}, "!does not have: gpu-1, gpu-2"},
		{"unknown filter", []string{"rak=r07"}, `!selected by "rak"; did you mean "rack"?`},
		{"unknown value", []string{"profile=trian"}, `!no machine has profile "trian"; did you mean "train"?`},
		{"none has both", []string{"profile=train+firmware=bios"}, "!none has them all"},
		{"backwards", []string{"gpu-[02-01]"}, "!is not a range of numbers"},
		{"open bracket", []string{"gpu-[01"}, "!brackets that do not match"},
		{"nested", []string{"gpu-[[01]]"}, "!brackets that do not match"},
		{"too many", []string{"gpu-[1-999999]"}, "!more than 10000 names"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Select(tt.exprs...)
			if want, bad := strings.CutPrefix(tt.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Select(%q) = %d machines, %v; want error %q", tt.exprs, len(got), err, want)
				}
				return
			}
			var names []string
			for _, m := range got {
				names = append(names, m.Name)
			}
			if err != nil || strings.Join(names, " ") != tt.want {
				t.Errorf("Select(%q) = %v, %v; want %s", tt.exprs, names, err, tt.want)
			}
		})
	}
}

func FuzzSelect(f *testing.F) {
	for _, s := range []string{"all", "gpu-[01-02]", "rack=r07+all", "a[1-2][3-4]", "[", "]", "a,b", "=", "[0-4294967295]"} {
		f.Add(s)
	}
	s, err := loadText(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		got, err := s.Select(expr)
		if err == nil && len(got) == 0 {
			t.Errorf("Select(%q) = none, nil; want an error or machines", expr)
		}
	})
}

func TestTargets(t *testing.T) {
	m := Machine{Disks: []Disk{{Serial: "A", Size: 4 << 40}, {Serial: "B", Size: 1 << 40}, {Serial: "C", Size: 1 << 40}, {Serial: "D", Size: 4 << 40}}}
	for _, c := range []struct {
		name   string
		layout Layout
		want   string
	}{
		{"the first", Layout{Disk: "first"}, "A"},
		{"unsaid", Layout{}, "A"},
		{"the first two", Layout{Disk: "first", RAID: 1}, "A B"},
		{"the smallest", Layout{Disk: "smallest"}, "B"},
		{"the two smallest", Layout{Disk: "smallest", RAID: 1}, "B C"},
		{"one by serial", Layout{Disk: "C"}, "C"},
		{"one by serial and its like", Layout{Disk: "D", RAID: 1}, "D A"},
		{"no such serial", Layout{Disk: "E", RAID: 1}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, d := range m.Targets(c.layout) {
				got = append(got, d.Serial)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("Targets(%+v) = %s; want %s", c.layout, s, c.want)
			}
		})
	}
	if m.Disks[0].Serial != "A" || m.Disks[1].Serial != "B" {
		t.Errorf("Targets changed the machine's disks: %v", m.Disks)
	}
	if got := (Machine{Disks: m.Disks[:1]}).Targets(Layout{RAID: 1}); len(got) != 1 {
		t.Errorf("Targets of a machine with one disk = %v; want that", got)
	}
}
