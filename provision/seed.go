package provision

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
)

//go:embed seed/phone-home.service
var phoneHomeUnit []byte

//go:embed seed/phone-home
var phoneHomeScript []byte

//go:embed seed/health
var healthScript []byte

//go:embed seed/health.service
var healthUnit []byte

//go:embed seed/md-event
var mdEventScript []byte

//go:embed seed/mirror-disk
var mirrorDiskScript []byte

// seedDir is where cloud-init's NoCloud data source reads from without being
// told on the command line (cloud-init documentation, "NoCloud").
const seedDir = "/var/lib/cloud/seed/nocloud/"

// seedFiles are the files that make a written image this machine: cloud-init's
// seed, the site's CA, and what the first boot needs to report. trust is a CA
// that every program of the system is to trust, or nil.
func seedFiles(s *site.Site, m site.Machine, prof site.Profile, run Run, agentURL string, ca, trust []byte) ([]wire.SeedFile, error) {
	units := []string{"fettle-phone-home.service"}
	if run.Watched != nil {
		units = append(units, "fettle-health.service")
	}
	userData, err := cloudConfig(s, m, prof, units, trust)
	if err != nil {
		return nil, err
	}
	network, err := networkConfig(s, m)
	if err != nil {
		return nil, err
	}
	// A new instance id makes cloud-init run its per-instance modules again.
	meta, err := yaml.Marshal(map[string]any{"instance-id": run.ID, "local-hostname": m.Name})
	if err != nil {
		return nil, fmt.Errorf("encoding meta-data of %s: %w", m.Name, err)
	}
	phone := fmt.Sprintf("URL=%s%s\nTOKEN=%s\n", agentURL, wire.PathPhoneHome, run.Token)
	files := []wire.SeedFile{
		{Path: seedDir + "meta-data", Mode: 0o644, Content: meta},
		{Path: seedDir + "user-data", Mode: 0o600, Content: userData},
		{Path: seedDir + "network-config", Mode: 0o600, Content: network},
		{Path: "/etc/fettle/ca.pem", Mode: 0o644, Content: ca},
		{Path: "/etc/fettle/phone-home", Mode: 0o600, Content: []byte(phone)},
		{Path: "/usr/local/lib/fettle/phone-home", Mode: 0o755, Content: phoneHomeScript},
		{Path: "/etc/systemd/system/fettle-phone-home.service", Mode: 0o644, Content: phoneHomeUnit},
	}
	if run.Watched != nil {
		files = append(files, watchFiles(*run.Watched, agentURL)...)
	}
	return files, nil
}

// watchFiles make a system with mirrored disks tell of them: mdadm's own
// monitor, which runs wherever there is an array, calls a program.
func watchFiles(w Watched, agentURL string) []wire.SeedFile {
	curl := fmt.Sprintf("# curl --config, of fettle-health.service\nurl = %q\nheader = %q\ncacert = \"/etc/fettle/ca.pem\"\n", agentURL+wire.PathHealth, "Authorization: Bearer "+w.Token)
	return []wire.SeedFile{
		{Path: "/etc/fettle/health", Mode: 0o600, Content: []byte(curl)},
		{Path: "/usr/local/lib/fettle/health", Mode: 0o755, Content: healthScript},
		{Path: "/etc/systemd/system/fettle-health.service", Mode: 0o644, Content: healthUnit},
		{Path: "/usr/local/lib/fettle/md-event", Mode: 0o755, Content: mdEventScript},
		{Path: "/etc/mdadm/mdadm.conf.d/fettle.conf", Mode: 0o644, Content: []byte("# Written by fettle at deployment: mdadm.conf(5).\nPROGRAM /usr/local/lib/fettle/md-event\n")},
		{Path: "/usr/local/sbin/fettle-mirror-disk", Mode: 0o755, Content: mirrorDiskScript},
	}
}

// cloudConfig is the machine's cloud-config; units are to be started.
func cloudConfig(s *site.Site, m site.Machine, prof site.Profile, units []string, trust []byte) ([]byte, error) {
	type cas struct {
		Trusted []string `yaml:"trusted"`
	}
	type user struct {
		Name   string   `yaml:"name"`
		Groups []string `yaml:"groups,omitempty"`
		Shell  string   `yaml:"shell,omitempty"`
		Sudo   string   `yaml:"sudo,omitempty"`
		Lock   bool     `yaml:"lock_passwd"`
		Keys   []string `yaml:"ssh_authorized_keys,omitempty"`
	}
	c := struct {
		Hostname    string     `yaml:"hostname"`
		FQDN        string     `yaml:"fqdn,omitempty"`
		ManageHosts bool       `yaml:"manage_etc_hosts"`
		DisableRoot bool       `yaml:"disable_root"`
		PasswordSSH bool       `yaml:"ssh_pwauth"`
		Users       []user     `yaml:"users"`
		CACerts     *cas       `yaml:"ca_certs,omitempty"`
		RunCmd      [][]string `yaml:"runcmd"`
	}{
		Hostname: m.Name, ManageHosts: true, DisableRoot: true, Users: []user{},
		// runcmd comes once in a system's life; the unit goes on until fettle has
		// answered, over restarts of either.
		RunCmd: [][]string{{"sh", "-c", "systemctl enable --now --no-block " + strings.Join(units, " ") + " || /usr/local/lib/fettle/phone-home"}},
	}
	if trust != nil {
		c.CACerts = &cas{[]string{string(trust)}}
	}
	if s.Domain != "" {
		c.FQDN = m.Name + "." + s.Domain
	}
	for _, u := range prof.Users {
		cu := user{Name: u.Name, Groups: u.Groups, Shell: u.Shell, Lock: true, Keys: u.SSHKeys}
		if cu.Shell == "" {
			cu.Shell = "/bin/bash"
		}
		if u.Sudo {
			cu.Sudo = "ALL=(ALL) NOPASSWD:ALL"
		}
		c.Users = append(c.Users, cu)
	}
	var b bytes.Buffer
	b.WriteString("#cloud-config\n")
	if err := yaml.NewEncoder(&b).Encode(c); err != nil {
		return nil, fmt.Errorf("encoding user-data of %s: %w", m.Name, err)
	}
	return b.Bytes(), nil
}

