//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// rackNS is a network namespace that lives as long as its test.
type rackNS struct{ name string }

func newRackNS(t *testing.T) *rackNS {
	t.Helper()
	if os.Getuid() != 0 {
		e2eNeed(t, errors.New("not root"), "network namespaces need root")
	}
	for _, tool := range []string{"ip", "curl"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	var r [3]byte
	rand.Read(r[:])
	n := &rackNS{"frack-" + hex.EncodeToString(r[:])}
	out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput()
	if err != nil {
		e2eNeed(t, fmt.Errorf("%w: %s", err, out), "no network namespace")
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", n.name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %v: %s", n.name, err, out)
		}
	})
	n.run(t, "ip", "link", "set", "lo", "up")
	return n
}

// command runs a program inside: `ip netns exec` becomes it, so its process is
// the one that is started.
func (n *rackNS) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name}, args...)...)
	c.WaitDelay = 10 * time.Second
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is killed leaves nothing
	return c
}

func (n *rackNS) try(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := n.command(ctx, args...).CombinedOutput()
	return string(out), err
}

func (n *rackNS) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.try(t.Context(), args...)
	if err != nil {
		t.Fatalf("in %s: %s: %v\n%s", n.name, strings.Join(args, " "), err, out)
	}
	return out
}

// listen opens a TCP listener inside.
func (n *rackNS) listen(addr string) (net.Listener, error) {
	type result struct {
		ln  net.Listener
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		ln, err := net.Listen("tcp4", addr)
		done <- result{ln, err}
	}()
	r := <-done
	return r.ln, r.err
}

// rackSite is a site of two machines: node-01 is QEMU, its address comes from
// the pool; node-02 is a veth end with a reserved address.
const (
	rackSiteYAML = `name: rack
domain: rack.example.org
networks:
  - name: prov
    purpose: boot
    prefix: 10.90.0.0/24
    server: 10.90.0.1
    pools:
      - from: 10.90.0.100
        to: 10.90.0.149
  - name: bmc
    purpose: bmc
    prefix: 10.91.0.0/24
    vlan: 91
racks:
  - name: r1
    units: 42
images:
  - name: debian-12
    os: host
secrets:
  - name: bmc-default
    description: "user:password of the BMCs"
`
	rackMachinesYAML = `machines:
  - name: node-01
    serial: RACK0001
    firmware: uefi
    secure-boot: true
    cpus: 2
    memory: 2GiB
    bmc: {address: 10.91.0.11, protocol: redfish, secret: bmc-default}
    nics:
      - {mac: "02:00:00:90:00:11", network: prov, boot: true}
    disks:
      - {serial: RACKDISK0001, size: 8GiB}
    profile: base
  - name: node-02
    serial: RACK0002
    firmware: bios
    bmc: {address: 10.91.0.12, protocol: redfish, secret: bmc-default}
    nics:
      - {mac: "02:00:00:90:00:12", network: prov, address: 10.90.0.12, boot: true}
    disks:
      - {serial: RACKDISK0002, size: 8GiB}
    profile: base
`
	// The packages are those of examples/two-gpu: one image serves both tests.
	rackProfilesYAML = `profiles:
  - name: base
    image: debian-12
    layout: {disk: first}
    packages: [nvme-cli, pciutils]
    users:
      - name: ops
        sudo: true
        ssh-keys: [%q]
`
	rackBMCUser, rackBMCPassword = "admin", "rack-test"
)

// rackRig is a rack in a namespace: a bridge with the server's address, and
// fettle used through the built binary.
type rackRig struct {
	t      *testing.T
	ns     *rackNS
	dir    string
	bin    string
	store  string
	env    []string
	tokens string
}

func newRackRig(t *testing.T) *rackRig {
	t.Helper()
	if testing.Short() {
		t.Skip("network namespaces and the whole binary: not with -short")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &rackRig{t: t, ns: newRackNS(t), store: os.Getenv("FETTLE_STORE")}
	if r.store == "" {
		r.store = filepath.Join(repo, ".cache", "store")
	}
	if r.dir, err = os.MkdirTemp("/tmp", "fr"); err != nil { // sockets have short names
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	r.bin = e2eBinary(t, repo, r.dir)
	r.tokens = filepath.Join(r.dir, "tokens")
	r.env = append(os.Environ(), "HOME="+r.dir, "XDG_CONFIG_HOME="+r.path("config"), "FETTLE_STORE="+r.store,
		"FETTLE_SITE="+r.path("site"), "FETTLE_SERVER="+r.path("api.sock"), "FETTLE_LAB=", "FETTLE_STATE_HOME="+r.path("home"), "FETTLE_LABS="+r.path("labs"))

	r.ns.run(t, "ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	r.ns.run(t, "ip", "addr", "add", "10.90.0.1/24", "dev", "br0")
	r.ns.run(t, "ip", "link", "set", "br0", "up")
	r.ns.run(t, "ip", "link", "add", "bmc0", "type", "bridge")
	for _, a := range []string{"10.91.0.1/24", "10.91.0.11/32", "10.91.0.12/32"} {
		r.ns.run(t, "ip", "addr", "add", a, "dev", "bmc0")
	}
	r.ns.run(t, "ip", "link", "set", "bmc0", "up")

	r.want(0, "", "init", r.path("site"))
	r.write("site/site.yaml", rackSiteYAML)
	r.write("site/machines/r1.yaml", rackMachinesYAML)
	r.write("site/profiles/base.yaml", fmt.Sprintf(rackProfilesYAML, r.sshKey()))
	r.want(0, "", "site", "check")
	r.want(0, rackBMCUser+":"+rackBMCPassword+"\n", "secret", "set", "bmc-default")
	return r
}

func (r *rackRig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rackRig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// replace changes a part of a file that must be there.
func (r *rackRig) replace(name, old, with string) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		r.t.Fatalf("%s has no %q:\n%s", name, old, b)
	}
	r.write(name, strings.Replace(string(b), old, with, 1))
}

func (r *rackRig) sshKey() string {
	r.t.Helper()
	_, err := exec.LookPath("ssh-keygen")
	e2eNeed(r.t, err, "a program is missing")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rack", "-f", r.path("key")).CombinedOutput(); err != nil {
		r.t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	b, err := os.ReadFile(r.path("key.pub"))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// fettle runs a command inside the namespace to its end; image commands outside.
func (r *rackRig) fettle(bound time.Duration, stdin string, args ...string) e2eResult {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), bound)
	defer cancel()
	cmd := r.ns.command(ctx, append([]string{r.bin}, args...)...)
	if args[0] == "image" { // packages come over this machine's network, which the namespace does not have
		cmd = exec.CommandContext(ctx, r.bin, args...)
	}
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = r.env, strings.NewReader(stdin), &out, &errOut
	start := time.Now()
	err := cmd.Run()
	res := e2eResult{args: args, stdout: out.String(), stderr: errOut.String(), took: time.Since(start)}
	var ee *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.t.Fatalf("fettle %s: not done in %s\n%s%s", strings.Join(args, " "), bound, &out, &errOut)
	case errors.As(err, &ee):
		res.status = ee.ExitCode()
	case err != nil:
		r.t.Fatal(err)
	}
	return res
}

