//go:build linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// TestServeRefuses starts fettle serve in a namespace where something is
// wrong: each ends within seconds, with a status and a sentence that says what
// to do.
func TestServeRefuses(t *testing.T) {
	r := newRackRig(t)
	_, err := exec.LookPath("dnsmasq")
	e2eNeed(t, err, "a program is missing")
	serve := func(args ...string) []string {
		return append([]string{"serve", "--state", r.path("state"), "--socket", r.path("api.sock"), "--store", r.path("store")}, args...)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		before func(t *testing.T) (undo func())
		status int
		want   []string
	}{
		{name: "an argument", args: serve("site"), status: exitUsage, want: []string{"takes no arguments", "--site"}},
		{name: "no site", args: serve("--site", r.path("nowhere")), status: exitInput, want: []string{"cannot open the site folder", "fettle init"}},
		{name: "no such network", args: serve("--network", "pro"), status: exitUsage, want: []string{"--network pro", "no boot network"}},
		{name: "no such interface", args: serve("--interface", "prov=eth9"), status: exitMissing, want: []string{"there is no interface eth9", "ip -brief link"}},
		{name: "another interface", args: serve("--interface", "prov=bmc0"), status: exitMissing, want: []string{"interface bmc0 does not have its server address 10.90.0.1", "ip addr add 10.90.0.1/24 dev bmc0"}},
		{name: "no address", args: serve(), status: exitMissing, want: []string{"no interface of this machine has its server address 10.90.0.1", "ip addr add 10.90.0.1/24 dev INTERFACE"},
			before: func(t *testing.T) func() {
				r.ns.run(t, "ip", "addr", "del", "10.90.0.1/24", "dev", "br0")
				return func() { r.ns.run(t, "ip", "addr", "add", "10.90.0.1/24", "dev", "br0") }
			}},
		{name: "no identity", args: serve("--identity", r.path("nobody")), status: exitInput, want: []string{"the identity that opens the secrets cannot be read", "--identity"}},
		{name: "no CA", args: serve(), status: exitInput, want: []string{"ca.pem"},
			before: func(t *testing.T) func() {
				if err := os.Rename(r.path("site/ca.pem"), r.path("ca.pem")); err != nil {
					t.Fatal(err)
				}
				return func() { os.Rename(r.path("ca.pem"), r.path("site/ca.pem")) }
			}},
		{name: "listen without tokens", args: serve("--listen", "10.90.0.1:9443"), status: exitUsage, want: []string{"--listen needs --tokens", "fettle token add"}},
		{name: "listen at no address", args: serve("--listen", "10.99.0.1:9443", "--tokens", r.tokens), status: exitMissing, want: []string{"no interface of this machine has the address 10.99.0.1"}},
		{name: "dnsmasq has port 67", args: serve(), status: exitMissing, want: []string{"DHCP on network prov", "port 67 on br0", "another DHCP server runs on this machine", "ss -lunp"},
			before: func(t *testing.T) func() { return r.dnsmasq(t, "--interface=br0", "--bind-interfaces") }},
		{name: "dnsmasq has port 67 everywhere", args: serve(), status: exitMissing, want: []string{"another DHCP server runs on this machine"},
			before: func(t *testing.T) func() { return r.dnsmasq(t) }},
		{name: "not root", status: exitMissing, args: nil, want: []string{"port 67", "run as root, or give the program CAP_NET_RAW"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.before != nil {
				defer tc.before(t)()
			}
			var res e2eResult
			if tc.args != nil {
				res = r.fettle(20*time.Second, "", tc.args...)
			} else {
				res = r.asNobody(t)
			}
			if res.status != tc.status {
				t.Errorf("fettle %s = %d; want %d", strings.Join(tc.args, " "), res.status, tc.status)
			}
			said := strings.TrimSpace(res.stderr)
			t.Log(said)
			if strings.Contains(said, "\n") || !strings.HasPrefix(said, "fettle: ") {
				t.Errorf("it says more than one sentence:\n%s", said)
			}
			for _, w := range tc.want {
				if !strings.Contains(said, w) {
					t.Errorf("it says %q; want %q in it", said, w)
				}
			}
		})
	}
}

