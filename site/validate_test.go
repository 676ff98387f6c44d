package site

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// base is a right site in one file; the tests change one line of it.
const base = `name: base
domain: example.org
networks:
  - name: prov
    purpose: boot
    prefix: 10.0.0.0/24
    server: 10.0.0.1
    pools:
      - {from: 10.0.0.100, to: 10.0.0.199}
  - name: bmc
    purpose: bmc
    prefix: 10.1.0.0/24
    vlan: 20
racks:
  - {name: r1, units: 10}
machines:
  - name: m1
    rack: r1
    unit: 1
    height: 2
    serial: S1
    firmware: bios
    bmc: {address: 10.1.0.11, secret: pw, mac: "02:00:00:00:01:01"}
    nics:
      - {mac: "02:00:00:00:00:01", network: prov, address: 10.0.0.11, boot: true}
    disks:
      - {serial: D1, size: 1TB}
    profile: p1
  - name: m2
    rack: r1
    unit: 3
    serial: S2
    firmware: uefi
    bmc: {address: 10.1.0.12, secret: pw}
    nics:
      - {mac: "02:00:00:00:00:02", network: prov, boot: true}
      - {mac: "02:00:00:00:00:03"}
    disks:
      - {serial: D2}
    profile: p1
profiles:
  - name: p1
    image: i1
    users:
      - {name: ops}
images:
  - {name: i1, os: debian, suite: bookworm}
secrets:
  - {name: pw}
`

func loadText(text string) (*Site, error) {
	return load(fstest.MapFS{"site.yaml": {Data: []byte(text)}})
}

