package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// commandLine runs the whole command line, with an environment of nothing.
func commandLine(ctx context.Context, stdin string, tty bool, args ...string) (status int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errOut, getenv: func(string) string { return "" }, tty: tty}
	status = run(ctx, e, append([]string{"fettle"}, args...))
	return status, out.String(), errOut.String()
}

// leaves are all commands that do something, with the words that call them.
func leaves(cmds []*cli.Command, path ...string) map[string]*cli.Command {
	out := map[string]*cli.Command{}
	for _, c := range cmds {
		words := append(append([]string(nil), path...), c.Name)
		if len(c.Subcommands) == 0 {
			out[strings.Join(words, " ")] = c
			continue
		}
		for k, v := range leaves(c.Subcommands, words...) {
			out[k] = v
		}
	}
	return out
}

func testApp() *cli.App {
	return newApp(&env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, log: slog.New(slog.DiscardHandler)})
}

func TestRootHelpListsExitStatuses(t *testing.T) {
	status, out, _ := commandLine(t.Context(), "", false, "--help")
	if status != exitOK {
		t.Errorf("fettle --help = %d; want 0", status)
	}
	_, list, _ := strings.Cut(out, "Exit statuses:")
	for _, n := range []int{exitOK, exitFailed, exitUsage, exitInput, exitMissing, exitRefused, exitInterrupted} {
		if !strings.Contains(list, fmt.Sprintf(" %d ", n)) {
			t.Errorf("fettle --help does not tell of exit status %d:\n%s", n, out)
		}
	}
}

