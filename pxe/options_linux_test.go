//go:build linux

package pxe

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProbeARP asks a real wire.
func TestProbeARP(t *testing.T) {
	server, client := vethPair(t)
	client.run(t, "ip", "addr", "add", "192.0.2.77/24", "dev", "cli0")
	var conn *DHCPConn
	if err := server.do(func() (err error) {
		conn, err = ListenDHCP("srv0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var by net.HardwareAddr
	var used bool
	probe := func(addr string) error {
		return server.do(func() (err error) {
			by, used, err = conn.Probe(t.Context(), netip.MustParseAddr(addr))
			return err
		})
	}
	if err := probe("192.0.2.77"); err != nil || !used || by.String() != testMAC.String() {
		t.Errorf("Probe(192.0.2.77) = %v, %v, %v; want in use by %v", by, used, err, testMAC)
	}
	start := time.Now()
	if err := probe("192.0.2.78"); err != nil || used {
		t.Errorf("Probe(192.0.2.78) = %v, %v, %v; want free", by, used, err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("Probe of a free address took %v; want well under a second", d)
	}
	if out := client.run(t, "ip", "neigh"); strings.Contains(out, "192.0.2.1 ") {
		t.Errorf("the probe changed the client's ARP cache: %s", out)
	}
}

// TestPeersConflict has a machine with a fixed address inside the pool: the
// next client gets another one.
func TestPeersConflict(t *testing.T) {
	needTool(t, "udhcpc")
	server, client := vethPair(t)
	n := testNetwork()
	n.Probe = true
	f := newFixture(t, n)
	f.now = time.Now
	f.Server.leases = &poolLeases{next: netip.MustParseAddr("192.0.2.77")}
	server.run(t, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
	intruder := newNS(t)
	server.run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", intruder.name)
	for _, args := range [][]string{
		{"ip", "addr", "del", "192.0.2.1/24", "dev", "srv0"}, {"ip", "addr", "add", "192.0.2.1/24", "dev", "br0"},
		{"ip", "link", "set", "srv0", "master", "br0"}, {"ip", "link", "set", "v0", "master", "br0", "up"}, {"ip", "link", "set", "br0", "up"},
	} {
		server.run(t, args...)
	}
	intruder.run(t, "ip", "addr", "add", "192.0.2.77/24", "dev", "eth0")
	intruder.run(t, "ip", "link", "set", "eth0", "up")
	server.serve(t, f.Server, "br0")
	if out := client.run(t, "udhcpc", "-i", "cli0", "-f", "-q", "-n", "-t", "5", "-T", "2", "-s", "/bin/true"); !strings.Contains(out, "lease of 192.0.2.78 obtained") {
		t.Errorf("udhcpc: %s; want 192.0.2.78\n%s", out, f.timeline.text())
	}
	if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.conflict" && strings.Contains(e.Text, "192.0.2.77") }); !ok {
		t.Errorf("no conflict on the timeline:\n%s", f.timeline.text())
	}
}

// TestPeersFarConflict has a machine with a fixed address behind a router,
// where ARP does not reach: it is found by ping.
func TestPeersFarConflict(t *testing.T) {
	needTool(t, "dhcrelay", "udhcpc", "sysctl")
	server, relay, client := relayNS(t)
	far := testNetwork()
	far.Name, far.Prefix, far.Gateway, far.Probe = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1"), true
	far.Relays = []netip.Addr{far.Gateway}
	f := newFixture(t, testNetwork(), far)
	f.now = time.Now
	f.Server.leases = &poolLeases{next: netip.MustParseAddr("198.51.100.77")}
	relay.run(t, "ip", "addr", "add", "198.51.100.77/24", "dev", "down0") // the intruder
	server.serve(t, f.Server, "srv0")
	dhcrelay(t, relay, "-4", "-id", "down0", "-iu", "up0", "192.0.2.1")
	if out := client.run(t, "udhcpc", "-i", "cli0", "-f", "-q", "-n", "-t", "8", "-T", "2", "-s", "/bin/true"); !strings.Contains(out, "lease of 198.51.100.78 obtained") {
		t.Errorf("udhcpc: %s; want 198.51.100.78\n%s", out, f.timeline.text())
	}
	if _, ok := f.timeline.find(func(e Exchange) bool {
		return e.Kind == "dhcp.conflict" && strings.Contains(e.Text, "198.51.100.77") && strings.Contains(e.Text, "pings")
	}); !ok {
		t.Errorf("no conflict on the timeline:\n%s", f.timeline.text())
	}
}

// dhcrelay runs ISC's relay agent in a namespace until the test ends.
func dhcrelay(t *testing.T, ns *netns, args ...string) {
	t.Helper()
	needTool(t, "dhcrelay")
	background(t, ns, append([]string{"dhcrelay", "-d", "--no-pid"}, args...)...)
}

// background runs a program in a namespace until the test ends; what it said
// is in the log of a test that failed.
func background(t testing.TB, ns *netns, args ...string) {
	t.Helper()
	cmd := ns.command(context.Background(), args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	exited, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%v:\n%s", args, &log)
		}
	})
}

// relayNS makes a router between a client's namespace and the server's, that
// listens on port 67: its addresses are 198.51.100.1 and 192.0.2.9.
func relayNS(t *testing.T) (server, relay, client *netns) {
	t.Helper()
	server, relay, client = newNS(t), newNS(t), newNS(t)
	server.run(t, "ip", "link", "add", "srv0", "type", "veth", "peer", "name", "up0", "netns", relay.name)
	relay.run(t, "ip", "link", "add", "down0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	for ns, list := range map[*netns][][]string{
		server: {{"ip", "addr", "add", "192.0.2.1/24", "dev", "srv0"}, {"ip", "link", "set", "srv0", "up"}, {"ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9"}},
		relay: {{"ip", "addr", "add", "192.0.2.9/24", "dev", "up0"}, {"ip", "addr", "add", "198.51.100.1/24", "dev", "down0"},
			{"ip", "link", "set", "up0", "up"}, {"ip", "link", "set", "down0", "up"}, {"sysctl", "-qw", "net.ipv4.ip_forward=1"}},
		client: {{"ip", "link", "set", "cli0", "address", testMAC.String()}, {"ip", "link", "set", "cli0", "up"}},
	} {
		for _, args := range list {
			ns.run(t, args...)
		}
	}
	return server, relay, client
}

// TestPeersRelay gives an address and a renewal through dnsmasq's relay agent.
func TestPeersRelay(t *testing.T) {
	needTool(t, "dnsmasq", "sysctl", "dhclient")
	server, relay, client := relayNS(t)
	direct, far := testNetwork(), testNetwork()
	far.Name, far.Prefix, far.Gateway = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1")
	far.Relays = []netip.Addr{far.Gateway}
	far.Routes = []Route{{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("198.51.100.77")}}
	f := newFixture(t, direct, far)
	f.now = time.Now
	f.leases.fixed[testMAC.String()] = netip.MustParseAddr("198.51.100.9")
	server.serve(t, f.Server, "srv0")
	dnsmasq(t, relay, "--dhcp-relay=198.51.100.1,192.0.2.1", "--interface=down0", "--interface=up0")
	dir := t.TempDir()
	conf, script, out := filepath.Join(dir, "conf"), filepath.Join(dir, "script"), filepath.Join(dir, "out")
	for name, text := range map[string]string{
		conf: "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\nrequest subnet-mask, routers, rfc3442-classless-static-routes;\n",
		script: "#!/bin/sh\necho \"$reason $new_ip_address $new_routers $new_rfc3442_classless_static_routes\" >> " + out +
			"\n[ -n \"$new_ip_address\" ] && ip addr replace $new_ip_address/24 dev cli0 && ip route replace default via 198.51.100.1\nexit 0\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-cf", conf, "-lf", dir + "/leases", "-pf", dir + "/pid", "-sf", script, "cli0"}
	log := client.run(t, append([]string{"dhclient", "-1", "-v"}, args...)...)
	b, err := os.ReadFile(out)
	if want := "BOUND 198.51.100.9 198.51.100.1 24 203 0 113 198 51 100 77 0 198 51 100 1\n"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("dhclient through the relay = %q, %v; want %q\n%s%s", b, err, want, log, f.timeline.text())
	}
	// RELEASE goes to the server by unicast, past the relay.
	client.run(t, append([]string{"dhclient", "-r"}, args...)...)
	if err := eventually(t.Context(), 10*time.Second, func() bool {
		_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.release" && e.Network == "far" })
		return ok
	}); err != nil {
		t.Errorf("no RELEASE of network far: %v\n%s", err, f.timeline.text())
	}
}
