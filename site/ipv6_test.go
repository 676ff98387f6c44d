package site

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

const base6 = `    server: 10.0.0.1
    advertise: managed
    ipv6:
      prefix: 2001:db8::/64
      server: 2001:db8::1
      gateway: fe80::1
      dns: [2001:db8::53]
      pools: [{from: 2001:db8::100, to: 2001:db8::1ff}]
`

// withIPv6 is base with an IPv6 side on its boot network, one text of it
// changed.
func withIPv6(old, new string) string {
	s := strings.Replace(base, "    server: 10.0.0.1\n", base6, 1)
	s = strings.Replace(s, "address: 10.0.0.11, boot", "address: 10.0.0.11, ipv6: 2001:db8::11, boot", 1)
	return strings.Replace(s, old, new, 1)
}

func TestIPv6(t *testing.T) {
	s, err := loadText(withIPv6("", ""))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := s.Network("prov")
	nic, _ := s.Machines[0].BootNIC()
	if n.IPv6.Server != netip.MustParseAddr("2001:db8::1") || len(n.IPv6.Pools) != 1 || n.Advertise != AdvertiseManaged || nic.IPv6 != netip.MustParseAddr("2001:db8::11") {
		t.Errorf("network %+v, NIC %+v; want every key", n, nic)
	}
	for a, who := range map[string]string{"2001:db8::1": "fettle", "2001:db8::53": "dns", "2001:db8::11": "m1"} {
		if got := s.Reserved("prov")[netip.MustParseAddr(a)]; got != who {
			t.Errorf("Reserved()[%s] = %q; want %q", a, got, who)
		}
	}
	plain, err := loadText(base)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := plain.Network("prov"); n.IPv6.Prefix.IsValid() || n.Advertise != "" {
		t.Errorf("a network without ipv6 = %+v; want none", n.IPv6)
	}
}

func TestBadIPv6(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"IPv4 prefix", "2001:db8::/64", "10.5.0.0/24", `site.yaml:10:15: prefix: "10.5.0.0/24" is not an IPv6 prefix; write such as 2001:db8::/64`},
		{"host bits", "2001:db8::/64", "2001:db8::1/64", `did you mean "2001:db8::/64"?`},
		{"no server", "      server: 2001:db8::1\n", "", `network prov is for booting but has no IPv6 server address`},
		{"server elsewhere", "server: 2001:db8::1", "server: 2001:db9::1", `site.yaml:11:15: network prov: IPv6 server 2001:db9::1 is outside network prov (2001:db8::/64)`},
		{"router anycast", "server: 2001:db8::1\n", "server: \"2001:db8::\"\n", `is every router's (subnet-router anycast); the first host is 2001:db8::1`},
		{"pool backwards", "from: 2001:db8::100, to: 2001:db8::1ff", "from: 2001:db8::1ff, to: 2001:db8::100", `site.yaml:14:41: network prov: a pool from 2001:db8::1ff to 2001:db8::100 is backwards; swap from and to`},
		{"pools overlap", "to: 2001:db8::1ff}", "to: 2001:db8::1ff}, {from: 2001:db8::180, to: 2001:db8::200}", `overlaps pool`},
		{"reservation outside", "ipv6: 2001:db8::11", "ipv6: 2001:db9::11", `machine m1: address 2001:db9::11 is outside network prov (2001:db8::/64)`},
		{"address twice", "ipv6: 2001:db8::11", "ipv6: 2001:db8::1", `machine m1: address 2001:db8::1 is already that of network prov's server`},
		{"IPv4 address", "ipv6: 2001:db8::11", "ipv6: 10.0.0.12", `"10.0.0.12" is not an IPv6 address; write such as 2001:db8::11`},
		{"slaac beyond /64", "prefix: 2001:db8::/64", "prefix: 2001:db8::/80", ``},
		{"advertise unknown", "advertise: managed", "advertise: manged", `did you mean "managed"?`},
		{"relays for IPv6 alone", "      dns:", "      relays: [2001:db8::2]\n      dns:", `network prov is behind relays for IPv6 alone`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := withIPv6(tc.old, tc.new)
			if tc.name == "slaac beyond /64" {
				text = strings.Replace(text, "advertise: managed", "advertise: slaac", 1)
				tc.want = "machines make their own addresses in a /64 only (RFC 4862), not in 2001:db8::/80"
			}
			_, err := loadText(text)
			if _, ok := errors.AsType[Errors](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Load = %v; want %q", err, tc.want)
			}
		})
	}
	text := strings.Replace(base, "    server: 10.0.0.1\n", "    server: 10.0.0.1\n    advertise: managed\n", 1)
	if _, err := loadText(text); err == nil || !strings.Contains(err.Error(), "site.yaml:8:16: network prov advertises (managed) and has no IPv6; add ipv6:") {
		t.Errorf("Load of an advertisement without IPv6 = %v; want an error with its place", err)
	}
	two := strings.Replace(withIPv6("", ""), "    vlan: 20\n", "    vlan: 20\n    ipv6: {prefix: \"2001:db8::/48\"}\n", 1)
	if _, err := loadText(two); err == nil || !strings.Contains(err.Error(), "network bmc: 2001:db8::/48 overlaps 2001:db8::/64 of network prov") {
		t.Errorf("Load of overlapping IPv6 networks = %v; want an error", err)
	}
}

