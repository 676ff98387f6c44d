//go:build linux

package main

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// TestServeIPv6 has a boot network with IPv6: a real DHCPv6 client gets its
// reserved address, durably, and boot files; fettle doctor finds another DHCP
// server.
func TestServeIPv6(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"dhclient", "dnsmasq", "rdisc6"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	const mac, reserved, server = "02:00:00:90:00:12", "2001:db8:90::12", "2001:db8:90::1"
	r.write("site/site.yaml", strings.Replace(rackSiteYAML, "    server: 10.90.0.1\n", `    server: 10.90.0.1
    ipv6:
      prefix: 2001:db8:90::/64
      server: `+server+`
      dns: [2001:db8:90::53]
      pools: [{from: 2001:db8:90::100, to: 2001:db8:90::1ff}]
`, 1))
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "address: 10.90.0.12, boot", "address: 10.90.0.12, ipv6: "+reserved+", boot", 1))
	r.want(0, "", "site", "check")

	client := r.joinClient(t, mac)
	serve := []string{"serve", "--state", r.path("state"), "--socket", r.path("api.sock")}
	if res := r.want(exitMissing, "", serve...); !strings.Contains(res.stderr, "ip addr add "+server+"/64 dev br0") {
		t.Errorf("fettle serve without its IPv6 address says %q; want the command that adds it", res.stderr)
	}
	r.ns.run(t, "ip", "addr", "add", server+"/64", "dev", "br0", "nodad")
	r.awaitLinkLocal(t, r.ns, "br0")
	r.awaitLinkLocal(t, client, "cli0")
	sv := r.serve()
	defer func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
		}
	}()
	if out := client.run(t, "rdisc6", "-1", "-r", "3", "cli0"); !strings.Contains(strings.Join(strings.Fields(out), ""), "Statefuladdressconf.:Yes") {
		t.Errorf("a machine that looks for a router is told %s; want DHCPv6", out)
	}
	r.write("dhclient.conf", "")
	ask := []string{"dhclient", "-6", "-1", "-cf", r.path("dhclient.conf"), "-lf", r.path("dhclient.leases"), "-pf", r.path("dhclient.pid"), "-sf", "/bin/true", "cli0"}
	client.run(t, ask...)
	if got := r.leaseOf(mac); got != reserved {
		t.Errorf("lease of %s = %s; want %s", mac, got, reserved)
	}
	client.run(t, "ip", "addr", "add", reserved+"/64", "dev", "cli0", "nodad")
	if out := client.run(t, "curl", "-gsS", "-o", "/dev/null", "-w", "%{http_code}", "http://["+server+"]/boot/autoexec.ipxe"); out != "200" {
		t.Errorf("boot HTTP over IPv6 = %s; want 200", out)
	}
	if out := client.run(t, "curl", "-gsS", "tftp://["+server+"]/autoexec.ipxe"); !strings.Contains(out, "http://["+server+"]/boot/script/") {
		t.Errorf("autoexec.ipxe by TFTP over IPv6 = %q; want scripts by IPv6", out)
	}
	sv.stop(t)
	sv = r.serve()
	if got := r.leaseOf(mac); got != reserved {
		t.Errorf("lease of %s after a restart = %s; want %s", mac, got, reserved)
	}
	var leases []state.Lease
	decode(t, r.ns.run(t, "curl", "-sSf", "--unix-socket", r.path("api.sock"), "http://fettle/api/v1/leases"), &leases)
	if len(leases) != 1 {
		t.Errorf("%d leases; want 1: %+v", len(leases), leases)
	}

	// Who else answers there?
	doctor := func() finding {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := client.command(ctx, r.bin, "doctor", "--output", "json", "--network", "prov=cli0")
		var out, errOut bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = r.env, &out, &errOut
		err := cmd.Run() // its status is of everything that this machine lacks
		var all []finding
		decode(t, out.String(), &all)
		for _, f := range all {
			if f.For == "booting" {
				return f
			}
		}
		t.Fatalf("fettle doctor says nothing of DHCP: %v\n%s%s", err, &out, &errOut)
		return finding{}
	}
	// Our own is not another: DHCP for the MAC of cli0, and DHCPv6.
	if f := doctor(); !f.OK || len(f.Servers) != 2 || !f.Servers[0].Ours || !f.Servers[1].Ours {
		t.Errorf("fettle doctor beside fettle serve = %+v; want two answers, both its own", f)
	}
	other := newRackNS(t)
	r.ns.run(t, "ip", "link", "add", "v1", "type", "veth", "peer", "name", "eth0", "netns", other.name)
	r.ns.run(t, "ip", "link", "set", "v1", "master", "br0", "up")
	other.run(t, "ip", "addr", "add", "10.90.0.2/24", "dev", "eth0")
	other.run(t, "ip", "link", "set", "eth0", "up")
	rogue := &rackRig{t: t, ns: other, dir: r.dir}
	defer rogue.dnsmasq(t, "--interface=eth0", "--no-ping")()
	f := doctor()
	if f.OK || !strings.Contains(f.Text, "DHCPv4 server 10.90.0.2 (") || !strings.Contains(f.Text, "offers 10.90.0.2") || strings.Contains(f.Text, "10.90.0.1 ") {
		t.Errorf("fettle doctor beside dnsmasq = %+v; want dnsmasq alone named", f)
	}
	sv.stop(t)
}

// joinClient makes a namespace whose cli0, with that MAC, is on the rack's
// bridge.
func (r *rackRig) joinClient(t *testing.T, mac string) *rackNS {
	t.Helper()
	client := newRackNS(t)
	r.ns.run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	r.ns.run(t, "ip", "link", "set", "v0", "master", "br0", "up")
	client.run(t, "ip", "link", "set", "cli0", "address", mac, "up")
	return client
}

// awaitLinkLocal waits until an interface can speak IPv6.
func (r *rackRig) awaitLinkLocal(t *testing.T, ns *rackNS, dev string) {
	t.Helper()
	r.await(20*time.Second, "a link-local address on "+dev, func() (bool, error) {
		out := ns.run(t, "ip", "-6", "addr", "show", "dev", dev, "scope", "link")
		return strings.Contains(out, "fe80:") && !strings.Contains(out, "tentative"), nil
	})
}
