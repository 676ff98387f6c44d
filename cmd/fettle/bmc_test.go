package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/web"
)

// bmcRig runs bmc commands in memory against two virtual BMCs; a third target
// is dead.
type bmcRig struct {
	mem     map[string]*vbmc.Memory
	srv     map[string]*vbmc.Server
	targets []bmc.Target
	server  func(*cli.Context) (*web.Client, error) // nil: directly
}

func newBMCRig(t *testing.T) *bmcRig {
	t.Helper()
	r := &bmcRig{mem: map[string]*vbmc.Memory{}, srv: map[string]*vbmc.Server{}}
	for _, name := range []string{"gpu-01", "gpu-02"} {
		in := virtualInfo()
		in.Name, in.Serial = name, "SN-"+name
		m := vbmc.NewMemory(in)
		s, err := vbmc.New(vbmc.Config{Chassis: m, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
		if err != nil {
			t.Fatal(err)
		}
		ts := httptest.NewTLSServer(s)
		t.Cleanup(ts.Close)
		u, err := url.Parse(ts.URL)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(ts.Certificate())
		r.mem[name], r.srv[name] = m, s
		r.targets = append(r.targets, bmc.Target{Name: name, Address: netip.MustParseAddrPort(u.Host), User: "root", Password: "s3cret", RootCAs: pool,
			Timeout: 5 * time.Second, PowerWait: time.Minute})
	}
	dead := r.targets[0]
	dead.Name, dead.Password = "gpu-03", "wrong"
	r.targets = append(r.targets, dead)
	return r
}

func (r *bmcRig) find(_ *cli.Context, sel []string) ([]bmc.Target, error) {
	var out []bmc.Target
	for _, t := range r.targets {
		for _, s := range sel {
			if s == t.Name {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

type runResult struct {
	stdout, stderr string
	err            error
	status         int
}

func (r *bmcRig) run(t *testing.T, stdin string, opt func(*env), args ...string) runResult {
	t.Helper()
	var out, errb bytes.Buffer
	home := t.TempDir()
	e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errb, log: slog.New(slog.DiscardHandler), getenv: func(name string) string {
		if name == "FETTLE_STATE_HOME" {
			return home
		}
		return ""
	}}
	if opt != nil {
		opt(e)
	}
	app := &cli.App{Name: "fettle", Writer: &out, ErrWriter: &errb, Commands: bmcCommands(e, r.find, r.server), ExitErrHandler: func(*cli.Context, error) {}}
	err := app.RunContext(t.Context(), append([]string{"fettle", "bmc"}, args...))
	return runResult{out.String(), errb.String(), err, exitStatus(err)}
}

func TestBMCCommands(t *testing.T) {
	asJSON := func(e *env) { e.json = true }
	tty := func(e *env) { e.tty = true }
	for _, tc := range []struct {
		name   string
		args   string
		stdin  string
		opt    func(*env)
		fault  vbmc.Fault
		status int
		out    []string // in stdout
		errs   []string // in the error or stderr
	}{
		{name: "power status", args: "power status gpu-01 gpu-02", out: []string{"gpu-01   off", "gpu-02   off"}, errs: []string{"2 machines, none failed"}},
		{name: "power on", args: "power on gpu-01", out: []string{"gpu-01   on"}},
		{name: "off needs a yes", args: "power off gpu-01 gpu-02", status: exitRefused, errs: []string{"power off 2 machines: gpu-01, gpu-02: say --yes"}},
		{name: "cycle needs a yes", args: "power cycle gpu-01", status: exitRefused, errs: []string{"power off and on again gpu-01: say --yes"}},
		{name: "reset needs a yes", args: "power reset gpu-01", status: exitRefused, errs: []string{"--yes"}},
		{name: "soft needs a yes", args: "power soft gpu-01", status: exitRefused, errs: []string{"shut down gpu-01: say --yes"}},
		{name: "a person says no", args: "power off gpu-01", stdin: "no\n", opt: tty, status: exitRefused, errs: []string{"power off gpu-01? Type yes: ", "not confirmed"}},
		{name: "a person says yes", args: "power cycle gpu-01", stdin: "yes\n", opt: tty, out: []string{"gpu-01   on"}},
		{name: "cycle", args: "power cycle --yes gpu-01", out: []string{"gpu-01   on"}},
		{name: "flag behind", args: "power cycle gpu-01 --yes", status: exitUsage, errs: []string{"put --yes before gpu-01"}},
		{name: "nobody", args: "power status", status: exitUsage, errs: []string{"say which machines"}},
		{name: "no match", args: "power status gpu-99", status: exitInput, errs: []string{"no machine matches gpu-99"}},
		{name: "boot", args: "boot pxe --uefi gpu-01", out: []string{"gpu-01   pxe once, UEFI"}},
		{name: "boot permanent", args: "boot disk --permanent gpu-01", out: []string{"disk permanently, legacy"}},
		{name: "boot http", args: "boot http gpu-01", out: []string{"http once, UEFI"}},
		{name: "identify", args: "identify on gpu-01", out: []string{"gpu-01   on"}},
		{name: "status", args: "status gpu-02", out: []string{"gpu-02", "SN-gpu-02", "Virtual GPU server", "OK"}},
		{name: "inventory", args: "inventory gpu-01", out: []string{"gpu       GPU8", "10de:2330", "52:54:00:fe:00:01", "VDISK0001", "1920 GB"}},
		{name: "json", args: "power status gpu-01 gpu-03", opt: asJSON, status: exitFailed, out: []string{`"power": "off"`, `"failed": 1`, `"machine": "gpu-03"`, "refused the user name or password"}, errs: []string{"1 of 2 machines failed"}},
		{name: "one fails", args: "power status gpu-03 gpu-02", status: exitFailed, out: []string{"gpu-03   failed", "gpu-02   off"}, errs: []string{"gpu-03: logging in: the BMC refused the user name or password", "1 of 2 machines failed"}},
		{name: "liar", args: "boot pxe --uefi gpu-01", fault: vbmc.Fault{Lie: true}, status: exitFailed, errs: []string{"changed nothing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newBMCRig(t)
			r.mem["gpu-01"].SetFault(tc.fault)
			if tc.fault.Lie {
				r.targets[0].Timeout = 2 * time.Second // half of it is for reading back
			}
			got := r.run(t, tc.stdin, tc.opt, strings.Fields(tc.args)...)
			if got.status != tc.status {
				t.Errorf("exit status %d (%v); want %d", got.status, got.err, tc.status)
			}
			for _, s := range tc.out {
				if !strings.Contains(got.stdout, s) {
					t.Errorf("stdout %q; want %q in it", got.stdout, s)
				}
			}
			said := got.stderr
			if got.err != nil {
				said += got.err.Error()
			}
			for _, s := range tc.errs {
				if !strings.Contains(said, s) {
					t.Errorf("said %q; want %q in it", said, s)
				}
			}
			if strings.Contains(got.stdout+said, "s3cret") {
				t.Error("the password was printed")
			}
			if e := (&env{}); tc.opt != nil {
				if tc.opt(e); e.json && !json.Valid([]byte(got.stdout)) {
					t.Errorf("stdout is not JSON: %s", got.stdout)
				}
			}
			if tc.status == exitRefused {
				for name, m := range r.mem {
					if n := len(m.Booted()); n != 0 {
						t.Errorf("%s was touched without a yes", name)
					}
				}
			}
			for name, s := range r.srv {
				if n := s.Sessions(); n != 0 {
					t.Errorf("%d sessions left on %s; want 0", n, name)
				}
			}
		})
	}
}

// TestServeVirtual drives bmc serve-virtual by curl and by bmc.
func TestServeVirtual(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no curl")
		}
		t.Skip("no curl on this machine")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pr, pw := io.Pipe()
	e := &env{stdout: pw, stderr: io.Discard, getenv: func(k string) string { return map[string]string{"FETTLE_BMC_PASSWORD": "s3cret"}[k] }, log: slog.New(slog.DiscardHandler)}
	app := &cli.App{Name: "fettle", Writer: io.Discard, ErrWriter: io.Discard, Commands: bmcCommands(e, nil, nil), ExitErrHandler: func(*cli.Context, error) {}}
	done := make(chan error, 1)
	go func() {
		err := app.RunContext(ctx, []string{"fettle", "bmc", "serve-virtual", "--listen", "127.0.0.1:0", "--ipmi-listen", "127.0.0.1:0"})
		pw.CloseWithError(io.EOF)
		done <- err
	}()
	var text string
	buf := make([]byte, 4096)
	for !strings.Contains(text, "certificate: sha256 ") || !strings.HasSuffix(text, "\n") {
		n, err := pr.Read(buf)
		if text += string(buf[:n]); err != nil {
			t.Fatalf("serve-virtual ended: %v %s", err, text)
		}
	}
	f := strings.Fields(text)
	at := slices.Index(f, "IPMI") + 2
	lan, base, pin := f[at], f[slices.IndexFunc(f, func(w string) bool { return strings.HasPrefix(w, "https://") })], f[len(f)-1]
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), curl, "-sSk", "--max-time", "10", "-u", "root:s3cret", base+"Systems/1/").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"PowerState":"Off"`) {
		t.Errorf("curl: %v %s", err, out)
	}
	c, err := bmc.Open(ctx, bmc.Target{Name: "v", Address: netip.MustParseAddrPort(u.Host), User: "root", Password: "s3cret", Fingerprint: pin, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetPower(ctx, bmc.PowerOn); err != nil {
		t.Error(err)
	}
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	// The same machine by IPMI.
	c, err = bmc.Open(ctx, bmc.Target{Name: "v", Address: netip.MustParseAddrPort(lan), Protocol: bmc.IPMI, User: "root", Password: "s3cret", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(ctx); err != nil || st.Power != bmc.On || st.Serial != virtualInfo().Serial {
		t.Errorf("Status() over IPMI = %+v, %v; want on, serial %s", st, err, virtualInfo().Serial)
	}
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	conn, err := tls.Dial("tcp", u.Host, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		conn.Close()
		t.Error("serve-virtual speaks TLS 1.1")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve-virtual ended with %v; want nil", err)
	}
}
