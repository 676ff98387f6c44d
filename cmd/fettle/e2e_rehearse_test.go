package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRehearsal takes a site over the gap with the built binary and this
// machine's own Debian mirror: --from-site, a bundle, and the rehearsal of the
// other side in a lab. A bundle without the image fails before any machine is
// made. FETTLE_E2E_REHEARSE=fail has a second machine installed that wants a
// package and a name that are not in the bundle, and must fail.
func TestRehearsal(t *testing.T) {
	r := newE2ERig(t)
	siteDir, store := filepath.Join(r.root, "site"), filepath.Join(r.root, "store")
	copyTree(t, "../../examples/two-gpu", siteDir)
	appendTo(t, filepath.Join(siteDir, "site.yaml"), `
mirrors:
  - name: debian
    format: apt
    suites: [bookworm, bookworm-updates, bookworm-security]
    components: [main]
    archs: [amd64]
    packages: [hello]
`)
	long := func(args ...string) e2eResult {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), e2eUpWait)
		defer cancel()
		var out, errOut bytes.Buffer
		cmd := r.command(ctx, args...)
		cmd.Stdout, cmd.Stderr = &out, &errOut
		start := time.Now()
		_ = cmd.Run() // the status tells
		return e2eResult{args: args, stdout: out.String(), stderr: errOut.String(), status: cmd.ProcessState.ExitCode(), took: time.Since(start)}
	}
	must := func(args ...string) e2eResult {
		t.Helper()
		res := long(args...)
		if res.status != 0 {
			t.Fatalf("fettle %s = %d; want 0\n%s%s", strings.Join(args, " "), res.status, res.stdout, res.stderr)
		}
		return res
	}
	must("image", "build", "--site", siteDir, "all")
	// The test's own mirrors, with the images that other tests share: links.
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"releases", "blobs", "cache/debs"} {
		to := filepath.Join(store, d)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		from := filepath.Join(r.store, d)
		if out, err := exec.Command("cp", "-rlT", from, to).CombinedOutput(); err != nil {
			if out, err := exec.Command("cp", "-rT", from, to).CombinedOutput(); err != nil {
				t.Fatalf("cp -r %s: %v: %s", from, err, out)
			}
			t.Logf("cp -rl %s: %v: %s; copied", from, err, out)
		}
	}
	key, pub := filepath.Join(r.root, "key"), filepath.Join(r.root, "key.pub")
	if err := os.WriteFile(pub, []byte(must("bundle", "key", "--site", siteDir, "--key", key).stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	common := []string{"--site", siteDir, "--store", store, "--key", key}
	bundle := func(name string, sync ...string) string {
		t.Helper()
		must(append(append([]string{"mirror", "sync"}, common...), sync...)...)
		dir := filepath.Join(r.root, name)
		must(append([]string{"bundle", "create", "--program", "none", "--out", dir}, common...)...)
		return dir
	}
	rehearse := func(dir string, args ...string) (e2eResult, rehearsal) {
		t.Helper()
		file := filepath.Join(r.root, "result.json")
		res := long(append([]string{"airgap", "rehearse", "--site", siteDir, "--public-key", pub, "--machine", "gpu-02", "--result", file}, append(args, dir)...)...)
		var got rehearsal
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		if err != nil {
			t.Fatalf("result of the rehearsal: %v\n%s%s", err, res.stdout, res.stderr)
		}
		if left, err := filepath.Glob(filepath.Join(r.root, "rh-*")); err != nil || len(left) > 0 {
			t.Errorf("the rehearsal left %v, %v", left, err)
		}
		return res, got
	}

	res, got := rehearse(bundle("without"))
	if res.status != exitFailed || got.Passed || len(got.Missing) != 3 || !strings.Contains(strings.Join(got.Missing, "\n"), "image debian-12") {
		t.Errorf("rehearsal of a bundle without images = %d, missing %q; want %d and the three images\n%s%s", res.status, got.Missing, exitFailed, res.stdout, res.stderr)
	}

	full := bundle("full", "--from-site")
	if why := must("mirror", "why", "nvme-cli", "--site", siteDir).stdout; !strings.Contains(why, "profile train (gpu-01, gpu-02)") {
		t.Errorf("mirror why nvme-cli = %q; want the profile and its machines", why)
	}
	res, got = rehearse(full)
	t.Logf("rehearsal: %s\n%s", res.took.Round(time.Second), res.stdout)
	if res.status != exitOK || !got.Passed || got.Image == "" || got.Requests == 0 {
		t.Errorf("rehearsal of a whole bundle = %d; want 0\n%s%s", res.status, res.stdout, res.stderr)
	}
	var names []string
	for _, s := range got.Steps {
		names = append(names, s.Name)
	}
	for _, want := range []string{"install gpu-02 from bare metal", "apt-get update", "apt-get install hello nvme-cli pciutils"} {
		if !strings.Contains(strings.Join(names, "\n"), want) {
			t.Errorf("steps %q lack %q", names, want)
		}
	}

	if os.Getenv("FETTLE_E2E_REHEARSE") != "fail" {
		return
	}
	res, got = rehearse(full, "--install", "tree", "--run", "curl -sS --max-time 20 http://updates.example.org/list")
	if res.status != exitFailed || got.Passed {
		t.Errorf("rehearsal that wants more than the bundle = %d; want %d\n%s%s", res.status, exitFailed, res.stdout, res.stderr)
	}
	for _, want := range []string{"updates.example.org", "package tree"} {
		if all := strings.Join(got.Missing, "\n"); !strings.Contains(all, want) {
			t.Errorf("missing = %q; want %s among them", got.Missing, want)
		}
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
