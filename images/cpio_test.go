package images

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestWriteCPIO(t *testing.T) {
	needTool(t, "cpio")
	entries := []Entry{
		{Path: "usr/sbin/b", Mode: 0o755, Data: []byte("program")},
		{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("x"), 1001)},
		{Path: "bin", Link: "usr/bin"},
		{Path: "dev/console", Mode: 0o600, Dev: true, Major: 5, Minor: 1},
		{Path: "root", Mode: 0o700, Dir: true},
	}
	var a, b bytes.Buffer
	if err := WriteCPIO(&a, entries); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	if err := WriteCPIO(&b, entries); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of the entries changes the ramdisk; want the same bytes")
	}
	cmd := exec.Command("cpio", "-itv", "--quiet")
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=/usr/bin:/bin"}
	cmd.Stdin = &a
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[2]+" "+strings.Join(f[len(f)-1:], " "))
		if !strings.Contains(line, "Jan  1  2025") {
			t.Errorf("cpio says %q; want the constant time", line)
		}
	}
	want := []string{"lrwxrwxrwx root usr/bin", "drwxr-xr-x root dev", "crw------- root dev/console", "-rwxr-xr-x root init", "drwx------ root root",
		"drwxr-xr-x root usr", "drwxr-xr-x root usr/sbin", "-rwxr-xr-x root usr/sbin/b"}
	if !slices.Equal(got, want) {
		t.Errorf("cpio -itv =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWriteCPIORefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []Entry
	}{
		{"absolute", []Entry{{Path: "/init"}}},
		{"climbing", []Entry{{Path: "../init"}}},
		{"empty", []Entry{{Path: ""}}},
		{"twice", []Entry{{Path: "a"}, {Path: "a"}}},
		{"below a file", []Entry{{Path: "a"}, {Path: "a/b"}}},
		{"below a link", []Entry{{Path: "bin", Link: "usr/bin"}, {Path: "bin/sh"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := WriteCPIO(&bytes.Buffer{}, tt.in); err == nil {
				t.Errorf("WriteCPIO(%v) = nil; want an error", tt.in)
			}
		})
	}
}

func TestSkeleton(t *testing.T) {
	entries := skeleton([]byte("agent"))
	if err := WriteCPIO(&bytes.Buffer{}, entries); err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, e := range entries {
		own[e.Path] = true
	}
	for _, programs := range agentTools {
		for _, p := range programs {
			if own[p] && p != "usr/bin/busybox" {
				t.Errorf("the skeleton has /%s, which a package brings, too", p)
			}
		}
	}
}
