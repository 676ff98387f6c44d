package site

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func TestRevisionIgnoresForm(t *testing.T) {
	want, err := loadText(base)
	if err != nil {
		t.Fatal(err)
	}
	i, j := strings.Index(base, "machines:"), strings.Index(base, "profiles:")
	k := strings.Index(base, "  - name: m2")
	tests := []struct {
		name  string
		files fstest.MapFS
		same  bool
	}{
		{"comments", fstest.MapFS{"site.yaml": {Data: []byte("# hello\n" + strings.ReplaceAll(base, "vlan: 20", "vlan: 20 # twenty"))}}, true},
		{"order of keys", fstest.MapFS{"site.yaml": {Data: []byte(base[i:] + base[:i])}}, true},
		{"order of machines, in files", fstest.MapFS{
			"site.yaml":       {Data: []byte(base[:i] + base[j:])},
			"machines/a.yaml": {Data: []byte("machines:\n" + base[k:j])},
			"machines/b.yaml": {Data: []byte(base[i:k])},
		}, true},
		{"defaults written out", fstest.MapFS{"site.yaml": {Data: []byte(strings.Replace(base, "vlan: 20", "vlan: 20\n    mtu: 1500\n    domain: example.org", 1))}}, true},
		{"form of values", fstest.MapFS{"site.yaml": {Data: []byte(strings.NewReplacer("1TB", "1000000000000", "02:00:00:00:00:03", "02-00-00-00-00-03").Replace(base))}}, true},
		{"canonical JSON", fstest.MapFS{"site.yaml": {Data: want.Canonical()}}, true},
		{"another size", fstest.MapFS{"site.yaml": {Data: []byte(strings.Replace(base, "1TB", "1TiB", 1))}}, false},
		{"another name", fstest.MapFS{"site.yaml": {Data: []byte(strings.Replace(base, "name: base", "name: bass", 1))}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(tt.files)
			if err != nil {
				t.Fatalf("load() = %v; want nil", err)
			}
			if same := got.Revision() == want.Revision(); same != tt.same {
				t.Errorf("revision same = %v; want %v\n%s\n%s", same, tt.same, got.Canonical(), want.Canonical())
			}
		})
	}
}

// What the examples say survives the way through canonical JSON, whole.
func TestCanonicalLoadsAsEqualSite(t *testing.T) {
	for _, dir := range []string{"../examples/two-gpu", "../examples/rack", "../examples/arm64"} {
		s := mustLoad(t, dir)
		back, err := load(fstest.MapFS{"site.yaml": {Data: s.Canonical()}})
		if err != nil {
			t.Fatalf("load(Canonical(%s)) = %v; want nil", dir, err)
		}
		if string(back.Canonical()) != string(s.Canonical()) {
			t.Errorf("%s changes on the way:\n%s\n%s", dir, s.Canonical(), back.Canonical())
		}
		if changes := Diff(s, back); len(changes) != 0 {
			t.Errorf("Diff(%s, itself) = %v; want none", dir, changes)
		}
	}
}

// Every field of every noun is in the table, or left out on purpose: what is
// not in the table is neither read nor part of the revision.
func TestTableIsComplete(t *testing.T) {
	leftOut := map[string]bool{"Site.Dir": true, "Machine.Pos": true}
	var walk func(o *object, typ reflect.Type)
	walk = func(o *object, typ reflect.Type) {
		inTable := map[string]kind{}
		for _, f := range o.fields {
			inTable[f.goName] = f.kind
			sf, ok := typ.FieldByName(f.goName)
			if !ok {
				t.Errorf("table: %s has no field %s", typ, f.goName)
				continue
			}
			switch k := f.kind.(type) {
			case *object:
				walk(k, sf.Type)
			case list:
				if inner, ok := k.of.(*object); ok {
					walk(inner, sf.Type.Elem())
				}
			}
			if f.def != "" && f.derived != "" {
				t.Errorf("%s.%s has two defaults", o.name, f.key)
			}
			if f.doc == "" {
				t.Errorf("%s.%s is not described", o.name, f.key)
			}
		}
		for i := range typ.NumField() {
			name := typ.Field(i).Name
			if _, ok := inTable[name]; !ok && !leftOut[typ.Name()+"."+name] {
				t.Errorf("%s.%s is not in the table", typ.Name(), name)
			}
		}
	}
	walk(tables(), reflect.TypeFor[Site]())
}

