package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBMCRecord(t *testing.T) {
	r := newBMCRig(t)
	out := filepath.Join(t.TempDir(), "gpu-01.tar.zst")
	res := r.run(t, "", nil, "record", "--out", out, "gpu-01")
	if res.err != nil || !strings.Contains(res.stdout, "gpu-01") {
		t.Fatalf("bmc record: %v\n%s%s", res.err, res.stdout, res.stderr)
	}
	tree, err := readTree(out)
	if err != nil || tree.Len() < 100 {
		t.Fatalf("readTree: %v, %v", tree, err)
	}
	b, err := os.ReadFile(out)
	if err != nil || len(b) == 0 {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"two machines", []string{"record", "--out", out, "gpu-01", "gpu-02"}, exitUsage, "one machine at a time"},
		{"no folder", []string{"record", "--out", filepath.Join(t.TempDir(), "no", "x"), "gpu-01"}, exitInput, "no such file"},
		{"wrong password", []string{"record", "--out", out, "gpu-03"}, exitFailed, "refused the user name or password"},
		{"no such personality", []string{"serve-virtual", "--personality", "cray-1"}, exitUsage, "dgx-h100"},
		{"no tree", []string{"serve-virtual", "--tree", os.Args[0]}, exitInput, "fettle bmc record"},
		{"both", []string{"serve-virtual", "--tree", out, "--personality", "dgx-h100"}, exitUsage, "not both"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := r.run(t, "", nil, tc.args...)
			if res.status != tc.status || !strings.Contains(res.err.Error(), tc.want) {
				t.Errorf("%v = %d %v; want %d with %q", tc.args, res.status, res.err, tc.status, tc.want)
			}
		})
	}
	after, err := os.ReadFile(out)
	if err != nil || string(after) != string(b) {
		t.Errorf("a recording that failed changed the file: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".fettle-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
