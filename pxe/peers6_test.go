//go:build linux

package pxe

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peerRig6 is peerRig with IPv6; the client's interface has its link-local
// address when it returns.
func peerRig6(t *testing.T, change func(*Network)) (*fixture, *netns) {
	t.Helper()
	server, client := vethPair(t)
	n := testNetwork6()
	if change != nil {
		change(&n)
	}
	f := newFixture(t, n)
	f.now = time.Now
	f.files = mapFiles{"loaders/snponly.efi": pattern(300_000)}
	server.serve(t, f.Server, "srv0")
	awaitLinkLocal(t, client, "cli0")
	return f, client
}

// awaitLinkLocal waits until duplicate address detection is over: until then
// nothing can be sent.
func awaitLinkLocal(t *testing.T, ns *netns, ifname string) {
	t.Helper()
	if testing.Short() {
		t.Skip("waits seconds for IPv6's duplicate address detection: left out with -short")
	}
	err := eventually(t.Context(), 10*time.Second, func() bool {
		out := ns.run(t, "ip", "-6", "addr", "show", "dev", ifname, "scope", "link")
		return strings.Contains(out, "fe80:") && !strings.Contains(out, "tentative")
	})
	if err != nil {
		t.Fatalf("no link-local address on %s: %v", ifname, err)
	}
}

// sawKind waits for an exchange.
func (f *fixture) sawKind(t *testing.T, kind string, match func(Exchange) bool) Exchange {
	t.Helper()
	var got Exchange
	err := eventually(t.Context(), 20*time.Second, func() (ok bool) {
		got, ok = f.timeline.find(func(e Exchange) bool { return e.Kind == kind && (match == nil || match(e)) })
		return ok
	})
	if err != nil {
		t.Fatalf("no %s: %v\n%s", kind, err, f.timeline.text())
	}
	return got
}

