//go:build linux

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

const only6Server = "2001:db8:90::1"

// only6 takes IPv4 from the rack's boot network and its bridge. The bridge has
// no address of the site's then.
func (r *rackRig) only6(t *testing.T) {
	t.Helper()
	text := strings.Replace(rackSiteYAML, `    prefix: 10.90.0.0/24
    server: 10.90.0.1
    pools:
      - from: 10.90.0.100
        to: 10.90.0.149
`, `    ipv6:
      prefix: 2001:db8:90::/64
      server: `+only6Server+`
      pools: [{from: 2001:db8:90::100, to: 2001:db8:90::1ff}]
`, 1)
	if text == rackSiteYAML {
		t.Fatal("the rig's site is another")
	}
	r.write("site/site.yaml", text)
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "address: 10.90.0.12, boot", "ipv6: 2001:db8:90::12, boot", 1))
	r.want(0, "", "site", "check")
	r.ns.run(t, "ip", "-4", "addr", "flush", "dev", "br0")
}

// TestServeOnlyIPv6 serves a boot network without IPv4 on an interface without
// it: a real DHCPv6 client gets its reserved address, and boot files.
func TestServeOnlyIPv6(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"dhclient", "rdisc6"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	const mac, reserved, server = "02:00:00:90:00:12", "2001:db8:90::12", only6Server
	r.only6(t)

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

// TestServeRackIPv6 deploys a machine whose firmware, agent and system have IPv6
// alone, from power-on to ready.
func TestServeRackIPv6(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"ssh", "mmdebstrap"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	r.only6(t)
	r.ns.run(t, "ip", "addr", "add", only6Server+"/64", "dev", "br0", "nodad")
	s, err := site.Load(r.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := s.Machine("node-01")
	q := newQEMUChassis(t, r, m.UUID)
	args := q.args
	q.args = func(network bool) []string {
		// romfile=: QEMU's own iPXE would ask before the firmware does.
		return strings.Split(strings.NewReplacer("opt/org.tianocore/IPv6PXESupport", "opt/org.tianocore/IPv4PXESupport",
			"virtio-net-pci,", "virtio-net-pci,romfile=,").Replace(strings.Join(args(network), "\x00")), "\x00")
	}
	r.serveBMC("10.91.0.11", r.siteCert("10.91.0.11"), q)
	if res := r.fettle(rackBuildWait, "", "image", "build", "all"); res.status != 0 {
		t.Fatalf("fettle image build all = %d\n%s%s", res.status, res.stdout, res.stderr)
	}
	r.awaitLinkLocal(t, r.ns, "br0")
	sv := r.serve()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
			t.Logf("console:\n%s", tail(r.path("console"), 6000))
		}
	})
	res := r.fettle(rackDeployWait, "", "machine", "deploy", "--yes", "node-01")
	t.Logf("fettle machine deploy --yes node-01, in %s:\n%s%s", res.took.Round(time.Second), res.stdout, res.stderr)
	if res.status != 0 {
		t.Fatalf("fettle machine deploy = %d; want 0\n%s", res.status, r.want(0, "", "machine", "why", "node-01").stdout)
	}
	addr := r.leaseOf("02:00:00:90:00:11")
	out := r.ns.run(t, "ssh", "-F", "none", "-i", r.path("key"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "ops@"+addr, "hostname -f; ip -4 -brief address show scope global")
	if want := "node-01.rack.example.org\n"; out != want {
		t.Errorf("over ssh to %s = %q; want %q, and no IPv4", addr, out, want)
	}
	sv.stop(t)
}