// Every command has a help page, and prints JSON when asked to behind its name.
func TestHelpPages(t *testing.T) {
	all := leaves(testApp().Commands)
	if len(all) < 30 {
		t.Fatalf("there are %d commands; want at least 30: is one group missing?", len(all))
	}
	for words, c := range all {
		t.Run(words, func(t *testing.T) {
			status, out, errOut := commandLine(t.Context(), "", false, append(strings.Fields(words), "--help")...)
			if status != exitOK || errOut != "" {
				t.Fatalf("fettle %s --help = %d, %q; want 0", words, status, errOut)
			}
			if !c.Hidden && (c.Usage == "" || !strings.Contains(out, c.Usage)) {
				t.Errorf("fettle %s --help does not say what it is for:\n%s", words, out)
			}
			if !strings.Contains(out, "fettle "+words) {
				t.Errorf("fettle %s --help does not name the command:\n%s", words, out)
			}
			if !strings.Contains(out, "--output") {
				t.Errorf("fettle %s --help has no --output:\n%s", words, out)
			}
			if strings.HasSuffix(c.Usage, ".") {
				t.Errorf("usage of fettle %s ends with a full stop, unlike others: %q", words, c.Usage)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	labs := t.TempDir()
	for _, tt := range []struct {
		name   string
		args   string
		status int
		want   string // in stdout or stderr
	}{
		{"nothing", "", exitOK, "COMMANDS:"},
		{"version", "--version", exitOK, version},
		{"unknown command", "deploi", exitUsage, `no command "deploi"`},
		{"unknown subcommand", "machine deploi", exitUsage, `no command "deploi"`},
		{"unknown subsubcommand", "bmc power onn", exitUsage, `no command "onn" in fettle bmc power: see fettle bmc power --help`},
		{"group alone", "machine", exitOK, "COMMANDS:"},
		{"unknown flag", "lab up --fast", exitUsage, "-fast"},
		{"unknown global flag", "--fast lab up", exitUsage, "-fast"},
		{"flag without a value", "lab up --lab", exitUsage, "needs an argument"},
		{"number that is none", "lab up --cpus many", exitUsage, "cpus"},
		{"output", "--output yaml lab ls", exitUsage, "text or json"},
		{"output behind", "lab ls --output yaml", exitUsage, "text or json"},
		{"JSON before", "--output json lab ls --labs " + labs, exitOK, "[]"},
		{"JSON behind", "lab ls --labs " + labs + " -o json", exitOK, "[]"},
		{"no labs", "lab ls --labs " + labs, exitOK, "LAB"},
		{"no lab to look at", "lab status --labs " + labs, exitUsage, "fettle lab up"},
		{"no lab of that name", "lab status --lab x --labs " + labs, exitUsage, `no lab "x"`},
		{"no server of that lab", "machine ls --lab x --labs " + labs, exitUsage, `no lab "x"`},
		{"no server at that socket", "machine ls --server " + filepath.Join(labs, "none.sock"), exitFailed, "none.sock"},
		{"site that is not there", "lab up --site " + filepath.Join(labs, "none"), exitInput, "none"},
		{"deploy of nothing", "machine deploy --server x.sock", exitUsage, "fettle machine deploy takes machines"},
		{"why of nothing", "machine why --server x.sock", exitUsage, "fettle machine why takes one machine"},
		{"serve without a site", "serve --site " + filepath.Join(labs, "none"), exitInput, "none"},
		{"bmc of a site that is not there", "bmc power status --site " + filepath.Join(labs, "none") + " gpu-01", exitInput, "none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, out, errOut := commandLine(t.Context(), "", false, strings.Fields(tt.args)...)
			if status != tt.status || !strings.Contains(out+errOut, tt.want) {
				t.Errorf("fettle %s = %d\n%s%s\nwant %d and %q", tt.args, status, out, errOut, tt.status, tt.want)
			}
			if status != exitOK && (out != "" || strings.Count(errOut, "fettle: ") != 1) {
				t.Errorf("fettle %s says\n%s%s\nwant one error on stderr, nothing on stdout", tt.args, out, errOut)
			}
		})
	}
}

// A command that waits for a server ends with 130 when it is interrupted.
func TestInterrupted(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		interrupt()
		<-req.Context().Done()
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() { srv.Close(); <-served }()
	for _, args := range [][]string{
		{"machine", "ls", "--server", sock},
		{"machine", "ls", "--server", filepath.Join(t.TempDir(), "none")}, // fails by itself
		{"events", "--follow", "--server", sock},
		{"machine", "deploy", "--yes", "--server", sock, "gpu-01"},
	} {
		status, out, errOut := commandLine(ctx, "", false, args...)
		if status != exitInterrupted || out != "" || !strings.Contains(errOut, "interrupted") {
			t.Errorf("interrupted fettle %s = %d, %q, %q; want %d and that it was interrupted", strings.Join(args, " "), status, out, errOut, exitInterrupted)
		}
	}
}

func TestExitStatus(t *testing.T) {
	plain := errors.New("x")
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, exitOK},
		{"plain", plain, exitFailed},
		{"usage", usage("x"), exitUsage},
		{"input", fail(exitInput, plain), exitInput},
		{"wrapped", fmt.Errorf("y: %w", fail(exitMissing, plain)), exitMissing},
		{"joined", errors.Join(plain, fail(exitRefused, plain)), exitRefused},
		{"of a command on a machine", &exitError{7, plain}, 7},
		{"fail of nothing", fail(exitInput, nil), exitOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitStatus(tt.err); got != tt.want {
				t.Errorf("exitStatus(%v) = %d; want %d", tt.err, got, tt.want)
			}
		})
	}
	if err := fail(exitInput, plain); !errors.Is(err, plain) || err.Error() != "x" {
		t.Errorf("fail(3, x) = %v; want x, wrapped", err)
	}
}