// networkConfig is a network configuration (cloud-init, version 2) that gives
// each used port of the machine its address.
func networkConfig(s *site.Site, m site.Machine) ([]byte, error) {
	type route struct {
		To  string `yaml:"to"`
		Via string `yaml:"via"`
	}
	type resolver struct {
		Addresses []string `yaml:"addresses,omitempty"`
		Search    []string `yaml:"search,omitempty"`
	}
	type ethernet struct {
		Match       map[string]string `yaml:"match"`
		DHCP4       bool              `yaml:"dhcp4"`
		DHCP6       bool              `yaml:"dhcp6"`
		LinkLocal   []string          `yaml:"link-local"`
		Optional    bool              `yaml:"optional,omitempty"`
		MTU         int               `yaml:"mtu,omitempty"`
		Addresses   []string          `yaml:"addresses,omitempty"`
		Routes      []route           `yaml:"routes,omitempty"`
		Nameservers *resolver         `yaml:"nameservers,omitempty"`
	}
	eths := map[string]ethernet{} // yaml.v3 sorts keys
	for i, nic := range m.NICs {
		if nic.Network == "" {
			continue
		}
		n, ok := s.Network(nic.Network)
		if !ok {
			return nil, fmt.Errorf("machine %s: network %s is not in the site file", m.Name, nic.Network)
		}
		e := ethernet{
			Match: map[string]string{"macaddress": nic.MAC.String()}, LinkLocal: []string{"ipv6"},
			Optional: !nic.Boot, DHCP4: !nic.Address.IsValid() && !n.Only6(),
		}
		if n.MTU != 0 && n.MTU != 1500 {
			e.MTU = n.MTU
		}
		if nic.Address.IsValid() {
			e.Addresses = []string{netip.PrefixFrom(nic.Address, n.Prefix.Bits()).String()}
			// One default route: the boot network's.
			if n.Gateway.IsValid() && nic.Boot {
				e.Routes = []route{{To: "0.0.0.0/0", Via: n.Gateway.String()}}
			}
			var r resolver
			for _, d := range n.DNS {
				r.Addresses = append(r.Addresses, d.String())
			}
			if len(r.Addresses) > 0 {
				e.Nameservers = &r
			}
		}
		if nic.IPv6.IsValid() {
			e.Addresses = append(e.Addresses, netip.PrefixFrom(nic.IPv6, n.IPv6.Prefix.Bits()).String())
			if n.IPv6.Gateway.IsValid() && nic.Boot {
				e.Routes = append(e.Routes, route{To: "::/0", Via: n.IPv6.Gateway.String()})
			}
			if len(n.IPv6.DNS) > 0 && e.Nameservers == nil {
				e.Nameservers = &resolver{}
			}
			for _, d := range n.IPv6.DNS {
				e.Nameservers.Addresses = append(e.Nameservers.Addresses, d.String())
			}
		}
		if e.Nameservers != nil && n.Domain != "" {
			e.Nameservers.Search = []string{n.Domain}
		}
		e.DHCP6 = !nic.IPv6.IsValid() && len(n.IPv6.Pools) > 0
		eths[fmt.Sprintf("nic%d", i)] = e
	}
	var b bytes.Buffer
	if err := yaml.NewEncoder(&b).Encode(map[string]any{"version": 2, "ethernets": eths}); err != nil {
		return nil, fmt.Errorf("encoding network-config of %s: %w", m.Name, err)
	}
	return b.Bytes(), nil
}

// timeFile makes a system ask the site's time servers. Without any, one that
// lives on what the site serves asks fettle's own machine, whether that answers
// or not, rather than its distribution's servers: systemd takes an empty
// FallbackNTP for unsaid (timesyncd.conf(5), observed with 252).
func timeFile(n site.Network, alone bool) *wire.SeedFile {
	if len(n.NTP) == 0 && !alone {
		return nil
	}
	var servers []string
	for _, a := range n.NTP {
		servers = append(servers, a.String())
	}
	ntp := strings.Join(servers, " ")
	text := fmt.Sprintf("# by fettle\n[Time]\nNTP=%s\nFallbackNTP=%s\n", ntp, cmp.Or(ntp, n.Here().String()))
	return &wire.SeedFile{Path: "/etc/systemd/timesyncd.conf.d/fettle.conf", Mode: 0o644, Content: []byte(text)}
}

// consoleArgs keeps a serial console on the installed system unless the
// profile chooses its own. On arm64 it is the one that the firmware names.
func consoleArgs(arch string, args []string) []string {
	if arch == site.ARM64 || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "console=") }) {
		return args
	}
	return append([]string{"console=tty0", "console=ttyS0,115200"}, args...)
}
