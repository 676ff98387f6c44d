//go:build linux

package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// kea runs Kea's DHCPv4 server on eth0 of a namespace.
func kea(t *testing.T, ns *netns, subnets ...string) {
	t.Helper()
	needTool(t, "kea-dhcp4")
	dir := t.TempDir()
	var list []string
	for i, s := range subnets {
		p := netip.MustParsePrefix(s).Addr().As4()
		net := fmt.Sprintf("%d.%d.%d", p[0], p[1], p[2])
		list = append(list, fmt.Sprintf(`{"id": %d, "subnet": %q, "pools": [{"pool": "%s.70 - %s.90"}], "option-data": [{"name": "domain-name-servers", "data": "192.0.2.53"}]}`, i+1, s, net, net))
	}
	conf := filepath.Join(dir, "kea.json")
	text := fmt.Sprintf(`{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"], "re-detect": true},
 "lease-database": {"type": "memfile", "persist": false}, "valid-lifetime": 3600, "authoritative": true,
 "subnet4": [%s], "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stdout"}], "severity": "INFO"}]}}`, strings.Join(list, ","))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	background(t, ns, "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp4", "-c", conf)
}

// dhcpd runs ISC's DHCP server on eth0 of a namespace.
func dhcpd(t *testing.T, ns *netns) {
	t.Helper()
	needTool(t, "dhcpd")
	dir := t.TempDir()
	conf, leases := filepath.Join(dir, "conf"), filepath.Join(dir, "leases")
	for name, text := range map[string]string{leases: "", conf: "authoritative;\ndefault-lease-time 3600;\nsubnet 192.0.2.0 netmask 255.255.255.0 { range 192.0.2.70 192.0.2.90; option domain-name-servers 192.0.2.53; }\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	background(t, ns, "dhcpd", "-4", "-f", "-d", "--no-pid", "-cf", conf, "-lf", leases, "eth0")
}

// TestFirmwareNeighbours boots firmware with the addresses of other DHCP
// servers than dnsmasq, and our boot files.
func TestFirmwareNeighbours(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(*netns)
	}{
		{"Kea", func(ns *netns) { kea(t, ns, "192.0.2.0/24") }},
		{"ISC dhcpd", func(ns *netns) { dhcpd(t, ns) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns, f := neighbourRig(t, tc.run)
			ns.serve(t, f.Server, "br0")
			m := qemu(t, ns, bios()...)
			m.await(t, f, "script fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" && e.MAC != nil && e.Err == nil })
				return ok
			})
			e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.address" })
			if !ok || !strings.Contains(e.Text, "192.0.2.2") || f.leases.commits > 0 {
				t.Errorf("%q, %d leases of ours; want an address of 192.0.2.2 on the timeline:\n%s", e.Text, f.leases.commits, f.timeline.text())
			}
		})
	}
}

