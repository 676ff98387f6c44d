package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// directRun runs the whole command line as a user whose state lives in home and
// whose default server is sock.
func directRun(ctx context.Context, t *testing.T, home, sock, site string, args ...string) runResult {
	t.Helper()
	var out, errb bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errb, getenv: func(name string) string {
		return map[string]string{"FETTLE_STATE_HOME": home, "FETTLE_SERVER": sock, "SUDO_USER": "alice", "HOME": home}[name]
	}}
	status := run(ctx, e, append([]string{"fettle"}, append(args, "--site", site)...))
	return runResult{stdout: out.String(), stderr: errb.String(), status: status}
}

// TestBMCDirect is break-glass: it is marked, it leaves a line, and beside a
// server that runs it happens with --direct alone.
func TestBMCDirect(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "fd") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home, sock, site := filepath.Join(dir, "home"), filepath.Join(dir, "s"), filepath.Join(dir, "site")
	var out bytes.Buffer
	e := &env{stdin: strings.NewReader("root:s3cret\n"), stdout: &out, stderr: &out, getenv: func(name string) string {
		return map[string]string{"HOME": home}[name]
	}}
	for _, args := range [][]string{{"init", site}, {"secret", "set", "bmc-default", "--site", site}} {
		if status := run(t.Context(), e, append([]string{"fettle"}, args...)); status != exitOK {
			t.Fatalf("fettle %v = %d\n%s", args, status, &out)
		}
	}
	audit := filepath.Join(home, auditFile)
	// A command that reaches the BMC of the starter's machine is interrupted
	// before it starts, so that nothing is sent.
	interrupted, interrupt := context.WithCancel(t.Context())
	interrupt()

	r := directRun(t.Context(), t, home, sock, site, "bmc", "power", "off", "node-01")
	if _, err := os.Stat(audit); r.status != exitRefused || err == nil {
		t.Errorf("power off without a yes = %d, line left: %v; want %d and none\n%s", r.status, err == nil, exitRefused, r.stderr)
	}
	r = directRun(interrupted, t, home, sock, site, "bmc", "power", "off", "--yes", "node-01")
	if want := "directly to the BMC, past any server's events; noted in " + audit; r.status != exitInterrupted || !strings.Contains(r.stderr, want) {
		t.Errorf("power off --yes = %d, %s; want %d and %q", r.status, r.stderr, exitInterrupted, want)
	}
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	// A server that is older than the API for BMCs.
	old := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"status": 404, "detail": "there is nothing here"}`)
	})}
	go old.Serve(ln)
	defer old.Close()
	r = directRun(t.Context(), t, home, sock, site, "bmc", "status", "node-01")
	if r.status != exitMissing || !strings.Contains(r.stderr, "older than this one") || !strings.Contains(r.stderr, "--direct") {
		t.Errorf("beside an old server = %d, %s; want %d and --direct", r.status, r.stderr, exitMissing)
	}
	r = directRun(interrupted, t, home, sock, site, "bmc", "status", "--direct", "node-01")
	if r.status != exitInterrupted || !strings.Contains(r.stderr, "directly to the BMC") {
		t.Errorf("beside a server with --direct = %d, %s; want it to have gone to the BMC", r.status, r.stderr)
	}

	text, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("audit line %q: %v", line, err)
		}
		if l.Time.IsZero() {
			t.Errorf("audit line %q has no time", line)
		}
		got = append(got, l.User+": "+l.Command+" "+strings.Join(l.Machines, ","))
	}
	if want := "alice: bmc power off node-01; alice: bmc status node-01"; strings.Join(got, "; ") != want {
		t.Errorf("audit = %s; want %s", strings.Join(got, "; "), want)
	}
	if info, err := os.Stat(audit); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of %s = %v, %v; want 0600", audit, info.Mode(), err)
	}
}
