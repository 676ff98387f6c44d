package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// passwordOf is what the server's secrets say of a machine.
func (r *servedRig) passwordOf(t *testing.T, machine string) (secret, value string) {
	t.Helper()
	m, _ := r.site.Load().Machine(machine)
	v, err := r.secrets.Get(m.BMC.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return m.BMC.Secret, v.Reveal()
}

// TestBMCServedRotate: by a server as directly: a canary, secrets of their own
// in the server's site folder, which is in force at once, events without
// passwords, and the old password refused.
func TestBMCServedRotate(t *testing.T) {
	r := newServedRig(t)
	if res := r.run(t, "", nil, "users", "rotate", "gpu-01"); res.status != exitRefused || !strings.Contains(res.err.Error(), "change the BMC password of gpu-01, gpu-01 first (gpu-01: the site's files will name a secret of their own)") {
		t.Fatalf("rotate without a yes = %d %v", res.status, res.err)
	}
	if res := r.run(t, "", nil, "users", "rotate", "--yes", "--canary", "gpu-02", "gpu-01"); res.status != exitUsage {
		t.Fatalf("rotate with a canary of others = %d %v; want %d", res.status, res.err, exitUsage)
	}
	// Somebody has changed the folder and not told the server.
	file := filepath.Join(r.site.Load().Dir, "site.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "serial: S2", "serial: S22", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if res := r.run(t, "", nil, "users", "rotate", "--yes", "gpu-01"); res.status != exitFailed || !strings.Contains(res.err.Error(), "have it read again first") {
		t.Fatalf("rotate with a folder that is not in force = %d %v", res.status, res.err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	// The canary fails: nobody else is touched.
	res := r.run(t, "", nil, "users", "rotate", "--yes", "--canary", "gpu-03", "gpu-01", "gpu-02", "gpu-03")
	if res.status != exitFailed || !strings.Contains(res.stderr, "gpu-03: logging in: the BMC refused") || strings.Count(res.stderr, "not begun, because") != 2 {
		t.Fatalf("rotate with a canary that fails = %d %v\n%s%s", res.status, res.err, res.stdout, res.stderr)
	}
	if _, pw := r.passwordOf(t, "gpu-01"); pw != "root:s3cret" {
		t.Fatal("the password changed after the canary failed")
	}
	res = r.run(t, "", nil, "users", "rotate", "--yes", "gpu-01", "gpu-02")
	if res.status != exitOK || strings.Count(res.stdout, "changed") != 2 || !strings.Contains(res.stderr, r.secrets.File()) || !strings.Contains(res.stderr, string(provision.StepVerified)) {
		t.Fatalf("rotate by the server = %d %v\n%s%s", res.status, res.err, res.stdout, res.stderr)
	}
	said := res.stdout + res.stderr
	seen := map[string]bool{"root:s3cret": true}
	for i, name := range []string{"gpu-01", "gpu-02"} {
		secret, value := r.passwordOf(t, name)
		if secret != "bmc-"+name || seen[value] {
			t.Errorf("the secret of %s is %s; want one of its own, and new", name, secret)
		}
		seen[value] = true
		old := r.targets[i]
		if c, err := bmc.Open(t.Context(), old); !errors.Is(err, bmc.ErrPassword) {
			t.Errorf("%s: the old password: %v; want it refused", name, errors.Join(err, c.Close(t.Context())))
		}
	}
	// The server goes on with the new ones.
	if res := r.run(t, "", nil, "power", "status", "gpu-01", "gpu-02"); res.status != exitOK {
		t.Errorf("power after the rotation = %d %v", res.status, res.err)
	}
	// Again, from their own secrets, and as JSON.
	res = r.run(t, "", func(e *env) { e.json = true }, "users", "rotate", "--yes", "gpu-02")
	var out struct {
		Machines []struct {
			Password provision.Rotated `json:"password"`
		} `json:"machines"`
	}
	if err := json.Unmarshal([]byte(res.stdout), &out); err != nil || len(out.Machines) != 1 || out.Machines[0].Password != (provision.Rotated{Secret: "bmc-gpu-02", State: "changed", File: r.secrets.File()}) {
		t.Errorf("rotate again, JSON: %v\n%s%s", err, res.stdout, res.stderr)
	}
	events, err := r.store.Events(t.Context(), state.Query{Machine: "gpu-02"})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, e := range events {
		texts = append(texts, e.Actor+" "+e.Text)
		said += e.Text + string(e.Data)
	}
	did := []string{"user:a-admin asks the BMC: users-rotate", "user:a-admin the BMC did users-rotate"}
	if n := len(texts); n < 4 || !slices.Equal(texts[n-4:], append(did, did...)) {
		t.Errorf("events of gpu-02: %q", texts)
	}
	for value := range seen {
		if strings.Contains(said, strings.TrimPrefix(value, "root:")) {
			t.Error("a password is in the events or in what was printed")
		}
	}
	// A server that starts where another one was killed says which to go on with.
	if err := r.secrets.SetPending("bmc-gpu-02", site.Pending{Next: site.NewSecret("root:next")}); err != nil {
		t.Fatal(err)
	}
	if got := begunRotations(r.site.Load(), r.secrets); len(got) != 1 || !strings.Contains(got[0], "fettle bmc users rotate gpu-02 goes on") || strings.Contains(got[0], "next") {
		t.Errorf("begunRotations() = %q; want gpu-02", got)
	}
	if held := r.turns.Held(); len(held) > 0 {
		t.Errorf("still held: %v", held)
	}
	for name, s := range r.srv {
		if n := s.Sessions(); n != 0 {
			t.Errorf("%d sessions left on %s", n, name)
		}
	}
}

// TestBMCServedRotateLeft: who leaves while a password changes leaves no secret
// that does not open its BMC.
func TestBMCServedRotateLeft(t *testing.T) {
	r := newServedRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := web.NewClient(r.http.URL, nil, r.token[web.RoleAdmin]).Operate(ctx, provision.OpRotate.Name, state.BMCRequest{Machines: []string{"gpu-01"}, Yes: true}, func(s state.BMCStep) {
		if s.Text == string(provision.StepStaged) {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Operate() of who left = %v; want canceled", err)
	}
	for end := time.Now().Add(30 * time.Second); len(r.turns.Held()) > 0; {
		if time.Now().After(end) {
			t.Fatalf("still held: %v", r.turns.Held())
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if _, pw := r.passwordOf(t, "gpu-01"); pw == "root:s3cret" {
		t.Error("the password did not change after it was begun")
	}
	if names, err := r.secrets.ListPending(); err != nil || len(names) > 0 {
		t.Errorf("pending: %v, %v; want nothing", names, err)
	}
	if res := r.run(t, "", nil, "power", "status", "gpu-01"); res.status != exitOK {
		t.Errorf("power after it = %d %v", res.status, res.err)
	}
}

// TestLabPasswords: a lab's BMCs share one password until they get their own.
func TestLabPasswords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	keys, err := openLabKeys(dir, "x", time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	p := labPasswords{keys.secrets, keys}
	if got := p.Shared([]string{"a", "b"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("Shared() at first = %v; want both", got)
	}
	if err := p.Own([]string{"a"}); err != nil {
		t.Fatal(err)
	}
	if got := p.Shared([]string{"a", "b"}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("Shared() of one that has its own = %v; want the other", got)
	}
	if pw, err := keys.bmcPassword("a"); err != nil || pw != keys.bmcPass {
		t.Errorf("the password of its own is another one at first, %v", err)
	}
	if err := p.SetPending(p.Secret("a"), site.Pending{Next: site.NewSecret("admin:next")}); err != nil {
		t.Fatal(err)
	}
	if err := p.CommitPending(p.Secret("a")); err != nil {
		t.Fatal(err)
	}
	if err := p.Own([]string{"a", "b"}); err != nil { // who asked before it had one
		t.Fatal(err)
	}
	again, err := openLabKeys(dir, "x", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if pw, err := again.bmcPassword("a"); err != nil || pw != "next" {
		t.Errorf("the lab's daemon, started again, has %v for it, %v; want the new one", pw == "next", err)
	}
	if pw, err := again.bmcPassword("b"); err != nil || pw != keys.bmcPass {
		t.Errorf("another one's password changed, %v", err)
	}
}