// want runs a command that ends with a status within seconds.
func (r *rackRig) want(status int, stdin string, args ...string) e2eResult {
	r.t.Helper()
	res := r.fettle(time.Minute, stdin, args...)
	if res.status != status {
		r.t.Fatalf("fettle %s = %d; want %d\n%s%s", strings.Join(args, " "), res.status, status, res.stdout, res.stderr)
	}
	return res
}

// rackServe is a fettle serve that runs.
type rackServe struct {
	cmd *exec.Cmd
	log *lockedBuffer
	end chan error
}

// lockedBuffer is a buffer that is read while a process writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts fettle serve and waits until it says what it serves.
func (r *rackRig) serve(args ...string) *rackServe {
	r.t.Helper()
	return r.start(append([]string{r.bin, "serve", "--state", r.path("state"), "--socket", r.path("api.sock")}, args...))
}

// start starts a command line that becomes fettle serve.
func (r *rackRig) start(args []string) *rackServe {
	r.t.Helper()
	s := &rackServe{log: &lockedBuffer{}, end: make(chan error, 1)}
	s.cmd = r.ns.command(context.Background(), args...)
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = r.env, s.log, s.log
	if err := s.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { s.end <- s.cmd.Wait() }()
	r.t.Cleanup(func() { s.cmd.Process.Kill() })
	r.await(time.Minute, "fettle serve is ready", func() (bool, error) {
		select {
		case err := <-s.end:
			return false, fmt.Errorf("it ended: %v\n%s", err, s.log)
		default:
		}
		return strings.Contains(s.log.String(), "  API at "), nil
	})
	return s
}

// stop is Ctrl-C: it ends within seconds with status 0.
func (s *rackServe) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.end:
		if err != nil {
			t.Errorf("fettle serve after Ctrl-C = %v; want status 0\n%s", err, s.log)
		}
		t.Logf("fettle serve ended %s after Ctrl-C", time.Since(start).Round(time.Millisecond))
	case <-time.After(10 * time.Second):
		t.Fatalf("fettle serve did not end within 10 s of Ctrl-C\n%s", s.log)
	}
}

// await polls until ok, for at most bound.
func (r *rackRig) await(bound time.Duration, what string, ok func() (bool, error)) {
	r.t.Helper()
	end := time.NewTimer(bound)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		if err != nil {
			r.t.Fatalf("waiting for: %s: %v", what, err)
		}
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			r.t.Fatalf("%s: not within %s", what, bound)
		}
	}
}

// siteCert is a certificate of the site's CA, as a BMC has that the technician
// has set up.
func (r *rackRig) siteCert(addr string) tls.Certificate {
	r.t.Helper()
	secrets, err := site.OpenSecrets(r.path("site"), r.path("config/fettle/identity.txt"))
	if err != nil {
		r.t.Fatal(err)
	}
	ca, err := site.LoadCA(r.path("site"), secrets)
	if err != nil {
		r.t.Fatal(err)
	}
	return issue(r.t, ca, addr)
}

func issue(t *testing.T, ca *site.CA, addr string) tls.Certificate {
	t.Helper()
	now := time.Now()
	cert, err := ca.Issue(nil, []netip.Addr{netip.MustParseAddr(addr)}, now.Add(-time.Hour), now.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// serveBMC serves a virtual BMC over HTTPS at an address inside.
func (r *rackRig) serveBMC(addr string, cert tls.Certificate, ch vbmc.Chassis) {
	r.t.Helper()
	r.serveVBMC(addr, cert, vbmc.Config{Chassis: ch})
}

// serveVBMC is serveBMC of a BMC of more than a chassis.
func (r *rackRig) serveVBMC(addr string, cert tls.Certificate, conf vbmc.Config) {
	r.t.Helper()
	conf.Accounts = []vbmc.Account{{User: rackBMCUser, Password: rackBMCPassword, Role: "Administrator"}}
	h, err := vbmc.New(conf)
	if err != nil {
		r.t.Fatal(err)
	}
	ln, err := r.ns.listen(addr + ":443")
	if err != nil {
		r.t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	}()
	r.t.Cleanup(func() { srv.Close(); <-done })
}
