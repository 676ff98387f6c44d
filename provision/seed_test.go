package provision

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
)

func TestSeedFiles(t *testing.T) {
	s := testSite()
	m := s.Machines[0]
	files, err := seedFiles(s, m, s.Profiles[0], Run{ID: "run-1", Token: "TOKEN"}, "https://10.77.0.1:8443", []byte("CA"), []byte("trusted CA"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]wire.SeedFile{}
	for _, f := range files {
		got[f.Path] = f
	}
	var user struct {
		Hostname, FQDN string
		Users          []struct {
			Name string
			Sudo string
			Keys []string `yaml:"ssh_authorized_keys"`
		}
		RunCmd  [][]string
		CACerts struct{ Trusted []string } `yaml:"ca_certs"`
	}
	data := got["/var/lib/cloud/seed/nocloud/user-data"].Content
	if !strings.HasPrefix(string(data), "#cloud-config\n") {
		t.Errorf("user-data begins %.20q; want #cloud-config", data)
	}
	if err := yaml.Unmarshal(data, &user); err != nil {
		t.Fatal(err)
	}
	if user.Hostname != "gpu-01" || user.FQDN != "gpu-01.example.org" || len(user.Users) != 1 || user.Users[0].Keys[0] != "ssh-ed25519 AAAA ops" || user.Users[0].Sudo == "" {
		t.Errorf("user-data = %+v; want gpu-01.example.org with user ops", user)
	}
	var network struct {
		Version   int
		Ethernets map[string]struct {
			Match     struct{ MACAddress string }
			Addresses []string
			Routes    []struct{ To, Via string }
		}
	}
	if err := yaml.Unmarshal(got["/var/lib/cloud/seed/nocloud/network-config"].Content, &network); err != nil {
		t.Fatal(err)
	}
	e := network.Ethernets["nic0"]
	if network.Version != 2 || e.Match.MACAddress != bootMAC.String() || len(e.Addresses) != 1 || e.Addresses[0] != "10.77.0.11/24" || e.Routes[0].Via != "10.77.0.254" {
		t.Errorf("network-config = %+v; want %s with 10.77.0.11/24 by 10.77.0.254", network, bootMAC)
	}
	phone := got["/etc/fettle/phone-home"]
	if phone.Mode != 0o600 || string(phone.Content) != "URL=https://10.77.0.1:8443/agent/v1/phone-home\nTOKEN=TOKEN\n" {
		t.Errorf("phone-home = %o %q; want mode 600 with URL and token", phone.Mode, phone.Content)
	}
	// What cloud-init starts once must go on by itself until fettle has answered.
	unit := string(got["/etc/systemd/system/fettle-phone-home.service"].Content)
	script := got["/usr/local/lib/fettle/phone-home"]
	if !strings.Contains(unit, "\nExecStart=/usr/local/lib/fettle/phone-home\n") || !strings.Contains(unit, "\nRestart=on-failure\n") || script.Mode != 0o755 {
		t.Errorf("unit of the phone-home:\n%s\nwant it to run the script (mode %o) until it succeeds", unit, script.Mode)
	}
	if len(user.RunCmd) != 1 || !strings.Contains(strings.Join(user.RunCmd[0], " "), "--now --no-block fettle-phone-home.service") {
		t.Errorf("runcmd = %q; want it to start the unit", user.RunCmd)
	}
	for path, f := range got {
		if strings.Contains(string(f.Content), "TOKEN") && f.Mode&0o077 != 0 && path != "/usr/local/lib/fettle/phone-home" {
			t.Errorf("%s has mode %o and holds the token", path, f.Mode)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *site.Machine, inv *wire.Inventory)
		want   []string // fields
	}{
		{"the same", func(*site.Machine, *wire.Inventory) {}, nil},
		{"serial", func(_ *site.Machine, inv *wire.Inventory) { inv.System.Serial = "X" }, []string{"serial"}},
		{"firmware", func(_ *site.Machine, inv *wire.Inventory) { inv.Firmware.Kind = "bios" }, []string{"firmware"}},
		{"Secure Boot is off", func(m *site.Machine, _ *wire.Inventory) { m.SecureBoot = true }, []string{"secure-boot"}},
		{"Secure Boot is on", func(m *site.Machine, inv *wire.Inventory) { m.SecureBoot, inv.Firmware.SecureBoot = true, true }, nil},
		{"nobody asked for Secure Boot", func(_ *site.Machine, inv *wire.Inventory) { inv.Firmware.SecureBoot = true }, nil},
		{"CPUs", func(_ *site.Machine, inv *wire.Inventory) { inv.CPU.Threads = 1 }, []string{"cpus"}},
		{"a memory module is missing", func(_ *site.Machine, inv *wire.Inventory) { inv.Memory = 1 << 30 }, []string{"memory"}},
		{"firmware keeps some memory", func(_ *site.Machine, inv *wire.Inventory) { inv.Memory -= 100 << 20 }, nil},
		{"NIC", func(_ *site.Machine, inv *wire.Inventory) { inv.NICs[0].MAC = "02:00:00:00:00:99" }, []string{"nics[0].mac"}},
		{"NIC in upper case", func(_ *site.Machine, inv *wire.Inventory) { inv.NICs[0].MAC = strings.ToUpper(inv.NICs[0].MAC) }, nil},
		{"no link", func(_ *site.Machine, inv *wire.Inventory) { inv.NICs[0].Link = false }, []string{"nics[0]"}},
		{"disk is another", func(_ *site.Machine, inv *wire.Inventory) { inv.Disks[1].Serial = "X" }, []string{"disks[1].serial"}},
		{"disk has other sectors", func(m *site.Machine, inv *wire.Inventory) { m.Disks[0].SectorSize, inv.Disks[0].SectorSize = 4096, 512 }, []string{"disks[0].sector-size"}},
		{"disk has the sectors", func(m *site.Machine, inv *wire.Inventory) {
			m.Disks[0].SectorSize, inv.Disks[0].SectorSize = 4096, 4096
		}, nil},
		{"disk is small", func(_ *site.Machine, inv *wire.Inventory) { inv.Disks[0].Bytes = 1 }, []string{"disks[0].size"}},
		{"disk model", func(m *site.Machine, inv *wire.Inventory) {
			m.Disks[0].Model = "PM9A3"
			inv.Disks[0].Model = "Intel"
		}, []string{"disks[0].model"}},
		{"one GPU is missing", func(_ *site.Machine, inv *wire.Inventory) { inv.GPUs = inv.GPUs[1:] }, []string{"gpus[0].count"}},
		{"one GPU too many", func(_ *site.Machine, inv *wire.Inventory) { inv.GPUs = append(inv.GPUs, inv.GPUs[0]) }, []string{"gpus[0].count"}},
		{"a display adapter is no GPU of the list", func(_ *site.Machine, inv *wire.Inventory) {
			inv.GPUs = append(inv.GPUs, wire.GPU{PCI: "1a03:2000"})
		}, nil},
		{"architecture", func(_ *site.Machine, inv *wire.Inventory) { inv.CPU.Arch = "arm64" }, []string{"arch"}},
		{"arm64 as said", func(m *site.Machine, inv *wire.Inventory) { m.Arch, inv.CPU.Arch = "arm64", "arm64" }, nil},
		{"an agent of before there were architectures", func(m *site.Machine, _ *wire.Inventory) { m.Arch = "arm64" }, nil},
		{"nothing said", func(m *site.Machine, inv *wire.Inventory) {
			*m = site.Machine{Name: "x"}
			*inv = wire.Inventory{}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, inv := testSite().Machines[0], goodInventory()
			tt.change(&m, &inv)
			var got []string
			for _, d := range Compare(m, inv) {
				got = append(got, d.Field)
				if d.Want == "" || d.Got == "" {
					t.Errorf("difference %+v does not say both sides", d)
				}
			}
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("Compare() = %q; want %q", got, tt.want)
			}
		})
	}
}

