package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// asProgram makes this test binary the program itself: see programScript.
const asProgram = "RUN_TEST_BINARY_AS_FETTLE"

// TestProgram is the program when it was started by a script of programScript.
func TestProgram(t *testing.T) {
	if os.Getenv(asProgram) == "" {
		return
	}
	args := os.Args[slices.Index(os.Args, "--")+1:]
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, log: slog.New(slog.DiscardHandler)}
	os.Exit(run(t.Context(), e, append([]string{"fettle"}, args...)))
}

// programScript is a file that runs this test binary as the program would run.
func programScript(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fettle")
	text := fmt.Sprintf("#!/bin/sh\nexport %s=1\nexec %s -test.run='^TestProgram$' -- \"$@\"\n", asProgram, airgap.ShellWord(os.Args[0]))
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMirrorSelftest(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred processes: not with -short")
	}
	selftest := func(program string) (int, string) {
		var out, errOut bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, getenv: os.Getenv, log: slog.New(slog.DiscardHandler)}
		return run(t.Context(), e, []string{"fettle", "mirror", "selftest", "--program", program}), out.String() + errOut.String()
	}
	status, out := selftest(programScript(t))
	if status != exitOK || strings.Contains(out, "FAILED") || !strings.Contains(out, "refuses a package with another byte") {
		t.Errorf("mirror selftest = %d; want 0\n%s", status, out)
	}
	// One that takes everything is found out.
	yes := filepath.Join(t.TempDir(), "yes")
	if err := os.WriteFile(yes, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if status, out := selftest(yes); status != exitFailed || !strings.Contains(out, "do not use") {
		t.Errorf("mirror selftest of a program that takes everything = %d; want %d\n%s", status, exitFailed, out)
	}
}