func TestDiff(t *testing.T) {
	a := mustLoad(t, "../examples/rack")
	b := a.Clone()
	b.Policy.OnDifference = Warn
	b.Machines = append(b.Machines[1:], Machine{Name: "new-01", Serial: "N1", Firmware: UEFI})
	b.Machines[0].NICs[0].Address = b.Machines[0].NICs[0].Address.Next()
	b.Machines[0].NICs[1].Network = "storage"
	b.Machines[0].Owner = ""
	b.Machines[3].Disks[0], b.Machines[3].Disks[1] = b.Machines[3].Disks[1], b.Machines[3].Disks[0]
	b.Profiles[0].Packages = append(b.Profiles[0].Packages, "htop")
	b.Profiles[0].BIOS["ProcCStates"] = "Enabled"
	b.Profiles[1].Users[1].Sudo = true
	var got []string
	for _, c := range Diff(a, b) {
		s := c.String()
		if c.Kind == Added && c.Field == "" {
			s = s + " " + c.New[:9]
		}
		got = append(got, s)
	}
	want := []string{
		"machine cmp-01 removed",
		"machine cmp-02: nics[02:60:00:00:00:12].address changed from 10.60.0.12 to 10.60.0.13",
		"machine cmp-02: nics[02:60:00:00:01:12].network added: storage",
		"machine cmp-02: owner removed, was platform",
		`machine gpu-01: disks order changed from ["S6CKNX0G01A","S6CKNX0G01B","S6CKNX0G01C"] to ["S6CKNX0G01B","S6CKNX0G01A","S6CKNX0G01C"]`,
		`machine new-01 added {"arch":"`,
		"profile compute: bios.ProcCStates changed from Disabled to Enabled",
		`profile compute: packages changed from ["numactl","lldpd"] to ["numactl","lldpd","htop"]`,
		"profile train: users[train].sudo added: true",
		"site: policy.on-difference changed from stop to warn",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Diff() =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if a.Profiles[0].BIOS["ProcCStates"] != "Disabled" || a.Machines[0].Name != "cmp-01" {
		t.Error("Clone() shares memory with the original")
	}
}

func TestFind(t *testing.T) {
	s := mustLoad(t, "../examples/rack")
	mac, err := ParseMAC("02:60:00:00:00:32")
	if err != nil {
		t.Fatal(err)
	}
	m, nic, ok := s.MachineByMAC(mac)
	if !ok || m.Name != "sto-02" || nic.Address.String() != "10.60.1.32" {
		t.Errorf("MachineByMAC(%s) = %s, %s, %v; want sto-02, 10.60.1.32", mac, m.Name, nic.Address, ok)
	}
	if b, ok := m.BootNIC(); !ok || b.MAC != mac {
		t.Errorf("BootNIC() = %s, %v; want %s", b.MAC, ok, mac)
	}
	bmc := m.BMC.MAC
	if _, _, ok := s.MachineByMAC(bmc); ok {
		t.Errorf("MachineByMAC(%s) finds a BMC; want none", bmc)
	}
	if got, ok := s.MachineByBMC(bmc); !ok || got.Name != "sto-02" {
		t.Errorf("MachineByBMC(%s) = %s, %v; want sto-02", bmc, got.Name, ok)
	}
	if _, ok := s.MachineByBMC(MAC{}); ok {
		t.Error("MachineByBMC(zero) finds a machine; want none")
	}
	// sto-02's address lies inside the pool, and must be skipped there.
	reserved := s.Reserved("prov")
	if got := reserved[nic.Address]; got != "sto-02" {
		t.Errorf("Reserved(prov)[%s] = %q; want sto-02", nic.Address, got)
	}
	n, _ := s.Network("prov")
	if reserved[n.Server] != "fettle" || reserved[n.Gateway] != "gateway" || len(reserved) != 10 {
		t.Errorf("Reserved(prov) = %v; want fettle, gateway and eight machines", reserved)
	}
	if m.BMC.Network != "bmc" || n.MTU != 1500 || n.Domain != "dc1.example.org" {
		t.Errorf("derived: BMC on %q, MTU %d, domain %q; want bmc, 1500, dc1.example.org", m.BMC.Network, n.MTU, n.Domain)
	}
	if m.Pos.File != "machines/r07-gpu-storage.yaml" || m.Pos.Line < 10 {
		t.Errorf("Pos of sto-02 = %s; want its file and line", m.Pos)
	}
}