func TestTargetDisks(t *testing.T) {
	m := testSite().Machines[0]
	for layout, want := range map[site.Layout]string{
		{}: "DISK1", {Disk: "first"}: "DISK1", {Disk: "smallest"}: "DISK2", {Disk: "DISK2"}: "DISK2",
		{RAID: 1}: "DISK1 DISK2", {Disk: "smallest", RAID: 1}: "DISK2 DISK1",
	} {
		disks, err := targetDisks(m, site.Profile{Layout: layout})
		var got []string
		for _, d := range disks {
			got = append(got, d.Serial)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("targetDisks(%+v) = %s, %v; want %s", layout, got, err, want)
		}
	}
	if _, err := targetDisks(m, site.Profile{Layout: site.Layout{Disk: "NOPE"}}); err == nil {
		t.Error("targetDisks(NOPE) found one; want an error")
	}
	if _, err := targetDisks(m, site.Profile{Layout: site.Layout{Disk: m.Disks[0].Serial, RAID: 1}}); err == nil && m.Disks[0].Size != m.Disks[1].Size {
		t.Error("targetDisks of a mirror without a disk of its size found one; want an error")
	}
	if _, err := targetDisks(site.Machine{Name: "bare"}, site.Profile{}); err == nil {
		t.Error("targetDisks of a machine without disks found one; want an error")
	}
}

func TestCARamdiskIsWhereTheAgentLooks(t *testing.T) {
	b, err := caRamdisk([]byte("PEM"))
	if err != nil {
		t.Fatal(err)
	}
	if len(b)%4 != 0 {
		t.Errorf("ramdisk has %d bytes; want a multiple of 4, since others follow", len(b))
	}
	for _, part := range []string{"070701", "etc\x00", "etc/fettle\x00", "etc/fettle/ca.pem\x00", "PEM", "TRAILER!!!\x00"} {
		if !strings.Contains(string(b), part) {
			t.Errorf("ramdisk lacks %q", part)
		}
	}
}

