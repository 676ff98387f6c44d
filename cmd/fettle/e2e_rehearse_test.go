package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
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
// made; that is shown as another user than root. FETTLE_E2E_REHEARSE=user has
// the whole rehearsal made by that user, FETTLE_E2E_REHEARSE=fail has a second machine installed that wants a
// package and a name that are not in the bundle, and must fail.
func TestRehearsal(t *testing.T) {
	r := newE2ERig(t)
	siteDir, store := filepath.Join(r.root, "site"), filepath.Join(r.root, "store")
	copyTree(t, "../../examples/two-gpu", siteDir)
	host, components := e2eArchive(t)
	appendTo(t, filepath.Join(siteDir, "site.yaml"), fmt.Sprintf(`
mirrors:
  - name: debian
    format: apt
    suites: [%[1]s, %[1]s-updates, %[1]s-security]
    components: [%[2]s]
    archs: [amd64]
    packages: [hello]
`, host.Suite, strings.Join(components, ", ")))
	index := newPythonIndex(t)
	appendTo(t, filepath.Join(siteDir, "site.yaml"), "  - name: python\n    format: pypi\n    urls: ["+index.URL+"/simple/]\n    lockfiles: [requirements.txt]\n")
	if err := os.WriteFile(filepath.Join(siteDir, "requirements.txt"), []byte(index.requirement), 0o644); err != nil {
		t.Fatal(err)
	}
	user := newE2EUser(t, r)
	long := func(args ...string) e2eResult {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), e2eUpWait)
		defer cancel()
		var out, errOut bytes.Buffer
		cmd := r.command(ctx, args...)
		if user.runs(args) {
			cmd = user.command(ctx, args...)
		}
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
	// The test's own mirrors, with the images that other tests share: links, or copies
	// of the same times, by which the newest release of a name is told.
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
			if out, err := exec.Command("cp", "-aT", from, to).CombinedOutput(); err != nil {
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
		file := filepath.Join(user.dir, "result.json")
		res := long(append([]string{"airgap", "rehearse", "--site", siteDir, "--public-key", pub, "--machine", "gpu-02", "--result", file}, append(args, dir)...)...)
		var got rehearsal
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		if err != nil {
			t.Fatalf("result of the rehearsal: %v\n%s%s", err, res.stdout, res.stderr)
		}
		if left, err := filepath.Glob(filepath.Join(user.dir, "rh-*")); err != nil || len(left) > 0 {
			t.Errorf("the rehearsal left %v, %v", left, err)
		}
		return res, got
	}

	// As a user who has a folder and nothing else, where the test may become one.
	without := bundle("without")
	user.on = user.can
	res, got := rehearse(without)
	user.on = false
	if res.status != exitFailed || got.Passed || len(got.Missing) != 3 || !strings.Contains(strings.Join(got.Missing, "\n"), "image base") {
		t.Errorf("rehearsal of a bundle without images = %d, missing %q; want %d and the three images\n%s%s", res.status, got.Missing, exitFailed, res.stdout, res.stderr)
	}

	full := bundle("full", "--from-site")
	user.on = user.can && os.Getenv("FETTLE_E2E_REHEARSE") == "user"
	if why := must("mirror", "why", "nvme-cli", "--site", siteDir).stdout; !strings.Contains(why, "profile train (gpu-01)") || !strings.Contains(why, "profile train-mirrored (gpu-02)") {
		t.Errorf("mirror why nvme-cli = %q; want the profiles and their machines", why)
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
	for _, want := range []string{"install gpu-02 from bare metal", "apt-get update", "apt-get install hello nvme-cli pciutils", "pip download proof==1.0"} {
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

// e2eUser is a user of this machine who has a folder and nothing else.
type e2eUser struct {
	r       *e2eRig
	dir     string // of its labs and files
	can, on bool
}

// newE2EUser makes the folder for nobody, or where the test is not root for the
// test's own user.
func newE2EUser(t *testing.T, r *e2eRig) *e2eUser {
	t.Helper()
	u := &e2eUser{r: r, dir: r.root}
	if _, err := exec.LookPath("setpriv"); os.Geteuid() != 0 || err != nil {
		return u
	}
	u.can, u.dir = true, filepath.Join(r.root, "u")
	for _, d := range []string{u.dir, filepath.Join(u.dir, "run")} {
		if err := errors.Join(os.Mkdir(d, 0o711), os.Chown(d, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *e2eUser) runs(args []string) bool { return len(args) > 1 && args[1] == "rehearse" }

// command is r.command, by the user if that is on.
func (u *e2eUser) command(ctx context.Context, args ...string) *exec.Cmd {
	if !u.on {
		cmd := u.r.command(ctx, args...)
		cmd.Env = append(cmd.Env, "FETTLE_LABS="+u.dir)
		return cmd
	}
	cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", u.r.bin}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "XDG_RUNTIME_DIR=" + filepath.Join(u.dir, "run"), "FETTLE_LABS=" + u.dir}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// pythonIndex is an index of one wheel: PEP 503.
type pythonIndex struct {
	*httptest.Server
	requirement string
}

func newPythonIndex(t *testing.T) *pythonIndex {
	t.Helper()
	const file = "proof-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for name, text := range map[string]string{
		"proof.py": "", "proof-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: proof\nVersion: 1.0\n",
		"proof-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
	} {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(wheel.Bytes()))
	mux := http.NewServeMux()
	mux.HandleFunc("/simple/proof/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!DOCTYPE html><html><body><a href=\"/files/%s#sha256=%s\">%s</a></body></html>", file, sum, file)
	})
	mux.HandleFunc("/files/"+file, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wheel.Bytes()) })
	p := &pythonIndex{Server: httptest.NewServer(mux), requirement: "proof==1.0 --hash=sha256:" + sum + "\n"}
	t.Cleanup(p.Close)
	return p
}
