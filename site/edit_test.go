package site

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// editSite is the part of a site that the machines of these tests need.
const editSite = `name: dc
domain: dc.example.org
networks:
  - {name: prov, purpose: boot, prefix: 10.0.0.0/24, server: 10.0.0.1, pools: [{from: 10.0.0.100, to: 10.0.0.199}]}
  - {name: oob, purpose: bmc, prefix: 10.1.0.0/24, vlan: 9}
racks:
  - {name: r1}
secrets:
  - name: bmc-default # of all
    description: "user:password"
`

func newMachine(name string, n byte) Machine {
	return Machine{
		Name: name, Serial: "00" + string('0'+n) + "77", Firmware: UEFI, CPUs: 64, Memory: 512 << 30, Rack: "r1", Unit: 20 + int(n),
		BMC:   BMC{Address: netip.AddrFrom4([4]byte{10, 1, 0, 100 + n}), MAC: MAC{2, 0, 0, 1, 0, n}, Protocol: Redfish, Secret: "bmc-default"},
		NICs:  []NIC{{MAC: MAC{2, 0, 0, 0, 0, n}, Network: "prov", Boot: true}, {MAC: MAC{2, 0, 0, 0, 1, n}}},
		Disks: []Disk{{Serial: "D" + string('0'+n), Size: 960e9}},
		GPUs:  []GPU{{Model: "H100", PCI: "10de:2330", Count: 8}},
	}
}

const (
	// Blocks throughout, keys in an order of somebody's own, comments everywhere.
	blockStyle = `# Row A.
machines:
  # The first of two.
  - name: gpu-01
    serial: A1
    firmware: uefi
    rack: r1
    unit: 1
    nics:
      - mac: 02:00:00:00:00:51
        network: prov
        boot: true
    bmc:
      address: 10.1.0.51
      secret: bmc-default
    purpose: training
    # Prototype.
    on-difference: warn

  # The storage node.
  - name: sto-01
    serial: A2
    firmware: uefi
    nics:
      - mac: 02:00:00:00:00:52
        network: prov
        boot: true
    # tail of sto-01

# The end.
`
	blockWant = `# Row A.
machines:
  # The first of two.
  - name: gpu-01
    serial: A1
    firmware: uefi
    rack: r1
    unit: 1
    nics:
      - mac: 02:00:00:00:00:51
        network: prov
        boot: true
    bmc:
      address: 10.1.0.51
      secret: bmc-default
    purpose: training
    # Prototype.
    on-difference: warn

  - name: gpu-02
    serial: "00277"
    firmware: uefi
    cpus: 64
    memory: 512GiB
    rack: r1
    unit: 22
    nics:
      - mac: 02:00:00:00:00:02
        network: prov
        boot: true
      - mac: 02:00:00:00:01:02
    disks:
      - {serial: D2, size: 960GB}
    gpus:
      - {model: H100, pci: "10de:2330", count: 8}
    bmc:
      address: 10.1.0.102
      mac: "02:00:00:01:00:02"
      protocol: redfish
      secret: bmc-default

  # The storage node.
  - name: sto-01
    serial: A2
    firmware: uefi
    nics:
      - mac: 02:00:00:00:00:52
        network: prov
        boot: true
    # tail of sto-01

  - name: sto-05
    rack: r1
    unit: 25
    serial: "00577"
    firmware: uefi
    cpus: 64
    memory: 512GiB
    bmc:
      address: 10.1.0.105
      mac: "02:00:00:01:00:05"
      protocol: redfish
      secret: bmc-default
    nics:
      - mac: 02:00:00:00:00:05
        network: prov
        boot: true
      - mac: 02:00:00:00:01:05
    disks:
      - {serial: D5, size: 960GB}
    gpus:
      - {model: H100, pci: "10de:2330", count: 8}

# The end.
`
	// Dashes at the edge, values in braces, single quotes, no blank lines.
	flowStyle = `machines:
- name: 'gpu-01'
  serial: 'A1'
  firmware: bios
  bmc: {address: 10.1.0.51, secret: bmc-default}
  nics:
  - {mac: '02:00:00:00:00:51', network: prov, boot: true}
- name: 'gpu-03'
  serial: 'A3'
  firmware: bios
  bmc: {address: 10.1.0.53, secret: bmc-default}
  nics:
  - {mac: '02:00:00:00:00:53', network: prov, boot: true}
`
	flowWant = `machines:
- name: 'gpu-01'
  serial: 'A1'
  firmware: bios
  bmc: {address: 10.1.0.51, secret: bmc-default}
  nics:
  - {mac: '02:00:00:00:00:51', network: prov, boot: true}
- name: 'gpu-02'
  rack: r1
  unit: 22
  serial: '00277'
  firmware: uefi
  cpus: 64
  memory: 512GiB
  bmc: {address: 10.1.0.102, mac: "02:00:00:01:00:02", protocol: redfish, secret: bmc-default}
  nics:
  - {mac: '02:00:00:00:00:02', network: prov, boot: true}
  - {mac: '02:00:00:00:01:02'}
  disks:
  - {serial: D2, size: 960GB}
  gpus:
  - {model: H100, pci: "10de:2330", count: 8}
- name: 'gpu-03'
  serial: 'A3'
  firmware: bios
  bmc: {address: 10.1.0.53, secret: bmc-default}
  nics:
  - {mac: '02:00:00:00:00:53', network: prov, boot: true}
`
	emptyWant = `# none yet
machines:
  - name: gpu-02
    rack: r1
    unit: 22
    serial: "00277"
    firmware: uefi
    cpus: 64
    memory: 512GiB
    bmc:
      address: 10.1.0.102
      mac: "02:00:00:01:00:02"
      protocol: redfish
      secret: bmc-default
    nics:
      - {mac: "02:00:00:00:00:02", network: prov, boot: true}
      - {mac: "02:00:00:00:01:02"}
    disks:
      - {serial: D2, size: 960GB}
    gpus:
      - {model: H100, pci: "10de:2330", count: 8}
`
)