func TestBadSites(t *testing.T) {
	const (
		m2nic = `{mac: "02:00:00:00:00:02", network: prov, boot: true}`
		m1nic = `{mac: "02:00:00:00:00:01", network: prov, address: 10.0.0.11, boot: true}`
	)
	tests := []struct {
		name     string
		old, new string
		want     string // the whole error, or its lines
	}{
		{"unknown key", "    serial: S2", "    serail: S2", `site.yaml:32:5: unknown key "serail" of a machine; did you mean "serial"?
site.yaml:29:5: machine m2 has no "serial"`},
		{"unknown top key", "racks:", "rakcs:", `unknown key "rakcs" of a site; did you mean "racks"?`},
		{"key twice", "    unit: 3", "    unit: 3\n    unit: 4", `site.yaml:32:5: key "unit" is here twice (first on line 31); keep one of them`},
		{"wrong type: text", "unit: 3", "unit: three", `site.yaml:31:11: unit must be a whole number, not the text "three"; write a number from 1 to 100`},
		{"wrong type: list", "disks:\n      - {serial: D2}", "disks: D2", `disks must be a list of disks, not the text "D2"`},
		{"wrong type: mapping", "- {serial: D2}", "- D2", `a disk must be a mapping, not the text "D2"; write its keys (serial, model, size, sector-size) as lines`},
		{"wrong type: truth", "prov, boot: true}\n      - {mac", "prov, boot: yes}\n      - {mac", `boot must be true or false, not the text "yes"`},
		{"number as name", "- {name: r1,", "- {name: 1,", `name must be a name, not the number 1; write it in quotes: "1"`},
		{"out of range", "vlan: 20", "vlan: 5000", `vlan is 5000, out of range; write a number from 0 to 4094`},
		{"alias", "domain: example.org", "domain: &d example.org\nracks: *d", `is a YAML alias`},
		{"not YAML", "domain: example.org", "domain: [", `not YAML: `},
		{"second document", "secrets:", "---\nsecrets:", `a site file is one YAML document; there is a second one behind ---`},
		{"missing name", "name: base\n", "", `site.yaml:1:1: the site has no "name"`},
		{"name syntax", "name: m2", "name: M_2", `name: "M_2" is not a name; use lower-case letters, digits and inner hyphens, at most 63 (RFC 1123)`},
		{"domain syntax", "domain: example.org", "domain: example.org.", `"example.org." is not a DNS domain`},
		{"firmware", "firmware: uefi", "firmware: uefii", `"uefii" is no firmware; did you mean "uefi"?`},
		{"image OS", "os: debian", "os: debain", `"debain" is no operating system; did you mean "debian"?`},
		{"size", "size: 1TB", "size: lots", `"lots" is not a size`},
		{"ssh key", "{name: ops}", "{name: ops, ssh-keys: [ssh-ed25519 AAAA]}", `"ssh-ed25519 AAAA" is not an ssh public key; paste one whole line`},
		{"kernel argument", "    users:", "    kernel-args: ['a b']\n    users:", `"a b" is not a kernel argument`},
		{"MAC syntax", `{mac: "02:00:00:00:00:03"}`, `{mac: "02:00:00:00:00"}`, `"02:00:00:00:00" is not a MAC address`},
		{"multicast MAC", `{mac: "02:00:00:00:00:03"}`, `{mac: "03:00:00:00:00:03"}`, `is not the address of one port`},
		{"host bits", "10.0.0.0/24", "10.0.0.7/24", `10.0.0.7/24 has host bits; did you mean "10.0.0.0/24"?`},
		{"loopback prefix", "10.0.0.0/24", "127.0.0.0/24", `127.0.0.0/24 is reserved (RFC 6890)`},
		{"IPv6 prefix", "10.0.0.0/24", "2001:db8::/64", `is not an IPv4 prefix`},

		{"name twice", "name: m2", "name: m1", `site.yaml:29:11: a machine: name m1 is already that of a machine (site.yaml:17:11); rename one of them`},
		{"serial twice", "serial: S2", "serial: S1", `site.yaml:32:13: machine m2: serial S1 is already that of machine m1 (site.yaml:21:13); read it again`},
		{"sectors of an odd size", "{serial: D2}", "{serial: D2, sector-size: 520}", `sector-size is 520; write 512 or 4096`},
		{"sectors that a BIOS cannot boot from", "{serial: D1, size: 1TB}", "{serial: D1, size: 1TB, sector-size: 4096}", `machine m1: its system disk D1 has sectors of 4096 bytes, which a BIOS cannot boot from; write firmware: uefi`},
		{"sectors in words", "{serial: D2}", "{serial: D2, sector-size: 4k}", `sector-size must be a number, not the text "4k"; write 512 or 4096`},
		{"disk serial twice", "serial: D2", "serial: D1", `machine m2: disk serial D1 is already that of machine m1`},
		{"MAC twice", `"02:00:00:00:00:03"`, `"02-00-00-00-00-01"`, `machine m2: MAC address 02:00:00:00:00:01 is already that of machine m1 (site.yaml:25:15)`},
		{"NIC has BMC's MAC", `"02:00:00:00:00:03"`, `"02:00:00:00:01:01"`, `MAC address 02:00:00:00:01:01 is already that of machine m1's BMC`},
		{"address twice", m2nic, strings.Replace(m2nic, "boot", "address: 10.0.0.11, boot", 1), `machine m2: address 10.0.0.11 is already that of machine m1`},
		{"server's address", m2nic, strings.Replace(m2nic, "boot", "address: 10.0.0.1, boot", 1), `machine m2: address 10.0.0.1 is already that of network prov's server`},
		{"node of a BMC twice", "10.1.0.12, secret: pw", "10.1.0.11, secret: pw, system: Node0", `machine m2's BMC: address 10.1.0.11 is already that of machine m1's BMC`},
		{"node of an IPMI BMC", "10.1.0.12, secret: pw", "10.1.0.12, secret: pw, protocol: ipmi, system: Node0", `machine m2: over IPMI nobody can say which of a BMC's computer systems is meant; set protocol: redfish`},
		{"BMC address twice", "10.1.0.12", "10.1.0.11", `machine m2's BMC: address 10.1.0.11 is already that of machine m1's BMC`},
		{"outside", "10.0.0.11", "10.0.2.11", `site.yaml:25:60: machine m1: address 10.0.2.11 is outside network prov (10.0.0.0/24); use an address from 10.0.0.1 to 10.0.0.254`},
		{"on another network", "10.0.0.11", "10.1.0.99", `use an address from 10.0.0.1 to 10.0.0.254, or network bmc, which it is on`},
		{"network address", "10.0.0.11", "10.0.0.0", `10.0.0.0 is the address of network prov itself; the first host is 10.0.0.1`},
		{"broadcast address", "10.0.0.11", "10.0.0.255", `10.0.0.255 is the broadcast address of network prov; the last host is 10.0.0.254`},
		{"server outside", "server: 10.0.0.1\n", "server: 10.9.0.1\n", `network prov: server 10.9.0.1 is outside network prov`},
		{"no server", "    server: 10.0.0.1\n", "", `network prov is for booting but has no server address`},
		{"overlap", "prefix: 10.1.0.0/24", "prefix: 10.0.0.0/8", `network bmc: 10.0.0.0/8 overlaps 10.0.0.0/24 of network prov`},
		{"same VLAN", "    vlan: 20\n", "", `network bmc is untagged, as is network prov; give each network its own vlan`},
		{"pool backwards", "to: 10.0.0.199", "to: 10.0.0.99", `a pool from 10.0.0.100 to 10.0.0.99 is backwards; swap from and to`},
		{"pools overlap", "      - {from: 10.0.0.100, to: 10.0.0.199}", "      - {from: 10.0.0.100, to: 10.0.0.199}\n      - {from: 10.0.0.150, to: 10.0.0.210}", `pool 10.0.0.150-10.0.0.210 overlaps pool 10.0.0.100-10.0.0.199`},
		{"pool outside", "to: 10.0.0.199", "to: 10.0.1.199", `pool end 10.0.1.199 is outside network prov`},
		{"proxy with a pool", "    server: 10.0.0.1\n", "    server: 10.0.0.1\n    proxy: true\n", `network prov has pools and proxy: addresses and their options are then the other DHCP server's`},
		{"relayed, server of no network", "    vlan: 20\n", "    vlan: 20\n  - {name: far, purpose: boot, prefix: 10.2.0.0/24, server: 10.0.0.9, relays: [10.2.0.1]}\n", `network far is behind relays, and its server 10.0.0.9 is that of no boot network without relays`},
		{"relayed, not for booting", "    vlan: 20\n", "    vlan: 20\n  - {name: far, purpose: data, prefix: 10.2.0.0/24, server: 10.0.0.1, relays: [10.2.0.1]}\n", `network far has relays but is for neither booting nor BMCs`},
		{"route with host bits", "    vlan: 20\n", "    vlan: 20\n    routes: [{to: 10.9.0.1/16, via: 10.1.0.1}]\n", `10.9.0.1/16 has host bits; did you mean "10.9.0.0/16"?`},
		{"router elsewhere", "    vlan: 20\n", "    vlan: 20\n    routes: [{to: 10.9.0.0/16, via: 10.0.0.1}]\n", `router of a route 10.0.0.1 is outside network bmc`},
		{"route twice", "    vlan: 20\n", "    vlan: 20\n    routes: [{to: 10.9.0.0/16, via: 10.1.0.1}, {to: 10.9.0.0/16, via: 10.1.0.2}]\n", `network bmc has two routes to 10.9.0.0/16`},
		{"option with its own key", "    vlan: 20\n", "    vlan: 20\n    options: [{number: 42, type: address, value: 10.1.0.1}]\n", `network bmc sets DHCP option 42, which fettle sets itself; write it as the network's key ntp`},
		{"option that boots", "    vlan: 20\n", "    vlan: 20\n    options: [{number: 67, type: text, value: x}]\n", `network bmc sets DHCP option 67, which fettle sets itself; remove it`},
		{"option of a wrong type", "    vlan: 20\n", "    vlan: 20\n    options: [{number: 150, type: address, value: tftp}]\n", `network bmc: option 150: "tftp" is not an IPv4 address`},
		{"option twice", "    vlan: 20\n", "    vlan: 20\n    options: [{number: 224, type: text, value: a}, {number: 224, type: text, value: b}]\n", `network bmc sets DHCP option 224 twice`},
		{"delay too long", "    vlan: 20\n", "    vlan: 20\n    reply-delay: 1m\n", `"1m" is not a delay; write from 1ms to 2s`},
		{"BMC on no network", "10.1.0.12", "10.7.0.12", `machine m2: BMC address 10.7.0.12 is on no network of purpose bmc`},
		{"BMC on boot network", "{address: 10.1.0.12,", "{address: 10.0.0.12, network: prov,", `machine m2: network prov is for boot, not for BMCs`},
		{"same units", "unit: 3", "unit: 2", `machine m2: unit 2 of rack r1 is already machine m1's`},
		{"above the rack", "unit: 3", "unit: 11", `machine m2 reaches unit 11, but rack r1 has 10 units`},
		{"unit without rack", "    rack: r1\n    unit: 3", "    unit: 3", `machine m2 stands in unit 3 of no rack`},
		{"unknown rack", "rack: r1\n    unit: 3", "rack: r2\n    unit: 3", `there is no rack "r2"; did you mean "r1"?`},
		{"unknown profile", "profile: p1\nprofiles", "profile: p2\nprofiles", `site.yaml:40:14: machine m2: there is no profile "p2"; did you mean "p1"?`},
		{"image without a release", "suite: bookworm}", "arch: amd64}", `image i1 has no "suite"`},
		{"host with a release", "os: debian, suite: bookworm}", "os: host, suite: noble}", `image i1: os: host is the release of the machine that builds it, and suite says another`},
		{"host with mirrors", "os: debian, suite: bookworm}\n", "os: host, mirrors: [m]}\nmirrors: [{name: m, format: apt, suites: [noble]}]\n", `image i1: os: host is built from the machine's own apt sources`},
		{"unknown mirror of an image", "suite: bookworm}", "suite: bookworm, mirrors: [debain]}", `image i1: there is no mirror "debain"`},
		{"mirror of another format", "suite: bookworm}\n", "suite: bookworm, mirrors: [m]}\nmirrors: [{name: m, format: rpm, suites: [bookworm]}]\n", `image i1: mirror m is of format rpm`},
		{"mirrors without the release", "suite: bookworm}\n", "suite: bookworm, mirrors: [m]}\nmirrors: [{name: m, format: apt, suites: [trixie]}]\n", `image i1: none of its mirrors has the suite bookworm`},
		{"mirror without keys", "suite: bookworm}\n", "suite: bookworm, mirrors: [m]}\nmirrors: [{name: m, format: apt, suites: [bookworm], urls: [\"http://deb.example.org/debian\"]}]\n", `image i1: mirror m has urls and no keyrings`},
		{"unknown image", "image: i1", "image: debian", `profile p1: there is no image "debian"; known: i1`},
		{"unknown network", "network: prov, boot", "network: prvo, boot", `there is no network "prvo"; did you mean "prov"?`},
		{"unknown secret", "10.1.0.12, secret: pw", "10.1.0.12, secret: pww", `machine m2's BMC: there is no secret "pww"; did you mean "pw"?`},
		{"a key of another format", "secrets:", "mirrors: [{name: c, format: apt, suites: [x], python: [\"3.11\"]}]\nsecrets:", `mirror c: python is for mirrors of format pypi, not apt`},
		{"two registries of npm", "secrets:", "mirrors: [{name: c, format: npm, lockfiles: [a.json]}, {name: d, format: npm, lockfiles: [b.json]}]\nsecrets:", `mirror d: npm asks one registry, which is mirror c's`},
		{"checksums of nobody", "secrets:", "mirrors: [{name: c, format: files, checksums: [{url: 'https://example.org/S'}]}]\nsecrets:", `mirror c: nobody can tell who signed its checksums`},
		{"images of a mirror of packages", "secrets:", "mirrors: [{name: c, format: oci, packages: [registry.example.org/a:1]}]\nsecrets:", `mirror c: packages is for mirrors of format apt, rpm, helm, go, not oci`},
		{"an apt mirror of nothing", "secrets:", "mirrors: [{name: c, format: apt, archs: [amd64]}]\nsecrets:", `mirror c: it names no suites`},
		{"an apt archive of nobody", "secrets:", "mirrors: [{name: c, format: apt, suites: [s], urls: ['http://a.example.org']}]\nsecrets:", `mirror c: it names no keyrings`},
		{"wheels of nothing", "secrets:", "mirrors: [{name: c, format: pypi}]\nsecrets:", `mirror c: it names no lockfiles`},
		{"a repository that is nowhere", "secrets:", "mirrors: [{name: c, format: rpm, keyrings: [k]}]\nsecrets:", `mirror c: it names no urls`},
		{"files that are none", "secrets:", "mirrors: [{name: c, format: files}]\nsecrets:", `mirror c: it names no files`},
		{"a metalink beside urls", "secrets:", "mirrors: [{name: c, format: rpm, urls: [\"https://m.example.org/\"], metalink: \"https://m.example.org/metalink?repo=x\"}]\nsecrets:", `mirror c: it has urls and a metalink, which lists them`},
		{"models from nowhere", "secrets:", "mirrors: [{name: c, format: files, models: [{repo: a/b, revision: 0123456789abcdef0123456789abcdef01234567}]}]\nsecrets:", `mirror c: its models come from nowhere`},
		{"a password in an address", "secrets:", "mirrors: [{name: c, format: files, files: [{url: 'https://u:hunter2@a.example.org/x', sha256: '" + strings.Repeat("0", 64) + "'}]}]\nsecrets:", `url: it has a user or password in it; take that out`},
		{"a model's branch", "secrets:", "mirrors: [{name: c, format: files, urls: ['https://example.org'], models: [{repo: a/b, revision: main}]}]\nsecrets:", `write the commit, 40 hex digits: branches move`},
		{"unknown secret of a mirror", "secrets:", "mirrors: [{name: c, format: oci, images: [registry.example.org/a:1], secret: registry}]\nsecrets:", `mirror c: there is no secret "registry"`},
		{"no boot port", m2nic, `{mac: "02:00:00:00:00:02", network: prov}`, `machine m2 has no port that boots; add boot: true`},
		{"two boot ports", `{mac: "02:00:00:00:00:03"}`, `{mac: "02:00:00:00:00:03", network: prov, boot: true}`, `machine m2 boots from more than one port`},
		{"boots nowhere", m2nic, `{mac: "02:00:00:00:00:02", boot: true}`, `machine m2 boots from a port that is on no network`},
		{"boots from BMC network", m1nic, `{mac: "02:00:00:00:00:01", network: bmc, address: 10.1.0.99, boot: true}`, `machine m1 boots from network bmc, which is for bmc`},
		{"address without network", `{mac: "02:00:00:00:00:03"}`, `{mac: "02:00:00:00:00:03", address: 10.0.0.9}`, `a port with address 10.0.0.9 is on no network`},
		{"no address, no pool", "    pools:\n      - {from: 10.0.0.100, to: 10.0.0.199}\n", "", `machine m2 has no address on network prov, which has no pool`},
		{"no disk", "    disks:\n      - {serial: D2}\n", "", `machine m2 lists no disk, so profile p1 cannot tell where to write`},
		{"first disk unknown", "{serial: D2}", "{size: 1TB}", `profile p1 writes to the first disk, whose serial is not said`},
		{"layout's serial", "    image: i1\n", "    image: i1\n    layout: {disk: D1}\n", `machine m2 has no disk "D1", which profile p1 writes to; did you mean "D2"?`},
		{"arm64 with an image for amd64", "    serial: S2\n", "    serial: S2\n    arch: arm64\n", `site.yaml:41:14: machine m2 is arm64, and image i1 of its profile p1 is for amd64; name a profile with an image of arch: arm64`},
		{"amd64 with an image for arm64", "suite: bookworm}", "suite: bookworm, arch: arm64}", `machine m1 is amd64, and image i1 of its profile p1 is for arm64; name a profile with an image of arch: amd64, or write arch: arm64`},
		{"BIOS of arm64", "    serial: S1\n    firmware: bios\n", "    serial: S1\n    arch: arm64\n    firmware: bios\n", `machine m1: an arm64 machine has no BIOS; write firmware: uefi`},
		{"iPXE of arm64", "    serial: S2\n", "    serial: S2\n    arch: arm64\n    loader: snponly\n", `machine m2: there is no iPXE for arm64; leave it out`},
		{"no disk for a mirror", "    image: i1\n", "    image: i1\n    layout: {raid: 1}\n", `machine m2 has no second disk for the mirror that profile p1 wants; list both disks`},
		{"another RAID", "    image: i1\n", "    image: i1\n    layout: {raid: 5}\n", `raid is 5; write 1`},
		{"user twice", "- {name: ops}", "- {name: ops}\n      - {name: ops}", `profile p1: a user: name ops is already that of profile p1: a user`},
		{"include of nothing", "name: base", "name: base\ninclude: [more/*.yaml]", `site.yaml:2:11: "more/*.yaml" matches no file`},
		{"include outside", "name: base", "name: base\ninclude: [../*.yaml]", `"../*.yaml" is not a path inside the site folder`},
	}
	if _, err := loadText(base); err != nil {
		t.Fatalf("load(base) = %v; want nil", err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(base, tt.old) != 1 {
				t.Fatalf("base holds %q %d times; want once", tt.old, strings.Count(base, tt.old))
			}
			_, err := loadText(strings.Replace(base, tt.old, tt.new, 1))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("load() = %v; want Errors", err)
			}
			for want := range strings.Lines(tt.want) {
				if !strings.Contains(err.Error(), strings.TrimSpace(want)) {
					t.Errorf("load() =\n%v\nwant a line with\n%s", err, want)
				}
			}
			for _, e := range errs {
				if e.Pos.File == "" || e.Pos.Line < 1 || e.Pos.Column < 1 {
					t.Errorf("error %q has position %+v; want file, line and column", e.Msg, e.Pos)
				}
			}
			if most := strings.Count(tt.want, "\n") + 2; len(errs) > most {
				t.Errorf("load() gives %d errors for one mistake; want at most %d:\n%v", len(errs), most, err)
			}
		})
	}
}