// TestPeersDHCP6 lets real DHCPv6 clients get and give back an address.
func TestPeersDHCP6(t *testing.T) {
	t.Run("dhclient", func(t *testing.T) {
		needTool(t, "dhclient")
		f, client := peerRig6(t, nil)
		dir := t.TempDir()
		script := filepath.Join(dir, "script")
		out := filepath.Join(dir, "out")
		text := "#!/bin/sh\nenv | grep '^new_' | sort >> " + out + "\nif [ -n \"$new_ip6_address\" ]; then ip -6 addr replace $new_ip6_address/64 dev cli0 nodad; fi\nexit 0\n"
		conf := filepath.Join(dir, "conf")
		for name, text := range map[string]string{script: text, conf: "also request dhcp6.name-servers, dhcp6.domain-search;\n"} {
			if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		args := []string{"dhclient", "-6", "-v", "-cf", conf, "-lf", dir + "/leases", "-pf", dir + "/pid", "-sf", script}
		log := client.run(t, append(args, "-1", "cli0")...)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		for _, w := range []string{"new_ip6_address=2001:db8::10", "new_dhcp6_name_servers=2001:db8::53", "new_dhcp6_domain_search=lab.example.org.", "new_max_life=3600"} {
			if !strings.Contains(string(b), w+"\n") {
				t.Errorf("dhclient -6 did not get %q:\n%s%s", w, b, log)
			}
		}
		e := f.sawKind(t, "dhcp.ack", nil)
		if e.MAC.String() != testMAC.String() || e.Addr != testAddr6 {
			t.Errorf("acknowledged %v to %v; want %v to %v", e.Addr, e.MAC, testAddr6, testMAC)
		}
		log = client.run(t, append(args, "-r", "cli0")...)
		f.sawKind(t, "dhcp.release", func(e Exchange) bool { return strings.Contains(e.Text, "2001:db8::10") })
		if len(f.leases.released) != 1 || f.leases.released[0] != testAddr6 {
			t.Errorf("released %v; want %v\n%s", f.leases.released, testAddr6, log)
		}
	})
	t.Run("dhcp6c", func(t *testing.T) {
		needTool(t, "dhcp6c")
		// A client that wants a prefix too, and the address at once.
		f, client := peerRig6(t, nil)
		conf := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(conf, []byte("interface cli0 { send ia-na 7; send ia-pd 8; send rapid-commit; request domain-name-servers; };\nid-assoc na 7 {};\nid-assoc pd 8 {};\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := client.command(context.Background(), "dhcp6c", "-f", "-D", "-c", conf, "-p", conf+".pid", "cli0")
		var log strings.Builder
		cmd.Stderr = &log
		exited, err := start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); <-exited }()
		e := f.sawKind(t, "dhcp.ack", nil)
		if e.Addr != testAddr6 {
			t.Errorf("acknowledged %v; want %v", e.Addr, testAddr6)
		}
		err = eventually(t.Context(), 10*time.Second, func() bool {
			return strings.Contains(client.run(t, "ip", "-6", "addr", "show", "dev", "cli0"), "2001:db8::10/")
		})
		if err != nil {
			t.Errorf("dhcp6c did not set the address: %v\n%s", err, client.run(t, "ip", "-6", "addr"))
		}
	})
}

// TestPeersIPv6Files fetches by TFTP and HTTP over IPv6 with curl.
func TestPeersIPv6Files(t *testing.T) {
	needTool(t, "curl")
	f, client := peerRig6(t, nil)
	client.run(t, "ip", "addr", "add", testAddr6.String()+"/64", "dev", "cli0", "nodad")
	for _, url := range []string{"tftp://[2001:db8::1]/snponly.efi", "http://[2001:db8::1]/boot/files/loaders/snponly.efi"} {
		if got := client.run(t, "curl", "-gsS", "-o", "/dev/null", "-w", "%{size_download}", url); got != "300000" {
			t.Errorf("curl %s = %s bytes; want 300000\n%s", url, got, f.timeline.text())
		}
	}
	got := client.run(t, "curl", "-gsS", "http://[2001:db8::1]/boot/script/"+testMAC.String())
	if !strings.Contains(got, "http://[2001:db8::1]/boot/files/agent/vmlinuz") {
		t.Errorf("script over IPv6 = %s; want files by IPv6", got)
	}
}

// TestPeersAdvertise asks with rdisc6 what the router says.
func TestPeersAdvertise(t *testing.T) {
	needTool(t, "rdisc6")
	for _, tc := range []struct {
		name string
		how  Advertise
		six  bool
		want []string
		not  []string
	}{
		{"nothing", AdvertiseNothing, false, []string{"Stateful address conf.    :           No", "Stateful other conf.      :           No", "Router lifetime           :            0"}, []string{"Prefix"}},
		{"managed", AdvertiseManaged, true, []string{"Stateful address conf.    :          Yes", "Stateful other conf.      :          Yes", "Prefix                    : 2001:db8::/64", "Autonomous address conf. :           No", "Recursive DNS server     : 2001:db8::53", "DNS search list          : lab.example.org"}, nil},
		{"other", AdvertiseOther, true, []string{"Stateful address conf.    :           No", "Stateful other conf.      :          Yes", "Autonomous address conf. :          Yes"}, nil},
		{"slaac", AdvertiseSLAAC, true, []string{"Stateful other conf.      :           No", "Autonomous address conf. :          Yes", "Router lifetime           :         1800"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server, client := vethPair(t)
			n := testNetwork()
			if tc.six {
				n = testNetwork6()
				n.IPv6.Gateway = n.IPv6.Server
			}
			n.Advertise = tc.how
			f := newFixture(t, n)
			f.now = time.Now
			awaitLinkLocal(t, server, "srv0")
			awaitLinkLocal(t, client, "cli0")
			server.serve(t, f.Server, "srv0")
			got := client.run(t, "rdisc6", "-1", "-r", "3", "cli0")
			squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
			for _, w := range tc.want {
				if !strings.Contains(squeeze(got), squeeze(w)) {
					t.Errorf("rdisc6 lacks %q:\n%s", w, got)
				}
			}
			for _, w := range tc.not {
				if strings.Contains(got, w) {
					t.Errorf("rdisc6 has %q:\n%s", w, got)
				}
			}
		})
	}
}

// TestPeersOtherRouter has another router on the network: where nobody asked
// for advertisements, its word counts and we are silent.
func TestPeersOtherRouter(t *testing.T) {
	needTool(t, "rdisc6", "dnsmasq")
	server, client := vethPair(t)
	n := testNetwork()
	n.Advertise = AdvertiseNothing
	f := newFixture(t, n)
	f.now = time.Now
	awaitLinkLocal(t, server, "srv0")
	awaitLinkLocal(t, client, "cli0")
	client.run(t, "ip", "addr", "add", "2001:db8:5::1/64", "dev", "cli0", "nodad")
	cmd := client.command(context.Background(), "dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--interface=cli0", "--enable-ra", "--dhcp-range=2001:db8:5::,ra-only", "--user=root", "--pid-file=")
	exited, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); <-exited }()
	// It is there when it answers; a third wire's end asks.
	if err := eventually(t.Context(), 20*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		out, _ := server.command(ctx, "rdisc6", "-1", "-r", "1", "srv0").CombinedOutput()
		return strings.Contains(string(out), "2001:db8:5::/64")
	}); err != nil {
		t.Fatalf("dnsmasq does not advertise: %v", err)
	}
	server.serve(t, f.Server, "srv0")
	// Our solicitation made it speak; from then on we are silent.
	silent := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		out, _ := client.command(ctx, "rdisc6", "-m", "-r", "1", "-w", "700", "cli0").CombinedOutput()
		got := strings.Join(strings.Fields(string(out)), "")
		return strings.Contains(got, "Routerlifetime:1800") && !strings.Contains(got, "Routerlifetime:0")
	}
	if err := eventually(t.Context(), 20*time.Second, silent); err != nil {
		t.Errorf("we answer beside another router: %v", err)
	}
}