func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		name     string
		yes, tty bool
		stdin    string
		want     int
		says     string
	}{
		{"yes by flag", true, false, "", exitOK, ""},
		{"nobody to ask", false, false, "yes\n", exitRefused, "wipe it: say --yes"},
		{"yes", false, true, "yes\n", exitOK, ""},
		{"yes without a newline", false, true, "yes", exitOK, ""},
		{"no", false, true, "no\n", exitRefused, "not confirmed"},
		{"y is not yes", false, true, "y\n", exitRefused, "not confirmed"},
		{"an empty line", false, true, "\nyes\n", exitRefused, "not confirmed"},
		{"end of input", false, true, "", exitRefused, "not confirmed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked bytes.Buffer
			e := &env{stdin: strings.NewReader(tt.stdin), stderr: &asked, tty: tt.tty}
			err := e.confirm(tt.yes, "wipe it")
			if got := exitStatus(err); got != tt.want || (tt.says != "" && err.Error() != tt.says) {
				t.Errorf("confirm with %q = %v (%d); want %q (%d)", tt.stdin, err, got, tt.says, tt.want)
			}
			if question := asked.String(); (question == "wipe it? Type yes: ") != (tt.tty && !tt.yes) {
				t.Errorf("confirm asked %q; terminal %v, --yes %v", question, tt.tty, tt.yes)
			}
		})
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	table(&b, [][]string{{"NAME", "PHASE", "REASON"}, {"gpu-01", "ready", ""}, {"göttingen", "x", "it failed"}})
	want := "NAME       PHASE  REASON\ngpu-01     ready\ngöttingen  x      it failed\n"
	if b.String() != want {
		t.Errorf("table printed\n%s\nwant\n%s", &b, want)
	}
}

// The quoted word must come out of a shell, and out of ssh's % expansion, as
// it went in.
func TestShellQuote(t *testing.T) {
	for _, s := range []string{"plain", "two words", "it's", `$HOME "x" \ ;`, "100%", "%h", "", "a\nb"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+strings.ReplaceAll(shellQuote(s), "%%", "%")).Output()
		if err != nil || string(out) != s {
			t.Errorf("a shell reads shellQuote(%q) as %q, %v", s, out, err)
		}
		if n := strings.Count(strings.ReplaceAll(shellQuote(s), "%%", ""), "%"); n != 0 {
			t.Errorf("shellQuote(%q) = %s leaves %d %% to ssh", s, shellQuote(s), n)
		}
	}
}

func TestIsZombie(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !isZombie(cmd.Process.Pid) {
		select {
		case <-ctx.Done():
			t.Fatal("isZombie of a process that ended and was not waited for = false; want true")
		case <-tick.C:
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if isZombie(cmd.Process.Pid) {
		t.Error("isZombie of a process that was waited for = true; want false")
	}
}

// TestArguments gives an argument to every command that has none, each of which
// must refuse it: who types "lab up gpu-02" must not get all of the site.
func TestArguments(t *testing.T) {
	var leaves func(path []string, cmds []*cli.Command) [][]string
	leaves = func(path []string, cmds []*cli.Command) (out [][]string) {
		for _, c := range cmds {
			here := append(slices.Clone(path), c.Name)
			switch {
			case len(c.Subcommands) > 0:
				out = append(out, leaves(here, c.Subcommands)...)
			case c.ArgsUsage == "":
				out = append(out, here)
			}
		}
		return out
	}
	all := leaves(nil, newApp(&env{getenv: func(string) string { return "" }}).Commands)
	if len(all) < 20 {
		t.Fatalf("%d commands have no arguments; want more than 20", len(all))
	}
	for _, c := range all {
		t.Run(strings.Join(c, " "), func(t *testing.T) {
			args := c
			if slices.Equal(c, []string{"lab", "daemon"}) {
				args = append(args, "--dir", t.TempDir())
			}
			for _, f := range []struct{ command, flag, value string }{
				{"bench storm", "--server", "192.0.2.1"}, {"bench storm", "--interface", "none"}, {"bench storm", "--addresses", "192.0.2.0/24"},
				{"discover bmc", "--prefix", "192.0.2.0/24"}, {"bundle create", "--out", t.TempDir()},
			} {
				if f.command == strings.Join(c, " ") {
					args = append(args, f.flag, f.value)
				}
			}
			status, out, errOut := commandLine(t.Context(), "", false, append(args, "gpu-02")...)
			if want := "fettle " + strings.Join(c, " ") + " takes no arguments"; status != exitUsage || out != "" || !strings.Contains(errOut, want) {
				t.Errorf("fettle %s gpu-02 = %d, %q, %q; want %d and %q", strings.Join(args, " "), status, out, errOut, exitUsage, want)
			}
		})
	}
}
