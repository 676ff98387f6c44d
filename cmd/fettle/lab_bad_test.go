package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLabUpOfABadSite gives lab up what a person gets wrong: one clear sentence,
// and nothing is started.
func TestLabUpOfABadSite(t *testing.T) {
	const machines, profile = "machines/r1.yaml", "profiles/train.yaml"
	for _, tt := range []struct {
		name           string
		file, old, new string
		args           []string
		status         int
		want           []string
	}{
		{"unknown key", machines, "owner: ml", "ownr: ml", nil, exitInput, []string{machines, `unknown key "ownr"`, `did you mean "owner"?`}},
		{"one MAC twice", machines, "52:54:00:77:00:12", "52:54:00:77:00:11", nil, exitInput, []string{machines + ":48", "already that of machine gpu-01", machines + ":18"}},
		{"one address twice", machines, "address: 10.77.0.12", "address: 10.77.0.11", nil, exitInput, []string{machines + ":50", "already that of machine gpu-01"}},
		{"address outside its network", machines, "10.77.0.12", "10.79.0.12", nil, exitInput, []string{machines + ":50", "outside network prov (10.77.0.0/24)"}},
		{"no such profile", machines, "profile: train", "profile: trian", nil, exitInput, []string{machines + ":30", `no profile "trian"; did you mean "train"?`}},
		{"no such image", profile, "image: base", "image: basis", nil, exitInput, []string{profile, `no image "basis"; did you mean "base"?`}},
		{"no such machine", "", "", "", []string{"--machines", "gpu-O1"}, exitInput, []string{`"gpu-O1"`, "gpu-01"}},
		{"no such folder", "", "", "", []string{"--site", "no-such-folder"}, exitInput, []string{"no-such-folder", "fettle init"}},
		{"no site folder", "", "", "", []string{"--site", "testdata"}, exitInput, []string{"testdata: is no site folder: it has no site.yaml", "fettle init"}},
		{"size that is none", "", "", "", []string{"--memory", "lots"}, exitUsage, []string{"--memory"}},
		{"no such bridge", "", "", "", []string{"--network", "bridge=no-such-br0"}, exitMissing, []string{"network prov: there is no interface no-such-br0"}},
		{"a bridge without the address", "", "", "", []string{"--network", "bridge=lo"}, exitMissing, []string{"network prov: interface lo does not have its server address 10.77.0.1: ip addr add 10.77.0.1/24 dev lo"}},
		{"a libvirt elsewhere", "", "", "", []string{"--connect", "qemu+ssh://host/system"}, exitUsage, []string{"qemu:///session"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, labs := copySite(t), filepath.Join(t.TempDir(), "labs")
			if tt.file != "" {
				replaceIn(t, filepath.Join(dir, tt.file), tt.old, tt.new)
			}
			args := append([]string{"lab", "up", "--site", dir, "--labs", labs, "--store", t.TempDir()}, tt.args...)
			status, out, errOut := commandLine(t.Context(), "", false, args...)
			if status != tt.status || out != "" {
				t.Errorf("lab up = status %d, %q on stdout; want %d and nothing", status, out, tt.status)
			}
			for _, part := range tt.want {
				if !strings.Contains(errOut, part) {
					t.Errorf("lab up says\n%s\nwant %q in it", errOut, part)
				}
			}
			wantNothing(t, labs)
		})
	}
}

// TestLabUpWithoutAHypervisor runs before any image is built.
func TestLabUpWithoutAHypervisor(t *testing.T) {
	up := func(t *testing.T, uri string, want ...string) {
		t.Helper()
		labs, store := filepath.Join(t.TempDir(), "labs"), filepath.Join(t.TempDir(), "store")
		status, _, errOut := commandLine(t.Context(), "", false, "lab", "up", "--site", copySite(t), "--labs", labs, "--store", store, "--connect", uri)
		if status != exitMissing {
			t.Errorf("lab up = status %d; want %d", status, exitMissing)
		}
		for _, part := range want {
			if !strings.Contains(errOut, part) {
				t.Errorf("lab up says\n%s\nwant %q in it", errOut, part)
			}
		}
		if n := strings.Count(strings.TrimSpace(errOut), "\n"); n != 0 {
			t.Errorf("lab up says\n%s\nwant one sentence", errOut)
		}
		wantNothing(t, labs)
		wantNothing(t, store)
	}
	t.Run("no QEMU", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		up(t, "qemu:///session", "QEMU is not installed", "apt-get install qemu-system-x86")
	})
	if _, err := lookTool("qemu-system-x86_64"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("what comes after QEMU is found cannot be tried: %v", err)
	}
	t.Run("no libvirt", func(t *testing.T) {
		sock := filepath.Join(t.TempDir(), "sock")
		up(t, "qemu+unix:///session?socket="+sock, "libvirt", "install")
	})
	t.Run("libvirt that hangs up", func(t *testing.T) {
		sock := filepath.Join(t.TempDir(), "sock")
		ln, err := net.Listen("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		up(t, "qemu+unix:///session?socket="+sock, "libvirt", sock)
	})
}

func TestWhichServer(t *testing.T) {
	for _, env := range []string{"FETTLE_LAB", "FETTLE_LABS", "FETTLE_SERVER"} {
		t.Setenv(env, "")
	}
	labs := t.TempDir()
	for _, tt := range []struct {
		name   string
		made   []string // labs that there are
		args   []string
		status int
		want   string
	}{
		{"nothing serves", nil, nil, exitMissing, "no fettle serves here"},
		{"a URL that is none", nil, []string{"--server", "http://host"}, exitUsage, "--server is https://HOST:PORT or the path of a Unix socket"},
		{"a lab that is not there", nil, []string{"--lab", "x"}, exitUsage, `there is no lab "x"`},
		{"a lab without its daemon", []string{"one"}, nil, exitMissing, "the daemon of lab one is not running: fettle lab up starts it"},
		{"two labs", []string{"two"}, nil, exitUsage, "say which lab with --lab: one, two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, lab := range tt.made {
				if err := os.Mkdir(filepath.Join(labs, lab), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(labs, lab, labFileName), []byte("{}"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if sock := defaultSocket(&env{getenv: func(string) string { return "" }}); listening(sock) {
				t.Skipf("a fettle serves at %s", sock)
			}
			status, _, errOut := commandLine(t.Context(), "", false, append([]string{"machine", "ls", "--labs", labs}, tt.args...)...)
			if status != tt.status || !strings.Contains(errOut, tt.want) {
				t.Errorf("machine ls = status %d, %q; want %d, %q", status, errOut, tt.status, tt.want)
			}
		})
	}
}

// copySite is a copy of the demo's site folder.
func copySite(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "site")
	if err := os.CopyFS(dir, os.DirFS("../../examples/two-gpu")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func replaceIn(t *testing.T, file, old, with string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %q to be replaced", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(b), old, with)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantNothing(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat(%s) = %v; want that nothing was made", dir, err)
	}
}
