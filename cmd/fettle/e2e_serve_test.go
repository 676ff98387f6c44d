//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

const (
	rackBuildWait  = 25 * time.Minute
	rackDeployWait = 25 * time.Minute
)

// TestServeRack is the technician's path on a real bridge in a network
// namespace: fettle serve, a machine (QEMU, UEFI with Secure Boot on) with a BMC,
// from power-on to a command over ssh: the agent and the installed system boot
// by signed programs alone. Its address comes from the pool, so the token of its run
// is bound to a lease.
func TestServeRack(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"ssh", "mmdebstrap"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	s, err := site.Load(r.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := s.Machine("node-01")
	q := newQEMUChassis(t, r, m.UUID)
	r.serveBMC("10.91.0.11", r.siteCert("10.91.0.11"), q)
	if res := r.fettle(rackBuildWait, "", "image", "build", "all"); res.status != 0 {
		t.Fatalf("fettle image build all = %d\n%s%s", res.status, res.stdout, res.stderr)
	}
	sv := r.serve()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
			t.Logf("console:\n%s", tail(r.path("console"), 6000))
		}
	})
	if strings.Contains(sv.log.String(), "warning") {
		t.Errorf("fettle serve warns of a site that lacks nothing:\n%s", sv.log)
	}

	res := r.fettle(rackDeployWait, "", "machine", "deploy", "--yes", "node-01")
	t.Logf("fettle machine deploy --yes node-01, in %s:\n%s%s", res.took.Round(time.Second), res.stdout, res.stderr)
	if res.status != 0 {
		t.Fatalf("fettle machine deploy = %d; want 0\n%s", res.status, r.want(0, "", "machine", "why", "node-01").stdout)
	}
	if got := q.booted(); got != "network disk" {
		t.Errorf("the BMC started the machine from: %s; want network, then disk", got)
	}
	var machines []web.Machine
	decode(t, r.want(0, "", "machine", "ls", "--output", "json").stdout, &machines)
	for _, m := range machines {
		if m.Name == "node-01" {
			t.Logf("seconds in each phase: %v", m.Status.Seconds)
			if m.Status.Phase != state.Ready {
				t.Errorf("phase of node-01 = %s; want ready", m.Status.Phase)
			}
		}
	}
	addr := r.leaseOf("02:00:00:90:00:11")
	out := r.ns.run(t, "ssh", "-F", "none", "-i", r.path("key"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "ops@"+addr, "hostname -f; lsblk -dno SERIAL /dev/vda; sudo id -u; "+
			"sudo dmesg | grep -o 'secureboot: Secure boot enabled'; od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	if want := "node-01.rack.example.org\nRACKDISK0001\n0\nsecureboot: Secure boot enabled\n   1\n"; out != want {
		t.Errorf("over ssh to %s = %q; want %q", addr, out, want)
	}

	console, err := os.ReadFile(r.path("console"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(console), "secureboot: Secure boot enabled"); n == 0 {
		t.Errorf("the agent's kernel did not say that Secure Boot is on:\n%s", tail(r.path("console"), 4000))
	}

	// A restarted server knows what it did.
	sv.stop(t)
	sv = r.serve()
	decode(t, r.want(0, "", "machine", "ls", "--output", "json").stdout, &machines)
	for _, m := range machines {
		if m.Name == "node-01" && m.Status.Phase != state.Ready {
			t.Errorf("phase of node-01 after a restart of fettle serve = %s; want ready", m.Status.Phase)
		}
	}
	// BMC commands go by the server that runs, which notes what they change;
	// past it only when somebody says so.
	if res := r.want(0, "", "bmc", "power", "status", "node-01"); !strings.Contains(res.stdout, "node-01  on") || !strings.Contains(res.stderr, "by fettle at "+r.path("api.sock")+" (site rack)") {
		t.Errorf("fettle bmc beside fettle serve = %q, %q; want node-01 on, by the server", res.stdout, res.stderr)
	}
	if res := r.want(0, "", "bmc", "power", "on", "node-01"); !strings.Contains(res.stdout, "node-01  on") { // it is already
		t.Errorf("fettle bmc power on = %q", res.stdout)
	}
	if res := r.want(0, "", "events", "node-01"); strings.Count(res.stdout, "asks the BMC: power-on")+strings.Count(res.stdout, "the BMC did power-on") != 2 {
		t.Errorf("the events do not tell of fettle bmc power on:\n%s", res.stdout)
	}
	if res := r.want(0, "", "bmc", "power", "status", "--direct", "node-01"); !strings.Contains(res.stdout, "node-01  on") {
		t.Errorf("fettle bmc power status --direct = %q; want node-01 on", res.stdout)
	}
	sv.stop(t)
}

// leaseOf is the address that the server leased to a MAC.
func (r *rackRig) leaseOf(mac string) string {
	r.t.Helper()
	var leases []state.Lease
	decode(r.t, r.ns.run(r.t, "curl", "-sSf", "--unix-socket", r.path("api.sock"), "http://fettle/api/v1/leases"), &leases)
	for _, l := range leases {
		if l.MAC.String() == mac {
			return l.Addr.String()
		}
	}
	r.t.Fatalf("no lease of %s in %+v", mac, leases)
	return ""
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// TestServeToPeers asks a fettle serve what other programs ask: dhclient on a
// veth for the address that the site reserves and for one of the pool, curl
// and tftp for a loader, curl with and without a token for the API.
func TestServeToPeers(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"dhclient", "tftp", "curl"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	if res := r.fettle(rackBuildWait, "", "image", "build", "loaders"); res.status != 0 {
		t.Fatalf("fettle image build loaders = %d\n%s", res.status, res.stderr)
	}
	token := strings.TrimSpace(r.want(0, "", "token", "add", "--tokens", r.tokens, "alice").stdout)
	sv := r.serve("--listen", "10.90.0.1:9443", "--tokens", r.tokens)

	cli := newRackNS(t)
	cli.run(t, "ip", "link", "add", "cli0", "address", "02:00:00:90:00:12", "type", "veth", "peer", "name", "veth1", "netns", r.ns.name)
	r.ns.run(t, "ip", "link", "set", "veth1", "master", "br0", "up")
	cli.run(t, "ip", "link", "set", "cli0", "up")
	r.write("dhclient.sh", "#!/bin/sh\nif [ -n \"$new_ip_address\" ]; then echo $new_ip_address $new_host_name > "+r.path("got")+"; fi\n")
	r.write("dhclient.conf", "")
	if err := os.Chmod(r.path("dhclient.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, mac, want string }{
		{"reserved", "02:00:00:90:00:12", "10.90.0.12 node-02"},
		{"from the pool", "02:00:00:90:00:77", "10.90.0.100"},
	} {
		cli.run(t, "ip", "link", "set", "cli0", "address", tc.mac)
		log := cli.run(t, "dhclient", "-4", "-1", "-v", "-cf", r.path("dhclient.conf"), "-lf", r.path("leases"), "-pf", r.path("pid"), "-sf", r.path("dhclient.sh"), "cli0")
		cli.run(t, "dhclient", "-4", "-x", "-cf", r.path("dhclient.conf"), "-lf", r.path("leases"), "-pf", r.path("pid"), "-sf", r.path("dhclient.sh"), "cli0")
		os.Remove(r.path("leases"))
		if got := strings.TrimSpace(tail(r.path("got"), 200)); got != tc.want {
			t.Errorf("address %s: dhclient got %q; want %q\n%s", tc.name, got, tc.want, log)
		}
	}
	cli.run(t, "ip", "addr", "add", "10.90.0.100/24", "dev", "cli0")

	for name, path := range map[string]string{"http": "/boot/files/loaders/undionly.kpxe", "http with a double slash": "//boot/files/loaders/undionly.kpxe"} {
		out := cli.run(t, "curl", "-sS", "--path-as-is", "-o", r.path("http"), "-w", "%{http_code}", "http://10.90.0.1"+path)
		if out != "200" {
			t.Errorf("%s: curl = %s; want 200", name, out)
		}
	}
	said := cli.run(t, "tftp", "-m", "binary", "10.90.0.1", "-c", "get", "undionly.kpxe", r.path("tftp"))
	if a, b := tail(r.path("http"), 1<<24), tail(r.path("tftp"), 1<<24); a != b || len(a) < 50_000 {
		t.Errorf("undionly.kpxe is %d bytes by HTTP and %d by TFTP; want the same loader\ntftp: %s\nserve: %s", len(a), len(b), said, sv.log)
	}

	ca, api := r.path("site/ca.pem"), "https://10.90.0.1:9443"
	// As firmware without elliptic curves speaks, and as anybody else does.
	for name, suites := range map[string][]string{"RSA key exchange": {"--tls-max", "1.2", "--ciphers", "AES128-GCM-SHA256"}, "TLS 1.3": {"--tlsv1.3"}} {
		args := append([]string{"curl", "-sS", "--cacert", ca, "-o", r.path("https"), "-w", "%{http_code}"}, suites...)
		if out := cli.run(t, append(args, "https://10.90.0.1:8444/boot/files/loaders/undionly.kpxe")...); out != "200" || tail(r.path("https"), 1<<24) != tail(r.path("http"), 1<<24) {
			t.Errorf("boot HTTPS by %s: curl = %s; want 200 and the loader that HTTP gives", name, out)
		}
	}
	for _, tc := range []struct {
		name string
		want string
		args []string
	}{
		{"no token", "401", []string{"--cacert", ca, api + "/api/v1/machines"}},
		{"a wrong token", "401", []string{"--cacert", ca, "-H", "Authorization: Bearer fettle_no", api + "/api/v1/machines"}},
		{"the token", "200", []string{"--cacert", ca, "-H", "Authorization: Bearer " + token, api + "/api/v1/machines"}},
		{"the pages", "200", []string{"--cacert", ca, "-L", api + "/"}},
	} {
		out := cli.run(t, append([]string{"curl", "-sS", "-o", r.path("body"), "-w", "%{http_code}"}, tc.args...)...)
		if out != tc.want {
			t.Errorf("%s: curl = %s; want %s\n%s", tc.name, out, tc.want, tail(r.path("body"), 1000))
		}
		if tc.name == "the token" && !strings.Contains(tail(r.path("body"), 1<<20), `"node-02"`) {
			t.Errorf("machines by the API = %s; want node-02 among them", tail(r.path("body"), 1000))
		}
	}
	if out, err := cli.try(t.Context(), "curl", "-sS", api+"/api/v1/health"); err == nil {
		t.Errorf("curl without the site's CA = %q; want it to refuse the certificate", out)
	}
	r.write("token", token+"\n")
	res := r.want(0, "", "machine", "ls", "--server", api, "--token-file", r.path("token"))
	if !strings.Contains(res.stdout, "node-02") {
		t.Errorf("fettle machine ls --server %s = %q; want node-02", api, res.stdout)
	}
	sv.stop(t)
}
