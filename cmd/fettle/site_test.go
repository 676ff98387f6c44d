package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSiteScripts runs testdata/site/*.txtar. In them, `fettle ARGS [<FILE]`
// runs a command and `status N` checks the exit status of the last one.
func TestSiteScripts(t *testing.T) {
	var one sync.Mutex // scripts run in parallel, and package cli has its help flag in a variable
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/site",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			status := exitOK
			env.Values["status"] = &status
			wd, err := os.Getwd()
			env.Setenv("EXAMPLES", wd+"/../../examples")
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fettle": func(ts *testscript.TestScript, neg bool, args []string) {
				stdin := ""
				if n := len(args) - 1; n >= 0 && strings.HasPrefix(args[n], "<") {
					stdin = ts.ReadFile(args[n][1:])
					args = args[:n]
				}
				// urfave/cli reads the process's own directory: name it.
				for i, a := range args {
					if a == "." || strings.HasPrefix(a, "./") {
						args[i] = ts.MkAbs(a)
					}
				}
				e := &env{stdin: strings.NewReader(stdin), stdout: ts.Stdout(), stderr: ts.Stderr(), getenv: ts.Getenv}
				one.Lock()
				status := run(context.Background(), e, append([]string{"fettle"}, args...))
				one.Unlock()
				*ts.Value("status").(*int) = status
				if neg != (status != exitOK) {
					ts.Fatalf("fettle %s = %d; want failure: %v", strings.Join(args, " "), status, neg)
				}
			},
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := fmt.Sprint(*ts.Value("status").(*int)); len(args) != 1 || got != args[0] {
					ts.Fatalf("exit status = %s; want %v", got, args)
				}
			},
		},
	})
}

// A secret must reach standard output by `secret get` only.
func TestSecretValueIsShownOnlyByGet(t *testing.T) {
	dir := t.TempDir() + "/site"
	config := t.TempDir()
	fettle := func(stdin string, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &out, getenv: func(k string) string {
			return map[string]string{"XDG_CONFIG_HOME": config}[k]
		}}
		if status := run(t.Context(), e, append([]string{"fettle"}, args...)); status != exitOK {
			t.Fatalf("fettle %v = %d: %s", args, status, &out)
		}
		return out.String()
	}
	const value = "admin:correct horse"
	all := fettle("", "init", dir)
	all += fettle(value+"\n", "secret", "set", "--site", dir, "bmc-default")
	all += fettle("", "secret", "ls", "--site", dir)
	all += fettle("", "--output", "json", "secret", "ls", "--site", dir)
	all += fettle("", "secret", "rotate-key", "--site", dir)
	all += fettle("", "site", "show", "--site", dir)
	if strings.Contains(all, value) || strings.Contains(all, "PRIVATE KEY") || strings.Contains(all, "AGE-SECRET-KEY") {
		t.Errorf("the commands print a secret:\n%s", all)
	}
	if got := fettle("", "secret", "get", "--site", dir, "bmc-default"); got != value+"\n" {
		t.Errorf("secret get = %q; want %q", got, value+"\n")
	}
}