// relayRig6 is a server behind a router's namespace with the client on the
// other side: server 2001:db8:9::1 -- 2001:db8:9::2 relay 2001:db8::2 --
// client.
func relayRig6(t *testing.T) (f *fixture, relay, client *netns) {
	t.Helper()
	server, relay := newNS(t), newNS(t)
	client = newNS(t)
	server.run(t, "ip", "link", "add", "srv0", "type", "veth", "peer", "name", "up0", "netns", relay.name)
	relay.run(t, "ip", "link", "add", "down0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	client.run(t, "ip", "link", "set", "cli0", "address", testMAC.String())
	relay.run(t, "ip", "addr", "add", "2001:db8:9::2/64", "dev", "up0", "nodad")
	relay.run(t, "ip", "addr", "add", "2001:db8::2/64", "dev", "down0", "nodad")
	relay.run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	server.run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	for _, l := range []struct {
		ns  *netns
		dev string
	}{{server, "srv0"}, {relay, "up0"}, {relay, "down0"}, {client, "cli0"}} {
		l.ns.run(t, "ip", "link", "set", l.dev, "up")
	}
	near, far := testNetwork6(), testNetwork6()
	near.IPv6 = Network6{Prefix: netip.MustParsePrefix("2001:db8:9::/64"), Server: netip.MustParseAddr("2001:db8:9::1")}
	far.Name, far.Prefix, far.Gateway = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.Addr{}
	far.Relays = []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	far.IPv6.Server = near.IPv6.Server
	far.IPv6.Relays = []netip.Addr{netip.MustParseAddr("2001:db8::2")}
	f = newFixture(t, near, far)
	f.now = time.Now
	server.serve(t, f.Server, "srv0")
	server.run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8:9::2")
	awaitLinkLocal(t, relay, "up0")
	awaitLinkLocal(t, relay, "down0")
	awaitLinkLocal(t, client, "cli0")
	return f, relay, client
}

// TestPeersRelay6 lets real relays bring a client's messages.
func TestPeersRelay6(t *testing.T) {
	for _, tc := range []struct {
		tool string
		args []string
	}{
		{"dhcrelay", []string{"-6", "-d", "--no-pid", "-l", "down0", "-u", "2001:db8:9::1%up0"}},
		{"dnsmasq", []string{"-k", "-C", "/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface=down0", "--interface=up0", "--dhcp-relay=2001:db8::2,2001:db8:9::1"}},
	} {
		t.Run(tc.tool, func(t *testing.T) {
			needTool(t, tc.tool, "dhclient")
			f, relay, client := relayRig6(t)
			cmd := relay.command(context.Background(), append([]string{tc.tool}, tc.args...)...)
			var log strings.Builder
			cmd.Stderr = &log
			exited, err := start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); <-exited }()
			dir := t.TempDir()
			if err := os.WriteFile(dir+"/conf", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			client.run(t, "dhclient", "-6", "-1", "-cf", dir+"/conf", "-lf", dir+"/leases", "-pf", dir+"/pid", "-sf", "/bin/true", "cli0")
			e := f.sawKind(t, "dhcp.ack", nil)
			if e.Network != "far" || e.Addr != testAddr6 || e.MAC.String() != testMAC.String() {
				t.Errorf("acknowledged %+v; want %v of %v on network far", e, testAddr6, testMAC)
			}
		})
	}
}