// TestFirmwareProxyRelay boots firmware behind a relay agent that sends to a
// DHCP server and to our ProxyDHCP.
func TestFirmwareProxyRelay(t *testing.T) {
	needTool(t, "dhcrelay", "sysctl")
	ns, f := neighbourRig(t, func(other *netns) {
		other.run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9")
		dnsmasq(t, other, "--interface=eth0", "--dhcp-range=198.51.100.70,198.51.100.90,255.255.255.0,1h", "--dhcp-option=3,198.51.100.1")
	})
	far := testNetwork()
	far.Name, far.Prefix, far.Gateway, far.Proxy = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1"), true
	far.Relays = []netip.Addr{far.Gateway}
	near := *f.order[0]
	g := newFixture(t, near, far)
	g.now, g.files = time.Now, f.files
	g.timeline.tell(t)
	// The machine is in the relay's namespace.
	relay := newNS(t)
	relay.run(t, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	ns.run(t, "ip", "link", "add", "v1", "type", "veth", "peer", "name", "up0", "netns", relay.name)
	ns.run(t, "ip", "link", "set", "v1", "master", "br0", "up")
	ns.run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9")
	for _, args := range [][]string{
		{"ip", "addr", "add", "192.0.2.9/24", "dev", "up0"}, {"ip", "link", "set", "up0", "up"},
		{"ip", "addr", "add", "198.51.100.1/24", "dev", "tap0"}, {"ip", "link", "set", "tap0", "up"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		relay.run(t, args...)
	}
	ns.serve(t, g.Server, "br0")
	dhcrelay(t, relay, "-4", "-id", "tap0", "-iu", "up0", "192.0.2.1", "192.0.2.2")
	m := qemu(t, relay, bios()...)
	m.await(t, g, "script fetched", func() bool {
		_, ok := g.timeline.find(func(e Exchange) bool { return e.Kind == "script" && e.Err == nil })
		return ok
	})
	e, ok := g.timeline.find(func(e Exchange) bool { return e.Kind == "script" })
	if !ok || e.Network != "far" || !far.Prefix.Contains(e.Addr) || e.MAC.String() != testMAC.String() {
		t.Errorf("script of %v at %v on %q; want %v on far\n%s", e.MAC, e.Addr, e.Network, testMAC, g.timeline.text())
	}
}

// TestPeersClients4 lets clients ask that are no DHCP clients of a system.
func TestPeersClients4(t *testing.T) {
	t.Run("dhcping", func(t *testing.T) {
		needTool(t, "dhcping")
		f, client, _ := peerRig(t)
		client.run(t, "ip", "addr", "add", testAddr.String()+"/24", "dev", "cli0")
		// It requests, and releases.
		out := client.run(t, "dhcping", "-v", "-c", testAddr.String(), "-s", "192.0.2.1", "-h", testMAC.String(), "-t", "5")
		if !strings.Contains(out, "Got answer from: 192.0.2.1") {
			t.Errorf("dhcping says %q; want an answer\n%s", out, f.timeline.text())
		}
		f.sawKind(t, "dhcp.ack", nil)
		f.sawKind(t, "dhcp.release", nil)
	})
	t.Run("nmap dhcp-discover", func(t *testing.T) {
		needTool(t, "nmap")
		f, client, _ := peerRig(t)
		client.run(t, "ip", "addr", "add", testAddr.String()+"/24", "dev", "cli0")
		out := client.run(t, "nmap", "-n", "-Pn", "-sU", "-p", "67", "--script", "dhcp-discover", "192.0.2.1")
		for _, w := range []string{"DHCP Message Type: DHCPACK", "Server Identifier: 192.0.2.1", "Router: 192.0.2.254", "Domain Name Server: 192.0.2.53"} {
			if !strings.Contains(out, w) {
				t.Errorf("nmap lacks %q:\n%s\n%s", w, out, f.timeline.text())
			}
		}
	})
	t.Run("nmap broadcast-dhcp-discover", func(t *testing.T) {
		if testing.Short() {
			t.Skip("listens for seconds: left out with -short")
		}
		needTool(t, "nmap")
		f, client, _ := peerRig(t)
		client.run(t, "ip", "addr", "add", testAddr.String()+"/24", "dev", "cli0")
		f.leases.deny = nil
		f.Server.leases = &poolLeases{next: netip.MustParseAddr("192.0.2.77")} // it makes up a MAC address
		out := client.run(t, "nmap", "-e", "cli0", "--script", "broadcast-dhcp-discover", "--script-args", "broadcast-dhcp-discover.timeout=5")
		if !strings.Contains(out, "DHCP Message Type: DHCPOFFER") || !strings.Contains(out, "IP Offered: 192.0.2.77") {
			t.Errorf("nmap says:\n%s\n%s", out, f.timeline.text())
		}
	})
}

// TestPeersISCRelay gives an address through ISC's relay agent, with its
// option 82 (FIELD-NOTES item 3: "Echo ... option 82 (unchanged, last)"): a
// relay drops an answer without it.
func TestPeersISCRelay(t *testing.T) {
	needTool(t, "dhcrelay", "udhcpc", "sysctl")
	server, relay, client := relayNS(t)
	far := testNetwork()
	far.Name, far.Prefix, far.Gateway = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1")
	far.Relays = []netip.Addr{far.Gateway}
	f := newFixture(t, testNetwork(), far)
	f.now = time.Now
	f.leases.fixed[testMAC.String()] = netip.MustParseAddr("198.51.100.9")
	server.serve(t, f.Server, "srv0")
	dhcrelay(t, relay, "-4", "-a", "-D", "-m", "discard", "-id", "down0", "-iu", "up0", "192.0.2.1")
	if out := client.run(t, "udhcpc", "-i", "cli0", "-f", "-q", "-n", "-t", "8", "-T", "1", "-s", "/bin/true"); !strings.Contains(out, "lease of 198.51.100.9 obtained") {
		t.Errorf("udhcpc through dhcrelay: %s\n%s", out, f.timeline.text())
	}
	f.sawKind(t, "dhcp.ack", func(e Exchange) bool { return e.Network == "far" })
	asked := net.HardwareAddr(testMAC)
	if c, ok := f.clients.of(asked); !ok || c.Network != "far" {
		t.Errorf("client %+v; want it known on far", c)
	}
}

// TestBINLFromAfar is asked on port 4011 by a client behind a relay: it is
// known on its own network.
func TestBINLFromAfar(t *testing.T) {
	far := testNetwork()
	far.Name, far.Prefix, far.Gateway, far.Proxy = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1"), true
	far.Relays = []netip.Addr{far.Gateway}
	f := newFixture(t, testNetwork(), far)
	from := netip.MustParseAddrPort("198.51.100.9:4011")
	p := f.answerBINL(t.Context(), f.order[0], ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = from.Addr().AsSlice() }), from)
	if p == nil || p.to != from {
		t.Fatalf("answer %+v; want one to %v\n%s", p, from, f.timeline.text())
	}
	if e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.binl" }); e.Network != "far" {
		t.Errorf("asked on %q; want far", e.Network)
	}
}
