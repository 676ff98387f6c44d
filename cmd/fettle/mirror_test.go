package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptUpstream serves firmware whose bytes a script can change.
type scriptUpstream struct {
	mu    sync.Mutex
	files map[string]string
}

func (u *scriptUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	text, ok := u.files[r.URL.Path]
	u.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write([]byte(text))
}

// firstWord sets the variable args[0] to the first word of the file args[1].
func firstWord(ts *testscript.TestScript, _ bool, args []string) {
	f := strings.Fields(ts.ReadFile(args[1]))
	if len(f) == 0 {
		ts.Fatalf("%s is empty", args[1])
	}
	ts.Setenv(args[0], f[0])
}

// TestAirgapScripts runs testdata/airgap/*.txtar. In them `fettle ARGS` runs a
// command, `status N` checks its exit status, `site NAME...` writes s/site.yaml
// with a mirror of the files NAME, which upstream serves, `lie NAME` changes
// one upstream, `flip FILE` flips a bit in the middle of a file, `oldinputs LOCK`
// makes a lock's inputs those of an older program, and `publickey FILE` writes
// the public key that fettle prints.
func TestAirgapScripts(t *testing.T) {
	var one sync.Mutex // scripts run in parallel, and package cli has its help flag in a variable
	command := func(e *env, args ...string) int {
		one.Lock()
		defer one.Unlock()
		return run(t.Context(), e, append([]string{"fettle"}, args...))
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/airgap",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			up := &scriptUpstream{files: map[string]string{}}
			srv := httptest.NewServer(up)
			env.Defer(srv.Close)
			status := exitOK
			env.Values["status"], env.Values["up"], env.Values["url"] = &status, up, srv.URL
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fettle": func(ts *testscript.TestScript, neg bool, args []string) {
				e := &env{stdin: strings.NewReader(""), stdout: ts.Stdout(), stderr: ts.Stderr(), getenv: ts.Getenv}
				status := command(e, args...)
				*ts.Value("status").(*int) = status
				if neg != (status != exitOK) {
					ts.Fatalf("fettle %s: exit status %d; want failure: %v", strings.Join(args, " "), status, neg)
				}
			},
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := fmt.Sprint(*ts.Value("status").(*int)); len(args) != 1 || got != args[0] {
					ts.Fatalf("exit status = %s; want %v", got, args)
				}
			},
			"site": func(ts *testscript.TestScript, _ bool, args []string) {
				up := ts.Value("up").(*scriptUpstream)
				up.mu.Lock()
				defer up.mu.Unlock()
				text := "name: s\ndomain: example.org\nmirrors:\n  - name: fw\n    format: files\n    files:\n"
				for _, name := range args {
					content := strings.Repeat(name+"\n", 100_000/len(name))
					up.files["/"+name] = content
					text += fmt.Sprintf("      - url: %s/%s\n        sha256: %x\n", ts.Value("url"), name, sha256.Sum256([]byte(content)))
				}
				ts.Check(os.MkdirAll(ts.MkAbs("s"), 0o755))
				ts.Check(os.WriteFile(ts.MkAbs("s/site.yaml"), []byte(text), 0o644))
			},
			"lie": func(ts *testscript.TestScript, _ bool, args []string) {
				up := ts.Value("up").(*scriptUpstream)
				up.mu.Lock()
				defer up.mu.Unlock()
				up.files["/"+args[0]] = "something else"
			},
			// What a command printed, as a variable: an age public key, the code of a receipt.
			"append": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0]) + ts.ReadFile(args[1])
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
			},
			"oldinputs": func(ts *testscript.TestScript, _ bool, args []string) {
				text := regexp.MustCompile(`"inputs":"sha256:\w+"`).ReplaceAllString(ts.ReadFile(args[0]), `"inputs":"sha256:`+strings.Repeat("0", 64)+`"`)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
			},
			"recipient": firstWord, "code": firstWord,
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				data, err := os.ReadFile(ts.MkAbs(args[0]))
				ts.Check(err)
				data[len(data)/2] ^= 1
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
			},
			"publickey": func(ts *testscript.TestScript, _ bool, args []string) {
				var out strings.Builder
				e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: ts.Stderr(), getenv: ts.Getenv}
				if status := command(e, "bundle", "key", "--site", ts.MkAbs("s")); status != exitOK {
					ts.Fatalf("fettle bundle key: exit status %d", status)
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(out.String()), 0o644))
			},
		},
	})
}

// The secret key is in the secrets, and nothing prints it.
func TestBundleKeyIsSecret(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	var out strings.Builder
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}
	for range 2 {
		if status := run(t.Context(), e, []string{"fettle", "bundle", "key", "--key", path}); status != exitOK {
			t.Fatalf("bundle key = %d: %s", status, out.String())
		}
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has mode %v, %v; want 0600", fi.Mode(), err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || lines[0] != lines[1] || strings.Contains(out.String(), strings.TrimSpace(string(secret))) {
		t.Errorf("bundle key twice printed %q; want the public key twice", lines)
	}
}