func TestTimeFile(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ntp   []netip.Addr
		alone bool
		want  string
	}{
		{"the distribution's own", nil, false, ""},
		{"the site's", []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")}, false, "NTP=10.0.0.5 10.0.0.6\nFallbackNTP=10.0.0.5 10.0.0.6\n"},
		{"fettle's machine", nil, true, "NTP=\nFallbackNTP=10.0.0.1\n"},
	} {
		f := timeFile(site.Network{NTP: tt.ntp, Server: netip.MustParseAddr("10.0.0.1")}, tt.alone)
		got := ""
		if f != nil {
			got = string(f.Content)
		}
		if !strings.HasSuffix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: timeFile = %q; want %q", tt.name, got, tt.want)
		}
	}
}

// What is served here is what an installed system uses.
func TestSeedRunClients(t *testing.T) {
	s := testSite()
	n, _ := bootNetworkOf(s, s.Machines[0])
	seed := func(clients func(netip.Addr) ([]wire.SeedFile, error)) (map[string]string, error) {
		p := &Provisioner{c: Config{CA: []byte("the CA"), Clients: clients}}
		d := Run{ID: "run-1", Machine: s.Machines[0].Name, Deploy: &wire.Deploy{}}
		err := p.seedRun(s, &d)
		got := map[string]string{}
		for _, f := range d.Deploy.Files {
			got[f.Path] = string(f.Content)
		}
		return got, err
	}
	const userData = "/var/lib/cloud/seed/nocloud/user-data"
	got, err := seed(nil)
	if err != nil || strings.Contains(got[userData], "the CA") || got["/etc/systemd/timesyncd.conf.d/fettle.conf"] != "" {
		t.Errorf("seed without mirrors = %v, %v; want nothing of them", got, err)
	}
	got, err = seed(func(server netip.Addr) ([]wire.SeedFile, error) {
		return []wire.SeedFile{{Path: "/etc/apt/sources.list", Mode: 0o644, Content: []byte("http://" + server.String())}}, nil
	})
	if err != nil || got["/etc/apt/sources.list"] != "http://"+n.Server.String() || strings.Contains(got[userData], "the CA") || got["/etc/systemd/timesyncd.conf.d/fettle.conf"] == "" {
		t.Errorf("seed with a mirror over HTTP = %v, %v", got, err)
	}
	got, err = seed(func(netip.Addr) ([]wire.SeedFile, error) {
		return []wire.SeedFile{{Path: "/etc/pip.conf", Mode: 0o644, Content: []byte("https://x")}}, nil
	})
	if err != nil || !strings.Contains(got[userData], "the CA") {
		t.Errorf("seed with a mirror over HTTPS: user-data %q, %v; want it to trust the CA", got[userData], err)
	}
	if _, err = seed(func(netip.Addr) ([]wire.SeedFile, error) { return nil, errors.New("no key") }); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("seed of mirrors that cannot be used = %v; want the reason", err)
	}
}

// TestSeedIPv6 gives an installed machine its IPv6 address beside the IPv4 one.
func TestSeedIPv6(t *testing.T) {
	s := testSite()
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Name == "prov" {
			n.IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8::/64"), Server: netip.MustParseAddr("2001:db8::1"),
				Gateway: netip.MustParseAddr("fe80::1"), DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53")},
				Pools: []site.Pool{{From: netip.MustParseAddr("2001:db8::100"), To: netip.MustParseAddr("2001:db8::1ff")}}}
		}
	}
	for _, reserved := range []bool{true, false} {
		m := s.Machines[0]
		m.NICs = slices.Clone(m.NICs)
		for i := range m.NICs {
			if m.NICs[i].Boot && reserved {
				m.NICs[i].IPv6 = netip.MustParseAddr("2001:db8::11")
			}
		}
		b, err := networkConfig(s, m)
		if err != nil {
			t.Fatal(err)
		}
		for want, there := range map[string]bool{"- 2001:db8::11/64\n": reserved, "to: ::/0\n": reserved, "via: fe80::1\n": reserved, "- 2001:db8::53\n": reserved,
			"dhcp6: true\n": !reserved, "- 10.77.0.11/24\n": true} {
			if strings.Contains(string(b), want) != there {
				t.Errorf("reserved %v: network-config holds %q: %v; want %v\n%s", reserved, want, !there, there, b)
			}
		}
	}
	// Alone: names are looked up in the network's domain all the same.
	m := s.Machines[0]
	m.NICs = slices.Clone(m.NICs)
	for i := range m.NICs {
		if m.NICs[i].Boot {
			m.NICs[i].Address, m.NICs[i].IPv6 = netip.Addr{}, netip.MustParseAddr("2001:db8::11")
		}
	}
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Name == "prov" {
			n.Prefix, n.Server, n.Gateway, n.DNS, n.Pools, n.Domain = netip.Prefix{}, netip.Addr{}, netip.Addr{}, nil, nil, "prov.example.org"
		}
	}
	b, err := networkConfig(s, m)
	if err != nil || !strings.Contains(string(b), "- prov.example.org\n") || strings.Contains(string(b), "dhcp4: true") {
		t.Errorf("network-config with IPv6 alone = %s, %v; want the search domain prov.example.org, and no DHCP over IPv4", b, err)
	}
}