// Nodes of one chassis share its BMC, each with a computer system of its own.
func TestNodesShareBMC(t *testing.T) {
	nodes := func(first, second string) string {
		s := strings.Replace(base, `secret: pw, mac`, `secret: pw, system: `+first+`, mac`, 1)
		return strings.Replace(s, "10.1.0.12, secret: pw", `10.1.0.11, secret: pw, mac: "02:00:00:00:01:01", system: `+second, 1)
	}
	s, err := loadText(nodes("Node0", "Node1"))
	if err != nil || s.Machines[1].BMC.System != "Node1" {
		t.Errorf("two nodes of one BMC: %v; want no error", err)
	}
	if _, err := loadText(nodes("Node0", "Node0")); err == nil || !strings.Contains(err.Error(), "computer system") {
		t.Errorf("one node twice: %v; want an error that names the computer system", err)
	}
}

// All errors of all files are found at once, in the order of the files.
func TestAllErrorsAtOnce(t *testing.T) {
	_, err := load(fstest.MapFS{
		"site.yaml":       {Data: []byte(strings.Replace(base, "vlan: 20", "vlan: many", 1))},
		"machines/a.yaml": {Data: []byte("machines:\n  - nmae: x\nname: y\n")},
		"machines/b.yaml": {Data: []byte("machines: {}\n")},
		"machines/c.yaml": {Data: []byte("machines:\n# to be filled\n")},
		"profiles/d.yaml": {Data: []byte("- p\n")},
	})
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("load() = %v; want Errors", err)
	}
	for _, want := range []string{
		`machines/a.yaml:2:5: unknown key "nmae" of a machine; did you mean "name"?`,
		`machines/a.yaml:3:1: "name" belongs in site.yaml; a file beside it holds only networks, racks,`,
		`machines/b.yaml:1:11: machines must be a list of machines, not a mapping`,
		`profiles/d.yaml:1:1: the file must be a mapping, not a list`,
		`site.yaml:13:11: vlan must be a whole number, not the text "many"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("load() =\n%v\nwant a line with\n%s", err, want)
		}
	}
	for i := 1; i < len(errs); i++ {
		a, b := errs[i-1].Pos, errs[i].Pos
		if a.File > b.File || (a.File == b.File && a.Line > b.Line) {
			t.Errorf("%s comes before %s; want file order", a, b)
		}
	}
}

func TestUUIDs(t *testing.T) {
	s, err := loadText(base)
	if err != nil {
		t.Fatal(err)
	}
	// Fixed for ever: an installed machine's identity follows from it. The
	// value is that of Python's uuid.uuid5.
	if got, want := s.Machines[0].UUID, "0ed744f4-6612-5396-908b-00a4342a7bd2"; got != want {
		t.Errorf("UUID of serial S1 = %s; want %s", got, want)
	}
	same := strings.ReplaceAll(strings.ReplaceAll(base, "serial: S1", "serial: S1\n    uuid: 6BA7B810-9dad-11d1-80b4-00c04fd430c8"), "serial: S2", "serial: S2\n    uuid: 6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	if _, err := loadText(same); err == nil || !strings.Contains(err.Error(), "machine m2: UUID 6ba7b810-9dad-11d1-80b4-00c04fd430c8 is already that of machine m1") {
		t.Errorf("load() of two machines with one UUID = %v; want it refused", err)
	}
}

// A Site made in Go is held to the same rules; errors say the path.
func TestValidateGoMade(t *testing.T) {
	s, err := loadText(base)
	if err != nil {
		t.Fatal(err)
	}
	good := s.Clone()
	good.Machines = good.Machines[:1]
	good.Networks[0].MTU = 0 // a default
	if err := good.Validate(); err != nil {
		t.Errorf("Validate() of a derived site = %v; want nil", err)
	}
	tests := []struct {
		name   string
		change func(*Site)
		want   string
	}{
		{"name", func(s *Site) { s.Machines[1].Name = "No Good" }, `machines[1].name: name: "No Good" is not a name`},
		{"enum", func(s *Site) { s.Machines[1].Firmware = "openboot" }, `machines[1].firmware: firmware: "openboot" is no firmware`},
		{"Secure Boot of a BIOS", func(s *Site) { s.Machines[1].Firmware, s.Machines[1].SecureBoot = BIOS, true }, `machines[1].secure-boot: machine m2: a BIOS has no Secure Boot`},
		{"loader of a BIOS", func(s *Site) { s.Machines[1].Firmware, s.Machines[1].Loader = BIOS, LoaderIPXE }, `machines[1].loader: machine m2: loader ipxe is for UEFI firmware`},
		{"HTTPS of a BIOS", func(s *Site) { s.Machines[1].Firmware, s.Machines[1].HTTPSBoot = BIOS, true }, `machines[1].https-boot: machine m2: a BIOS does not boot by HTTPS`},
		{"HTTPS and Secure Boot", func(s *Site) {
			s.Machines[1].Firmware, s.Machines[1].SecureBoot, s.Machines[1].HTTPSBoot = UEFI, true, true
		}, `machines[1].https-boot: machine m2: with Secure Boot on it boots by PXE`},
		{"unsigned loader with Secure Boot", func(s *Site) {
			s.Machines[1].Firmware, s.Machines[1].SecureBoot, s.Machines[1].Loader = UEFI, true, LoaderSNP
		}, `machines[1].loader: machine m2: with Secure Boot on its firmware refuses loader snponly`},
		{"range", func(s *Site) { s.Networks[0].VLAN = -1 }, `networks[0].vlan: vlan is -1, out of range`},
		{"duplicate", func(s *Site) { s.Machines[1].NICs[0].MAC = s.Machines[0].NICs[0].MAC }, `machines[1].nics[0].mac: machine m2: MAC address`},
		{"empty item", func(s *Site) { s.Profiles[0].Packages = []string{""} }, `profiles[0].packages[0]: item 1 of packages is empty`},
		{"settings", func(s *Site) { s.Profiles[0].BIOS = map[string]any{"f": func() {}} }, `profiles[0].bios: bios cannot be written as JSON`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := s.Clone()
			tt.change(c)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() = %v; want %q", err, tt.want)
			}
		})
	}
	if err := s.Validate(); err != nil {
		t.Errorf("Validate() of the original = %v; want nil: a clone shares memory", err)
	}
}

// The cost of reading and naming a site of 2000 machines.
func BenchmarkLoad2000(b *testing.B) {
	var text strings.Builder
	text.WriteString(base[:strings.Index(base, "machines:")])
	text.WriteString("machines:\n")
	for i := range 2000 {
		text.WriteString(strings.NewReplacer("N", strconv.Itoa(i), "MM", fmt.Sprintf("%02x:%02x", i>>8, i&255), "AA", fmt.Sprintf("%d.%d", 16+i/250, 1+i%250)).Replace(
			"  - name: mN\n    serial: S-N\n    firmware: uefi\n    profile: p1\n    nics:\n      - {mac: \"02:00:00:01:MM\", network: big, address: 10.2.AA, boot: true}\n    disks:\n      - {serial: D-N, size: 1TB}\n"))
	}
	text.WriteString("profiles:\n  - {name: p1, image: i1}\nimages:\n  - {name: i1, os: debian, suite: bookworm}\n")
	site := strings.Replace(text.String(), "racks:", "  - {name: big, purpose: boot, prefix: 10.2.0.0/16, server: 10.2.0.1, vlan: 30}\nracks:", 1)
	for b.Loop() {
		s, err := loadText(site)
		if err != nil || len(s.Machines) != 2000 {
			b.Fatal(err)
		}
		_ = s.Revision()
	}
}