// only6 is base with a boot network that has IPv6 alone, and old replaced there.
func only6(old, new string) string {
	text := strings.Replace(base, "racks:", `  - name: six
    purpose: boot
    vlan: 66
    ipv6:
      prefix: 2001:db8:6::/64
      server: 2001:db8:6::1
      pools: [{from: 2001:db8:6::100, to: 2001:db8:6::1ff}]
racks:`, 1)
	return strings.Replace(text, old, new, 1)
}

// TestOnlyIPv6 reads a boot network without IPv4, and refuses what is of IPv4
// there.
func TestOnlyIPv6(t *testing.T) {
	s, err := loadText(only6("", ""))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := s.Network("six")
	if !n.Only6() || n.Here() != netip.MustParseAddr("2001:db8:6::1") {
		t.Errorf("network %+v; want IPv6 alone, fettle at 2001:db8:6::1", n)
	}
	if prov, _ := s.Network("prov"); prov.Only6() || prov.Here() != prov.Server {
		t.Errorf("network prov is of IPv6 alone: %v, fettle at %v; want its IPv4", prov.Only6(), prov.Here())
	}
	again, err := loadText(string(s.Canonical()))
	if err != nil || again.Revision() != s.Revision() {
		t.Errorf("its canonical form read again = %v; want the same site", err)
	}
	for _, tc := range []struct{ name, old, new, want string }{
		{"neither", "    ipv6:\n      prefix: 2001:db8:6::/64\n      server: 2001:db8:6::1\n      pools: [{from: 2001:db8:6::100, to: 2001:db8:6::1ff}]\n", "", `network six has no "prefix"`},
		{"not for booting", "name: six\n    purpose: boot", "name: six\n    purpose: data", `network six has no IPv4 prefix and is not for booting; add "prefix": only a boot network can have IPv6 alone`},
		{"IPv4 server", "vlan: 66\n", "vlan: 66\n    server: 10.6.0.1\n", `network six has no IPv4 prefix, and server is of IPv4`},
		{"IPv4 pool", "vlan: 66\n", "vlan: 66\n    pools: [{from: 10.6.0.1, to: 10.6.0.2}]\n", `and pools is of IPv4`},
		{"proxy", "vlan: 66\n", "vlan: 66\n    proxy: true\n", `and proxy is of IPv4`},
		{"told that there is none", "vlan: 66\n", "vlan: 66\n    advertise: none\n", `machines are told (none) that there is no IPv6`},
		{"no IPv6 server", "      server: 2001:db8:6::1\n", "", `network six is for booting but has no IPv6 server address`},
		{"a port's IPv4 address", "network: prov, address: 10.0.0.11", "network: six, address: 10.0.0.11", `network six of address 10.0.0.11 has no IPv4; write it as ipv6:`},
		{"a port without an address", "      pools: [{from: 2001:db8:6::100, to: 2001:db8:6::1ff}]\n", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := only6(tc.old, tc.new)
			if tc.want == "" {
				text = strings.Replace(text, "network: prov, address: 10.0.0.11", "network: six", 1)
				tc.want = "has no address on network six, which has no pool"
			}
			_, err := loadText(text)
			if _, ok := errors.AsType[Errors](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Load = %v; want %q", err, tc.want)
			}
		})
	}
}
