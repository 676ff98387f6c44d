package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/fettle-dev/fettle/airgap"
)

// TestBootstrapClients has mmdebstrap and debootstrap make systems from a
// filtered mirror of this machine's own Debian archive, and from nowhere else.
func TestBootstrapClients(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred packages of the Debian archive: not with -short")
	}
	for _, tool := range []string{"mmdebstrap", "debootstrap"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	if os.Geteuid() != 0 {
		t.Skip("debootstrap needs root")
	}
	// Not t.TempDir: apt, as another user, must be able to read the key.
	dir, err := os.MkdirTemp("/var/tmp", "fettle-bootstrap-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	store, siteDir, key := filepath.Join(dir, "store"), filepath.Join(dir, "site"), filepath.Join(dir, "key")
	copyTree(t, "../../examples/two-gpu", siteDir)
	host, components := e2eArchive(t)
	appendTo(t, filepath.Join(siteDir, "site.yaml"), fmt.Sprintf(`
mirrors:
  - name: debian
    format: apt
    suites: [%[1]s, %[1]s-security]
    components: [%[2]s]
    archs: [amd64]
    packages: [hello]
    bootstrap: true
`, host.Suite, strings.Join(components, ", ")))
	// Packages that images were built from are at hand: the archive is not asked.
	if debs, err := filepath.Abs("../../.cache/store/cache/debs"); err == nil {
		if err := os.MkdirAll(filepath.Join(store, "cache"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(debs, filepath.Join(store, "cache", "debs")); err != nil {
			t.Fatal(err)
		}
	}
	fettle := func(args ...string) {
		t.Helper()
		var out bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: os.Getenv, log: slog.New(slog.DiscardHandler)}
		if status := run(t.Context(), e, append([]string{"fettle"}, args...)); status != exitOK {
			t.Fatalf("fettle %s = %d; want 0\n%s", strings.Join(args, " "), status, out.String())
		}
	}
	fettle("bundle", "key", "--site", siteDir, "--key", key)
	fettle("mirror", "sync", "--site", siteDir, "--store", store, "--key", key)

	s, err := airgap.OpenStore(filepath.Join(store, mirrorFolder))
	if err != nil {
		t.Fatal(err)
	}
	watch := newMirrorWatch()
	srv := httptest.NewServer(watch.handler(airgap.NewHandler(s, nil)))
	defer srv.Close()
	url := srv.URL + "/apt/debian"
	asc, ring := filepath.Join(dir, "key.asc"), filepath.Join(dir, "key.gpg")
	saveSiteKey(t, s, asc, ring)
	bound := func(t *testing.T, name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "http_proxy=", "no_proxy=*")
		cmd.WaitDelay = 10 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, lastLines(string(out), 40))
		}
	}
	t.Run("mmdebstrap", func(t *testing.T) {
		tar := filepath.Join(dir, "root.tar")
		bound(t, "mmdebstrap", "--mode=root", "--variant=apt", "--include=hello", "--architectures=amd64", host.Suite, tar,
			"deb [signed-by="+asc+"] "+url+" "+host.Suite+" "+strings.Join(components, " "), "deb [signed-by="+asc+"] "+url+" "+host.Suite+"-security "+strings.Join(components, " "))
		out, err := exec.Command("tar", "-tf", tar).Output()
		if err != nil || !strings.Contains(string(out), "./usr/bin/hello\n") {
			t.Errorf("the system that mmdebstrap made has no hello: %v", err)
		}
	})
	t.Run("debootstrap", func(t *testing.T) {
		root := filepath.Join(dir, "root")
		// The first stage resolves, fetches, verifies and unpacks; the second runs
		// what is there.
		bound(t, "debootstrap", "--foreign", "--arch=amd64", "--keyring="+ring, host.Suite, root, url)
		if _, err := os.Stat(filepath.Join(root, "debootstrap/debootstrap")); err != nil {
			t.Errorf("debootstrap left no second stage: %v", err)
		}
		if _, err := os.Stat(filepath.Join(root, "usr/bin/dpkg")); err != nil {
			t.Errorf("the system that debootstrap made has no dpkg: %v", err)
		}
	})
	missing, served := watch.all()
	for _, m := range missing {
		// Both look for what Debian's own archive has in other forms, and go on.
		if strings.Contains(m.Path, "/pool/") || strings.HasSuffix(m.Path, "/Packages") {
			t.Errorf("the mirror was asked for %s, which it does not have", m.Path)
		}
	}
	if served < 100 {
		t.Errorf("the mirror fulfilled %d requests; want at least 100", served)
	}
}

// saveSiteKey writes the site's OpenPGP key, armoured and not.
func saveSiteKey(t *testing.T, s *airgap.Store, asc, ring string) {
	t.Helper()
	snap, err := servedSnapshot(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range snap.Trees[0].Files {
		if f.Path != "site-key.asc" {
			continue
		}
		data, err := readBlob(t.Context(), s, f)
		if err != nil {
			t.Fatal(err)
		}
		block, err := armor.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		var bin bytes.Buffer
		if _, err := bin.ReadFrom(block.Body); err != nil {
			t.Fatal(err)
		}
		for path, b := range map[string][]byte{asc: data, ring: bin.Bytes()} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	t.Fatal("the mirror has no site-key.asc")
}