func editFolder(t *testing.T, machines string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"site.yaml": editSite}
	if machines != "" {
		files["machines/r1.yaml"] = machines
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEditKeepsStyle(t *testing.T) {
	for _, tc := range []struct {
		name, in, want, file string
		add                  []Machine
	}{
		{"blocks", blockStyle, blockWant, "machines/r1.yaml", []Machine{newMachine("gpu-02", 2), newMachine("sto-05", 5)}},
		{"braces", flowStyle, flowWant, "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"Windows", strings.ReplaceAll(flowStyle, "\n", "\r\n"), strings.ReplaceAll(flowWant, "\n", "\r\n"), "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"before the first", strings.ReplaceAll(flowStyle, "gpu-01", "gpu-04"), "", "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"no value", "# none yet\nmachines:\n", emptyWant, "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"an empty list", "# none yet\nmachines: []\n", emptyWant, "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"another section", "# none yet\n", emptyWant, "machines/r1.yaml", []Machine{newMachine("gpu-02", 2)}},
		{"a new file", "", strings.TrimPrefix(emptyWant, "# none yet\n"), "machines/gpu-02.yaml", []Machine{newMachine("gpu-02", 2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := editFolder(t, tc.in)
			e, err := OpenEdit(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			for _, m := range tc.add {
				file := ""
				if len(e.Before().Machines) == 0 {
					file = tc.file
				}
				if err := e.AddMachine(m, file); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Commit(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, tc.file))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(tc.want, "# none yet\nmachines", "# none yet\nmachines"); want != "" && tc.name != "another section" && string(got) != want {
				t.Errorf("the file is\n%s\nwant\n%s", got, want)
			}
			s, err := Load(dir)
			if err != nil {
				t.Fatalf("Load() of the changed site = %v", err)
			}
			for _, m := range tc.add {
				g, ok := s.Machine(m.Name)
				m.Height, m.UUID, m.BMC.Network, m.Pos = 1, SerialUUID(m.Serial), "oob", g.Pos
				if !ok || !equalMachines(g, m) {
					t.Errorf("machine %s is read as\n%+v\nwant\n%+v", m.Name, g, m)
				}
			}
			if info, err := os.Stat(filepath.Join(dir, tc.file)); err == nil && tc.in != "" && info.Mode().Perm() != 0o640 {
				t.Errorf("mode of the file = %v; want 0640, as it was", info.Mode().Perm())
			}
			diff := e.Diff()
			for _, l := range strings.Split(diff, "\n") {
				if strings.HasPrefix(l, "-") && !strings.HasPrefix(l, "---") && !strings.Contains(l, "machines: []") {
					t.Errorf("the diff takes a line away: %s\n%s", l, diff)
				}
			}
			if !strings.Contains(diff, "+++ b/"+tc.file) || !strings.Contains(diff, "name: ") {
				t.Errorf("Diff() = %s; want the lines that are added", diff)
			}
		})
	}
}

func equalMachines(a, b Machine) bool {
	o := format().of("machines")
	x, y := &Site{Machines: []Machine{a}}, &Site{Machines: []Machine{b}}
	return string(x.Canonical()) == string(y.Canonical()) && o != nil
}

// TestEditExample takes a machine into the example of a whole rack: between
// its siblings, nothing else touched.
func TestEditExample(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../examples/rack")); err != nil {
		t.Fatal(err)
	}
	before, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := OpenEdit(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	m := newMachine("gpu-03", 3)
	m.Rack, m.Unit, m.Height, m.Profile = "r07", 34, 8, "train"
	m.BMC.Address, m.BMC.Secret = netip.MustParseAddr("10.60.4.23"), "bmc-gpu-03"
	if err := e.AddMachine(m, ""); err == nil || !strings.Contains(err.Error(), "bmc-gpu-03") {
		t.Fatalf("AddMachine() with a secret that the site does not name = %v; want an error", err)
	}
	e.Close()
	if e, err = OpenEdit(dir); err != nil {
		t.Fatal(err)
	}
	if err := e.AddSecret(SecretName{Name: "bmc-gpu-03", Description: "user:password of gpu-03's BMC"}); err != nil {
		t.Fatal(err)
	}
	if err := e.AddMachine(m, ""); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(e.Files(), " "); got != "site.yaml machines/r07-gpu-storage.yaml" {
		t.Errorf("Files() = %s; want the secret's before the machine's", got)
	}
	if err := e.Commit(); err != nil {
		t.Fatal(err)
	}
	after, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range after.Machines {
		names = append(names, o.Name)
		if old, ok := before.Machine(o.Name); ok && !equalMachines(old, o) {
			t.Errorf("machine %s changed", o.Name)
		}
	}
	if got := strings.Join(names, " "); got != "cmp-01 cmp-02 cmp-03 cmp-04 gpu-01 gpu-02 gpu-03 sto-01 sto-02" {
		t.Errorf("machines in order: %s; want gpu-03 behind gpu-02", got)
	}
	text, err := os.ReadFile(filepath.Join(dir, "machines/r07-gpu-storage.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"    on-difference: warn\n\n  - name: gpu-03\n    rack: r07\n", "      mac: 02:00:00:01:00:03\n", `      - {mac: "02:00:00:00:00:03", network: prov, boot: true}`, `    profile: train` + "\n\n  - name: sto-01\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the file lacks %q:\n%s", want, text)
		}
	}
}

// TestEditRefuses what is there already, with the place where it stands, and
// leaves the files alone.
func TestEditRefuses(t *testing.T) {
	dir := editFolder(t, blockStyle)
	for _, tc := range []struct {
		name   string
		change func(*Machine)
		want   string
	}{
		{"name", func(m *Machine) { m.Name = "gpu-01" }, "machines/r1.yaml:4:5: name gpu-01 is already that of machine gpu-01"},
		{"serial", func(m *Machine) { m.Serial = "A2" }, "machines/r1.yaml:21:5: serial A2 is already that of machine sto-01"},
		{"MAC address", func(m *Machine) { m.NICs[1].MAC = MAC{2, 0, 0, 0, 0, 0x51} }, "machines/r1.yaml:4:5: MAC address 02:00:00:00:00:51 is already that of machine gpu-01"},
		{"address", func(m *Machine) { m.BMC.Address = netip.MustParseAddr("10.1.0.51") }, "machines/r1.yaml:4:5: address 10.1.0.51 is already that of machine gpu-01"},
		{"rack unit", func(m *Machine) { m.Unit = 1 }, "unit 1 of rack r1 is already machine gpu-01's"},
		{"no network", func(m *Machine) { m.NICs[0].Network = "nowhere" }, `there is no network "nowhere"`},
	} {
		e, err := OpenEdit(dir)
		if err != nil {
			t.Fatal(err)
		}
		m := newMachine("gpu-02", 2)
		tc.change(&m)
		err = e.AddMachine(m, "")
		if err == nil {
			err = e.Commit()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: AddMachine() = %v; want %q", tc.name, err, tc.want)
		}
		e.Close()
	}
	for _, file := range []string{"../out.yaml", "elsewhere.yaml", "machines/x.txt"} {
		e, err := OpenEdit(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.AddMachine(newMachine("gpu-02", 2), file); err == nil {
			t.Errorf("AddMachine() into %s = nil; want an error", file)
		}
		e.Close()
	}
	// Somebody else writes meanwhile.
	e, err := OpenEdit(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.AddMachine(newMachine("gpu-02", 2), ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "machines/r1.yaml"), []byte(blockStyle+"# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Commit(); !errors.Is(err, ErrFileChanged) {
		t.Errorf("Commit() over somebody's change = %v; want ErrFileChanged", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "machines/r1.yaml")); err != nil || string(got) != blockStyle+"# mine\n" {
		t.Errorf("the file is %q, %v; want it as it was written meanwhile", got, err)
	}
}

func TestExpandNames(t *testing.T) {
	for expr, want := range map[string]string{"gpu-05": "gpu-05", "gpu-[05-07]": "gpu-05 gpu-06 gpu-07", "a-[1,3],b": "a-1 a-3 b"} {
		if got, err := ExpandNames(expr); err != nil || strings.Join(got, " ") != want {
			t.Errorf("ExpandNames(%q) = %v, %v; want %s", expr, got, err, want)
		}
	}
	if got, err := ExpandNames("GPU_1"); err == nil {
		t.Errorf("ExpandNames(GPU_1) = %v; want an error", got)
	}
}

// FuzzEdit adds a machine to any file: either it is refused, or what was there
// is still read as before, with the machine beside it.
func FuzzEdit(f *testing.F) {
	for _, s := range []string{blockStyle, flowStyle, "machines: []\n", "machines:\n", "", "machines:\n  - {name: a, serial: b, firmware: bios, nics: [{mac: \"02:00:00:00:00:51\", network: prov, boot: true}]}\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fsys := overlay{os.DirFS(t.TempDir()), map[string][]byte{"site.yaml": []byte(editSite), "machines/r1.yaml": []byte(text)}}
		before, err := load(fsys)
		if err != nil {
			return
		}
		e := &Edit{root: fsys, site: before, before: map[string][]byte{}, after: map[string][]byte{}}
		if err := e.AddMachine(newMachine("gpu-02", 2), "machines/r1.yaml"); err != nil {
			return
		}
		after, err := e.Site()
		if err != nil {
			t.Fatalf("a site that AddMachine took is not read: %v\n%s", err, e.after["machines/r1.yaml"])
		}
		for _, m := range before.Machines {
			if o, ok := after.Machine(m.Name); !ok || !equalMachines(m, o) {
				t.Fatalf("machine %s changed:\n%s", m.Name, e.after["machines/r1.yaml"])
			}
		}
	})
}