// dnsmasq runs a DHCP server in the namespace until undo.
func (r *rackRig) dnsmasq(t *testing.T, args ...string) (undo func()) {
	t.Helper()
	log := &lockedBuffer{}
	cmd := r.ns.command(t.Context(), append([]string{"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-facility=-", "--dhcp-leasefile=" + r.path("dnsmasq.leases"),
		"--dhcp-range=10.90.0.200,10.90.0.210"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	r.await(20*time.Second, "dnsmasq has port 67", func() (bool, error) {
		return strings.Contains(r.ns.run(t, "ss", "-lunp", "sport = :67"), "dnsmasq"), nil
	})
	return func() {
		cmd.Process.Kill()
		<-done
	}
}

// nobody is a command line that runs fettle serve as a user without root's
// privileges, but with these capabilities, in a folder of its own.
func (r *rackRig) nobody(t *testing.T, caps ...string) []string {
	t.Helper()
	_, err := exec.LookPath("setpriv")
	e2eNeed(t, err, "a program is missing")
	n := r.path("nobody")
	if err := os.MkdirAll(n, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{{"chmod", "0755", r.dir}, {"cp", "-r", r.path("site"), r.path("config"), n}, {"chown", "-R", "65534", n}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd, err, out)
		}
	}
	args := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	if len(caps) > 0 {
		with := "+" + strings.Join(caps, ",+")
		args = append(args, "--inh-caps="+with, "--ambient-caps="+with)
	}
	return append(args, "env", "HOME="+n, r.bin, "serve", "--site", n+"/site", "--identity", n+"/config/fettle/identity.txt",
		"--state", n+"/state", "--socket", n+"/api.sock", "--store", n+"/store")
}

// asNobody runs fettle serve without privileges, which ends by itself.
func (r *rackRig) asNobody(t *testing.T) e2eResult {
	t.Helper()
	out, err := r.ns.try(t.Context(), r.nobody(t)...)
	var ee *exec.ExitError
	if !errors.As(err, &ee) {
		t.Fatalf("fettle serve as nobody = %v; want it to fail\n%s", err, out)
	}
	return e2eResult{status: ee.ExitCode(), stderr: out}
}

// TestServeWithoutRoot: three capabilities are enough, so that one user can
// own site, images and server.
func TestServeWithoutRoot(t *testing.T) {
	r := newRackRig(t)
	sv := r.start(r.nobody(t, "net_bind_service", "net_raw", "net_admin"))
	if res := r.want(0, "", "machine", "ls", "--server", r.path("nobody/api.sock")); !strings.Contains(res.stdout, "node-02") {
		t.Errorf("fettle machine ls = %s; want node-02", res.stdout)
	}
	sv.stop(t)
}

// TestBMCOfItsOwnMaking is a BMC as it comes, with a certificate that its maker
// signed: the error names its fingerprint, and the site file may pin that.
func TestBMCOfItsOwnMaking(t *testing.T) {
	r := newRackRig(t)
	maker, err := site.NewCA("maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	info := virtualInfo()
	info.Serial = "RACK0002"
	r.serveBMC("10.91.0.12", issue(t, maker, "10.91.0.12"), vbmc.NewMemory(info))
	status := []string{"bmc", "status", "node-02"}
	res := r.want(exitFailed, "", status...)
	pin := regexp.MustCompile(`fingerprint: [0-9a-f]{64}`).FindString(res.stderr)
	if pin == "" {
		t.Fatalf("fettle bmc status says %q; want the fingerprint", res.stderr)
	}
	t.Log(strings.TrimSpace(res.stderr))
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "bmc: {address: 10.91.0.12,", "bmc: {"+pin+", address: 10.91.0.12,", 1))
	if res := r.want(0, "", status...); !strings.Contains(res.stdout, "RACK0002") {
		t.Errorf("fettle bmc status with the pin = %s; want the BMC's serial", res.stdout)
	}
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "bmc: {address: 10.91.0.12,", "bmc: {fingerprint: "+strings.Repeat("ab", 32)+", address: 10.91.0.12,", 1))
	if res := r.want(exitFailed, "", status...); !strings.Contains(res.stderr, "somebody else answers") {
		t.Errorf("fettle bmc status with another pin says %s; want that somebody else answers", res.stderr)
	}
}

