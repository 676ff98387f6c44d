//go:build linux

package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestServeOnlyIPv6 serves a boot network without IPv4 on an interface without
// it: a real DHCPv6 client gets its reserved address, and boot files, and who
// would run a machine there is told why not.
func TestServeOnlyIPv6(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"dhclient", "rdisc6"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	const mac, reserved, server = "02:00:00:90:00:12", "2001:db8:90::12", "2001:db8:90::1"
	text := strings.Replace(rackSiteYAML, `    prefix: 10.90.0.0/24
    server: 10.90.0.1
    pools:
      - from: 10.90.0.100
        to: 10.90.0.149
`, `    ipv6:
      prefix: 2001:db8:90::/64
      server: `+server+`
      pools: [{from: 2001:db8:90::100, to: 2001:db8:90::1ff}]
`, 1)
	if text == rackSiteYAML {
		t.Fatal("the rig's site is another")
	}
	r.write("site/site.yaml", text)
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "address: 10.90.0.12, boot", "ipv6: "+reserved+", boot", 1))
	r.want(0, "", "site", "check")
	r.ns.run(t, "ip", "-4", "addr", "flush", "dev", "br0")

	client := r.joinClient(t, mac)
	if res := r.want(exitMissing, "", "serve", "--state", r.path("state"), "--socket", r.path("api.sock")); !strings.Contains(res.stderr, "ip addr add "+server+"/64 dev INTERFACE") {
		t.Errorf("fettle serve without its address says %q; want the command that adds it", res.stderr)
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
	if said := sv.log.String(); !strings.Contains(said, "DHCPv6, TFTP and HTTP at "+server+", agents at https://["+server+"]:8443") {
		t.Errorf("fettle serve says %q; want what it serves at %s", said, server)
	}
	if out := client.run(t, "rdisc6", "-1", "-r", "3", "cli0"); !strings.Contains(strings.Join(strings.Fields(out), ""), "Statefuladdressconf.:Yes") {
		t.Errorf("a machine that looks for a router is told %s; want DHCPv6", out)
	}
	r.write("dhclient.conf", "")
	client.run(t, "dhclient", "-6", "-1", "-cf", r.path("dhclient.conf"), "-lf", r.path("dhclient.leases"), "-pf", r.path("dhclient.pid"), "-sf", "/bin/true", "cli0")
	if got := r.leaseOf(mac); got != reserved {
		t.Errorf("lease of %s = %s; want %s", mac, got, reserved)
	}
	client.run(t, "ip", "addr", "add", reserved+"/64", "dev", "cli0", "nodad")
	for _, url := range []string{"http://[" + server + "]/boot/autoexec.ipxe", "tftp://[" + server + "]/autoexec.ipxe"} {
		if out := client.run(t, "curl", "-gsS", url); !strings.Contains(out, "http://["+server+"]/boot/script/") {
			t.Errorf("%s = %q; want scripts by IPv6", url, out)
		}
	}
	if out := r.ns.run(t, "ss", "-Hlun", "sport", "=", ":67"); strings.TrimSpace(out) != "" {
		t.Errorf("port 67 is open on a network without IPv4: %s", out)
	}
	sv.stop(t)
}
