package oci

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
)

// realCosign runs cosign. No Debian package has it and it builds for minutes, so
// that it is not asked for in CI. Built and run with: go install
// github.com/sigstore/cosign/v2/cmd/cosign@v2.4.3, and …/cosign/v3/cmd/cosign@v3.0.2
func realCosign(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cosign", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "COSIGN_PASSWORD=x"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRealCosign has cosign sign images at upstream, mirrors those that it
// signed, and has it verify what is served.
func TestRealCosign(t *testing.T) {
	if _, err := exec.LookPath("cosign"); err != nil {
		t.Skip("cosign is not here")
	}
	r := newRig(t)
	dir := r.oci.Dir
	good := func(args ...string) string {
		t.Helper()
		out, err := realCosign(t, dir, args...)
		if err != nil {
			t.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	// cosign 3 writes bundles; what it would ask Sigstore's servers for is said here.
	offline, verify := []string{"--tlog-upload=false"}, []string{"verify", "--insecure-ignore-tlog=true"}
	if strings.Contains(good("version"), "v3.") {
		for name, text := range map[string]string{
			"config.json": `{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"}}`,
			"root.json":   `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		offline = []string{"--signing-config=config.json", "--trusted-root=root.json"}
		verify = append(verify, "--trusted-root=root.json")
	}
	sign := func(key, image string) {
		good(slices.Concat([]string{"sign", "--yes", "--key", key}, offline, []string{image})...)
	}
	good("generate-key-pair")
	for _, p := range []struct{ from, to string }{{"cosign.key", "first.key"}, {"cosign.pub", "first.pub"}} {
		if err := os.Rename(filepath.Join(dir, p.from), filepath.Join(dir, p.to)); err != nil {
			t.Fatal(err)
		}
	}
	good("generate-key-pair")
	host := upstreamRegistry(t, nil)
	d := pushIndex(t, host+"/lib/app:1")
	sign("first.key", host+"/lib/app@"+string(d))
	pushImage(t, host+"/lib/bare:1")
	other := pushImage(t, host+"/lib/other:1")
	sign("cosign.key", host+"/lib/other@"+string(other))
	for _, name := range []string{"bare", "other"} {
		if _, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/lib/" + name + ":1"}, Keyrings: []string{"first.pub"}}, airgap.Lock{}); !errors.Is(err, ErrSignature) {
			t.Errorf("sync of %s = %v; want %v", name, err, ErrSignature)
		}
	}
	lock, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/lib/app:1"}, Keyrings: []string{"first.pub"}, Archs: []string{"amd64"}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	if tr := lock.Mirrors[0].Trust[0]; tr.SignedBy == "" || tr.Source != "first.pub" {
		t.Errorf("trust = %+v; want cosign's key", tr)
	}
	_, srv := newRegistry(t, r.store, Options{})
	local := strings.TrimPrefix(srv.URL, "http://") + "/" + localName(host, "lib/app") + ":1"
	if out := good(slices.Concat(verify, []string{"--key", "first.pub", local})...); !strings.Contains(out, string(d)) {
		t.Errorf("cosign verify of what is served says %s; want the digest %s", out, d)
	}
	if out, err := realCosign(t, dir, slices.Concat(verify, []string{"--key", "cosign.pub", local})...); err == nil {
		t.Errorf("cosign verify with another key = nil; want an error\n%s", out)
	}
}