// TestServeGoesOn is a server that lacks images and a secret, says so, reads
// its site again on SIGHUP and keeps it when it is wrong; a second one on the
// same state or socket is refused.
func TestServeGoesOn(t *testing.T) {
	r := newRackRig(t)
	r.want(0, "", "secret", "rm", "bmc-default")
	sv := r.serve("--store", r.path("store"), "--listen", "0.0.0.0:9443", "--tokens", r.tokens)
	r.says(sv, "API and pages at https://")
	for _, w := range []string{
		"warning: no machine can boot from the network: image agent is not built: fettle image build agent",
		"warning: no machine can boot from the network: image loaders is not built: fettle image build loaders",
		"warning: 2 machines: node-01, node-02 cannot be deployed: image debian-12+6e7cfbc5 is not built: fettle image build debian-12",
		"warning: 2 machines: node-01, node-02 cannot be switched on: BMC of node-02: there is no secret \"bmc-default\"",
		"set it: fettle secret set bmc-default",
		"warning: nobody has a token for the API yet: fettle token add --tokens " + r.tokens + " NAME",
	} {
		r.says(sv, w)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"the same state", []string{"serve", "--state", r.path("state"), "--socket", r.path("other.sock")}, "another process has the state directory open"},
		{"the same socket", []string{"serve", "--state", r.path("other"), "--socket", r.path("api.sock")}, "another fettle serves at " + r.path("api.sock") + ": stop it first"},
	} {
		if res := r.fettle(20*time.Second, "", tc.args...); res.status == 0 || !strings.Contains(res.stderr, tc.want) {
			t.Errorf("a second fettle serve on %s = %d, %s; want %q", tc.name, res.status, res.stderr, tc.want)
		}
	}
	if res := r.want(exitFailed, "", "machine", "deploy", "--yes", "node-01"); !strings.Contains(res.stderr, "fettle image build") {
		t.Errorf("deploying without an image says %q; want what to do", res.stderr)
	}

	hup := func() {
		t.Helper()
		if err := sv.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "serial: RACK0002", "serail: RACK0002", 1))
	hup()
	r.says(sv, "site not read again: the site folder has errors:\nmachines/r1.yaml:14:5: machine node-02 has no \"serial\"")
	r.says(sv, "machines/r1.yaml:15:5: unknown key \"serail\" of a machine; did you mean \"serial\"?")
	r.says(sv, "stays in force")
	r.write("site/machines/r1.yaml", strings.Replace(rackMachinesYAML, "name: node-02", "name: node-03", 1))
	hup()
	r.says(sv, "site rack read again (2 machines, revision ")
	if res := r.want(0, "", "machine", "ls"); !strings.Contains(res.stdout, "node-03") {
		t.Errorf("machines after a good reload = %s; want node-03", res.stdout)
	}
	r.write("site/site.yaml", strings.Replace(rackSiteYAML, "server: 10.90.0.1", "server: 10.90.0.2", 1))
	hup()
	r.says(sv, "its networks changed, which are served as they were at the start: start fettle serve again")
	sv.stop(t)
	if _, err := os.Stat(r.path("api.sock")); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestServeBMC gives commands about a BMC to a fettle serve that runs: it goes
// by its socket, changes are in its events, and after it has ended the same
// command goes directly.
func TestServeBMC(t *testing.T) {
	r := newRackRig(t)
	info := virtualInfo()
	info.Name, info.Serial = "node-02", "RACK0002"
	mem := vbmc.NewMemory(info)
	r.serveBMC("10.91.0.12", r.siteCert("10.91.0.12"), mem)
	sv := r.serve("--store", r.path("store"))
	r.says(sv, "API at ")
	by := "to the BMC by fettle at " + r.path("api.sock") + " (site rack)"
	for _, tc := range []struct {
		status int
		args   []string
		out    string // in stdout
		err    string // in stderr
	}{
		{0, []string{"bmc", "power", "status", "node-02"}, "node-02  off", by},
		{0, []string{"bmc", "power", "on", "node-02"}, "node-02  on", by},
		{exitRefused, []string{"bmc", "power", "off", "node-02"}, "", "power off node-02: say --yes"},
		{0, []string{"bmc", "sensors", "node-02"}, "Inlet Temp", by},
		{0, []string{"bmc", "power", "off", "--yes", "node-02"}, "node-02  off", by},
		{0, []string{"bmc", "power", "status", "--direct", "node-02"}, "node-02  off", "past any server's events"},
		{exitInput, []string{"bmc", "power", "status", "node-09"}, "", "node-09"},
	} {
		if res := r.want(tc.status, "", tc.args...); !strings.Contains(res.stdout, tc.out) || !strings.Contains(res.stderr, tc.err) {
			t.Errorf("fettle %v = %q, %q; want %q and %q", tc.args, res.stdout, res.stderr, tc.out, tc.err)
		}
	}
	events := r.want(0, "", "events", "--output", "json", "node-02").stdout
	for _, want := range []string{"asks the BMC: power-on", "the BMC did power-on", "asks the BMC: power-off", "the BMC did power-off", "user:root"} {
		if !strings.Contains(events, want) {
			t.Errorf("fettle events lacks %q:\n%s", want, events)
		}
	}
	sv.stop(t)
	if res := r.want(0, "", "bmc", "power", "status", "node-02"); !strings.Contains(res.stderr, "past any server's events") {
		t.Errorf("without a server: %q; want it directly", res.stderr)
	}
}

// says waits until a server has said something.
func (r *rackRig) says(sv *rackServe, want string) {
	r.t.Helper()
	end := time.Now().Add(10 * time.Second)
	r.await(time.Minute, want, func() (bool, error) {
		if !strings.Contains(sv.log.String(), want) && time.Now().After(end) {
			r.t.Errorf("fettle serve says\n%s\nwant in it: %s", sv.log, want)
			return true, nil
		}
		return strings.Contains(sv.log.String(), want), nil
	})
}
