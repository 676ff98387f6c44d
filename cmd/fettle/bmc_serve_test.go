package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// servedRig is a bmcRig whose commands go by a server.
type servedRig struct {
	*bmcRig
	store *state.Store
	turns *provision.Turns
	http  *httptest.Server
	role  web.Role
	dir   string // the server's, for BMCs
	token map[web.Role]string

	site    atomic.Pointer[site.Site]
	secrets *site.Secrets
}

func newServedRig(t *testing.T) *servedRig {
	t.Helper()
	r := &servedRig{bmcRig: newBMCRig(t), turns: provision.NewTurns(nil, nil), role: web.RoleAdmin, dir: t.TempDir(), token: map[web.Role]string{}}
	dir := t.TempDir()
	text := strings.Replace(rotateSite, "machines:", "images: [{name: deb, os: debian, suite: bookworm}]\nprofiles: [{name: train, image: deb, bios: {sriov: true, PowerOnDelay: 30}}]\nmachines:", 1)
	text = strings.Replace(text, "serial: S1,", "serial: S1, profile: train, disks: [{serial: D1}],", 1)
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.secrets, _, err = site.InitSecrets(dir, filepath.Join(t.TempDir(), "identity.txt")); err != nil {
		t.Fatal(err)
	}
	if err := r.secrets.Set("shared", site.NewSecret("root:s3cret")); err != nil {
		t.Fatal(err)
	}
	reread := func() (*site.Site, error) {
		s, err := site.Load(dir)
		if err == nil {
			r.site.Store(s)
		}
		return s, err
	}
	if _, err := reread(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if r.store, err = state.Open(t.Context(), state.Config{Dir: t.TempDir(), Logger: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })
	sv := &services{site: r.site.Load, log: log, turns: r.turns, bmcDir: r.dir, target: func(m site.Machine) (bmc.Target, error) {
		i := slices.IndexFunc(r.targets, func(t bmc.Target) bool { return t.Name == m.Name })
		to := r.targets[i]
		if m.Name == "gpu-03" { // the site has a wrong password for it
			return to, nil
		}
		v, err := r.secrets.Get(m.BMC.Secret)
		if err != nil {
			return to, err
		}
		to.User, to.Password, err = credentials(m.BMC.Secret, v.Reveal())
		return to, err
	}}
	sv.passwords = &provision.SitePasswords{Secrets: r.secrets, Site: r.site.Load, Reread: reread}
	bmcs, err := sv.bmcs(r.store)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens")
	for _, role := range []web.Role{web.RoleViewer, web.RoleOperator, web.RoleAdmin} {
		if r.token[role], err = web.AddToken(file, "a-"+string(role), role); err != nil {
			t.Fatal(err)
		}
	}
	tokens, err := web.OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := web.New(t.Context(), web.Config{Store: r.store, Site: sv.site, Operator: nobody{}, Authenticate: web.Authenticator(tokens), BMCs: bmcs})
	if err != nil {
		t.Fatal(err)
	}
	r.http = httptest.NewServer(srv)
	t.Cleanup(func() { srv.Close(); r.http.Close() })
	r.server = func(c *cli.Context) (*web.Client, error) {
		if c.Bool("direct") {
			return nil, nil
		}
		return web.NewClient(r.http.URL, nil, r.token[r.role]), nil
	}
	return r
}

// nobody runs no machines.
type nobody struct{ web.Operator }

// TestBMCServed gives commands directly and by a server, to racks that are
// alike: both print the same.
func TestBMCServed(t *testing.T) {
	image := filepath.Join(t.TempDir(), "bios.bin")
	if err := os.WriteFile(image, vbmc.FirmwareImage("BIOS", "2.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	served, direct := newServedRig(t), newBMCRig(t)
	moment := regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z|-?\d+s\b`)
	for _, args := range []string{
		"power status gpu-01 gpu-02", "power on gpu-01", "power off gpu-01", "power off --yes gpu-01", "power cycle --yes gpu-01", "power nmi --yes gpu-01",
		"boot pxe --uefi gpu-01 gpu-02", "boot http gpu-01", "identify on gpu-01", "status gpu-01", "inventory gpu-01", "sensors gpu-01", "sensors --problems gpu-01",
		"telemetry --name psu gpu-01", "sel gpu-01", "sel --clear --yes gpu-01", "media insert --image http://files.example.org/a.iso gpu-01", "media show gpu-01", "media eject gpu-01",
		"secure-boot on gpu-01", "secure-boot show gpu-01", "secure-boot off gpu-01", "secure-boot reset-keys --yes --to none gpu-01",
		"limit set --watts 3000 gpu-01", "limit show gpu-01", "limit off gpu-01", "limit set --watts 1 gpu-01", "network show gpu-01",
		"clock show gpu-01", "clock set gpu-01", "firmware show gpu-01", "firmware update --yes --file " + image + " gpu-01", "users show gpu-01",
		"bios show --name c-st gpu-01", "bios plan --set sriov=on gpu-01 gpu-02", "bios plan --set Nonsense=1 gpu-01", "bios apply --set sriov=on gpu-01", "bios apply --yes --set sriov=on gpu-01",
		"bios plan --set sriov=on gpu-01", "bios apply --yes --restart --wait 2s --set sriov=on --set PowerOnDelay=30 gpu-01",
		"power status gpu-01 gpu-03", "network set --yes --interface 1 --address 192.0.2.9/24 gpu-02", "reset --yes gpu-02",
	} {
		for _, js := range []bool{false, true} {
			if js && (strings.Contains(args, "yes") || strings.Contains(args, "set")) {
				continue // once is enough for what changes something
			}
			opt := func(e *env) { e.json = js }
			want, got := direct.run(t, "", opt, strings.Fields(args)...), served.run(t, "", opt, strings.Fields(args)...)
			if got.status != want.status || moment.ReplaceAllString(got.stdout, "T") != moment.ReplaceAllString(want.stdout, "T") {
				t.Errorf("bmc %s by a server = %d %v\n%s\n%s; directly %d %v\n%s", args, got.status, got.err, got.stdout, got.stderr, want.status, want.err, want.stdout)
			}
			if !strings.Contains(got.stderr, "by fettle at http://127.0.0.1:") || !strings.Contains(got.stderr, "(site s)") {
				t.Errorf("bmc %s by a server said %s; want which way it went", args, got.stderr)
			}
		}
	}
	if got := served.run(t, "", nil, "bios", "plan", "gpu-01"); got.status != exitOK || !strings.Contains(got.stdout, "SriovGlobalEnable") || !strings.Contains(got.stdout, "PowerOnDelay") {
		t.Errorf("bios plan of the profile by a server = %d %v\n%s", got.status, got.err, got.stdout)
	}
	if got := served.run(t, "", nil, "bios", "plan", "gpu-02"); got.status != exitFailed || !strings.Contains(got.err.Error(), "--set NAME=VALUE") {
		t.Errorf("bios plan without a profile by a server = %d %v", got.status, got.err)
	}
	if got := served.run(t, "", nil, "power", "status", "gpu-99"); got.status != exitInput || !strings.Contains(got.err.Error(), "gpu-99") {
		t.Errorf("a machine that is not there, by a server = %d %v", got.status, got.err)
	}
	out := filepath.Join(t.TempDir(), "gpu-01.tar.zst")
	if got := served.run(t, "", nil, "record", "--out", out, "gpu-01"); got.status != exitOK {
		t.Errorf("record by a server = %d %v", got.status, got.err)
	}
	if tree, err := readTree(out); err != nil || tree.Len() < 100 {
		t.Errorf("the recording by a server: %v, %v", tree, err)
	}
	if left, err := filepath.Glob(filepath.Join(served.dir, "firmware-*")); err != nil || len(left) > 0 {
		t.Errorf("firmware images left: %v, %v", left, err)
	}
	for name, s := range served.srv {
		if n := s.Sessions(); n != 0 {
			t.Errorf("%d sessions left on %s", n, name)
		}
	}
	if held := served.turns.Held(); len(held) > 0 {
		t.Errorf("still held: %v", held)
	}
}

// TestBMCServedEvents: who changed what is in the events before and after, and
// what was only read is not.
func TestBMCServedEvents(t *testing.T) {
	r := newServedRig(t)
	for _, args := range []string{"power on gpu-01 gpu-03", "power status gpu-01", "power off gpu-01", "media insert --image http://u:hunter2@files.example.org/a.iso gpu-02"} {
		r.run(t, "", nil, strings.Fields(args)...)
	}
	events, err := r.store.Events(t.Context(), state.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		var d state.BMCData
		if err := json.Unmarshal(e.Data, &d); err != nil || e.Kind != state.KindBMC || d.Ended != strings.HasPrefix(e.Text, "the BMC did") {
			t.Errorf("event %+v, data %s: %v", e, e.Data, err)
		}
		if strings.Contains(string(e.Data)+e.Text, "hunter2") {
			t.Errorf("a password is in the events: %s", e.Data)
		}
		text, _, _ := strings.Cut(e.Text, ": gpu-03")
		got = append(got, e.Machine+" "+e.Actor+" "+text)
	}
	slices.Sort(got)
	want := []string{
		"gpu-01 user:a-admin asks the BMC: power-on", "gpu-01 user:a-admin the BMC did power-on",
		"gpu-02 user:a-admin asks the BMC: media-insert", "gpu-02 user:a-admin the BMC did media-insert",
		"gpu-03 user:a-admin asks the BMC: power-on", "gpu-03 user:a-admin the BMC did not do power-on",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestBMCServedRefuses: roles, a yes, arguments and turns are the server's to
// check.
func TestBMCServedRefuses(t *testing.T) {
	r := newServedRig(t)
	client := func(role web.Role) *web.Client { return web.NewClient(r.http.URL, nil, r.token[role]) }
	ask := func(role web.Role, op string, req state.BMCRequest) error {
		return client(role).Operate(t.Context(), op, req, func(state.BMCStep) {})
	}
	one := func(args string, yes bool) state.BMCRequest {
		return state.BMCRequest{Machines: []string{"gpu-01"}, Args: json.RawMessage(args), Yes: yes}
	}
	for _, tc := range []struct {
		name string
		role web.Role
		op   string
		req  state.BMCRequest
		want string // "" = done
	}{
		{"a viewer reads", web.RoleViewer, "power", one("", false), ""},
		{"a viewer switches nothing on", web.RoleViewer, "power-on", one("", false), "has the role viewer, and this needs operator"},
		{"an operator does", web.RoleOperator, "power-on", one("", false), ""},
		{"an operator moves no BMC", web.RoleOperator, "network-set", one("{}", true), "needs admin"},
		{"off without a yes", web.RoleAdmin, "power-off", one("", false), "nobody has agreed to it: this would power off gpu-01"},
		{"an operator changes no password", web.RoleOperator, "users-rotate", one("", true), "needs admin"},
		{"passwords without a yes", web.RoleAdmin, "users-rotate", one("", false), "nobody has agreed to it: this would change the BMC password of gpu-01"},
		{"no such canary", web.RoleAdmin, "users-rotate", one(`{"canary": "gpu-02"}`, true), "gpu-02 is none of the selected machines"},
		{"no such argument of a rotation", web.RoleAdmin, "users-rotate", one(`{"password": "x"}`, true), `unknown field "password"`},
		{"no such operation", web.RoleAdmin, "explode", one("", true), `no operation "explode"`},
		{"no such argument", web.RoleAdmin, "identify", one(`{"blink": true}`, false), `unknown field "blink"`},
		{"no image", web.RoleAdmin, "firmware-update", one(`{"file": "../../etc/passwd"}`, true), "no firmware image that was uploaded"},
		{"an image that is gone", web.RoleAdmin, "firmware-update", one(`{"file": "`+strings.Repeat("ab", 16)+`"}`, true), "upload it again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := ask(tc.role, tc.op, tc.req)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%s as %s: %v; want %q", tc.op, tc.role, err, tc.want)
			}
		})
	}
	if err := ask(web.RoleAdmin, "power-off", one("", false)); !errors.Is(err, state.ErrNeedsYes) {
		t.Errorf("power-off without a yes: %v; want ErrNeedsYes", err)
	}
	if p, err := r.mem["gpu-01"].Power(t.Context()); err != nil || p != vbmc.On {
		t.Errorf("gpu-01 is %v, %v; want on: nobody agreed to anything else", p, err)
	}

	// A run of the server's has the BMC: others wait, are told for whom, and
	// then give up; once it is free they go on.
	release, err := r.turns.Take(t.Context(), provision.ToChange, "gpu-01", "fettle", "a run of the machine", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	req := one("", false)
	req.Machines, req.Wait = []string{"gpu-01", "gpu-02"}, 50
	steps := map[string][]string{}
	if err := client(web.RoleViewer).Operate(t.Context(), "power", req, func(s state.BMCStep) { steps[s.Machine] = append(steps[s.Machine], s.Text+s.Error+string(s.Value)) }); err != nil {
		t.Fatal(err)
	}
	held := regexp.MustCompile(`^waits for fettle for \ds \(a run of the machine\)\|gpu-01: its BMC is held by fettle for \ds \(a run of the machine\), and was not free within 50ms`)
	if got := strings.Join(steps["gpu-01"], "|"); !held.MatchString(got) {
		t.Errorf("gpu-01, which is held: %s", got)
	}
	if got := strings.Join(steps["gpu-02"], "|"); got != `"off"` {
		t.Errorf("gpu-02, which is free: %s; want off", got)
	}
	if v, err := client(web.RoleViewer).BMC(t.Context()); err != nil || len(v.Held) != 1 || v.Held[0].Machine != "gpu-01" || len(v.Operations) != len(bmc.Tasks())+1 {
		t.Errorf("GET /bmc = %+v, %v; want gpu-01 held", v, err)
	}
	req.Wait = 0
	err = client(web.RoleViewer).Operate(t.Context(), "power", req, func(s state.BMCStep) {
		if s.Text != "" {
			release() // once it is known that somebody waits
		}
		if s.Error != "" {
			t.Error(s.Error)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBMCServedInterrupted: who goes away while a BMC is being asked leaves no
// session and no turn behind.
func TestBMCServedInterrupted(t *testing.T) {
	r := newServedRig(t)
	r.mem["gpu-01"].SetFault(vbmc.Fault{Delay: 10 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(200*time.Millisecond, cancel)
	defer timer.Stop()
	err := web.NewClient(r.http.URL, nil, r.token[web.RoleAdmin]).Operate(ctx, "power", state.BMCRequest{Machines: []string{"gpu-01"}}, func(state.BMCStep) {})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Operate() of who left = %v; want canceled", err)
	}
	for end := time.Now().Add(15 * time.Second); len(r.turns.Held()) > 0; {
		if time.Now().After(end) {
			t.Fatalf("still held: %v", r.turns.Held())
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// loudPort is a serial port that greets, and says what was typed in capitals.
type loudPort struct{}

func (loudPort) Attach(_ context.Context, rw io.ReadWriter) error {
	if _, err := io.WriteString(rw, "login: "); err != nil {
		return err
	}
	b := make([]byte, 256)
	for {
		n, err := rw.Read(b)
		if n > 0 {
			if _, err := rw.Write(bytes.ToUpper(b[:n])); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// TestBMCServedConsole: a console by the server, which keeps what was said and
// who looked.
func TestBMCServedConsole(t *testing.T) {
	r := newServedRig(t)
	s, err := vbmc.New(vbmc.Config{Chassis: r.mem["gpu-01"], Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}, Console: loudPort{}})
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.ServeIPMI(ctx, udp) }()
	t.Cleanup(func() { cancel(); <-served })
	port := udp.LocalAddr().(*net.UDPAddr).Port
	conn, err := web.NewClient(r.http.URL, nil, r.token[web.RoleOperator]).Console(t.Context(), "gpu-01", false, port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	said := ""
	until := func(want string) {
		t.Helper()
		for b := make([]byte, 256); !strings.Contains(said, want); {
			n, err := conn.Read(b)
			if said += string(b[:n]); err != nil {
				t.Fatalf("the console said %q, %v; want %q", said, err, want)
			}
		}
	}
	until("login: ")
	if _, err := io.WriteString(conn, "root\n"); err != nil {
		t.Fatal(err)
	}
	until("ROOT\n")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for end := time.Now().Add(15 * time.Second); len(texts) < 2; {
		events, err := r.store.Events(t.Context(), state.Query{Machine: "gpu-01"})
		if err != nil || time.Now().After(end) {
			t.Fatalf("events after the console: %q, %v", texts, err)
		}
		texts = nil
		for _, e := range events {
			texts = append(texts, e.Actor+" "+e.Text)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if want := []string{"user:a-operator opens the serial console", "user:a-operator left the serial console"}; !slices.Equal(texts, want) {
		t.Errorf("events %q; want %q", texts, want)
	}
	if log, err := os.ReadFile(filepath.Join(r.dir, "consoles", "gpu-01.log")); err != nil || string(log) != "login: ROOT\n" {
		t.Errorf("the console's log = %q, %v", log, err)
	}
	if got := r.run(t, "", nil, "console", "--ipmi-port", "1", "gpu-99"); got.status != exitInput {
		t.Errorf("a console of nobody = %d %v", got.status, got.err)
	}
}
