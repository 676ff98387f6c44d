package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/oci"
)

// TestImagesOverTheGap mirrors an image, carries it over, serves it under its
// original name and takes one that the site pushes.
func TestImagesOverTheGap(t *testing.T) {
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	fettle := func(stdin string, want int, args ...string) string {
		t.Helper()
		var out, errb bytes.Buffer
		e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errb, getenv: func(k string) string {
			return map[string]string{"XDG_CONFIG_HOME": at("config")}[k]
		}}
		if got := run(t.Context(), e, append([]string{"fettle"}, args...)); got != want {
			t.Fatalf("fettle %s = %d\n%s%s; want %d", strings.Join(args, " "), got, out.String(), errb.String(), want)
		}
		if want == exitOK {
			return out.String()
		}
		return out.String() + errb.String()
	}
	up, err := airgap.OpenStore(at("up"))
	if err != nil {
		t.Fatal(err)
	}
	reg, err := oci.OpenRegistry(up, oci.Options{Push: &oci.Pushers{Anyone: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	srv := httptest.NewServer(reg)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	push := func(ref string, auth authn.Authenticator) (string, error) {
		img, err := random.Image(5000, 2)
		if err != nil {
			t.Fatal(err)
		}
		r, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String(), remote.Write(r, img, remote.WithAuth(auth))
	}
	digest, err := push(host+"/lib/app:1.0", authn.Anonymous)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(at("s"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "name: s\ndomain: example.org\nmirrors:\n  - {name: images, format: oci, images: [" + host + "/lib/app:1.0]}\n"
	if err := os.WriteFile(at("s/site.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("pub"), []byte(fettle("", exitOK, "bundle", "key", "--site", at("s"))), 0o600); err != nil {
		t.Fatal(err)
	}
	fettle("", exitOK, "mirror", "sync", "--site", at("s"), "--store", at("a"), "--name", "first")
	fettle("", exitOK, "bundle", "create", "--site", at("s"), "--store", at("a"), "--out", at("out"), "--program", "none")
	fettle("", exitOK, "bundle", "import", at("out"), "--public-key", at("pub"), "--store", at("b"))
	if out := fettle("", exitOK, "mirror", "client-config", "containerd", "--store", at("b"), "--base-url", "http://mirror.example.org:8480"); !strings.Contains(out, "/etc/containerd/certs.d/"+host+"/hosts.toml") || !strings.Contains(out, `server = "http://mirror.example.org:8480"`) {
		t.Errorf("client-config containerd = %s", out)
	}
	// A substituted image is refused, and what was there is served on.
	other, err := push(host+"/lib/app:1.0", authn.Anonymous)
	if err != nil {
		t.Fatal(err)
	}
	out := fettle("", exitInput, "mirror", "sync", "--site", at("s"), "--store", at("a"))
	if !strings.Contains(out, digest) || !strings.Contains(out, other) {
		t.Errorf("mirror sync of a substituted image = %s; want both digests named", out)
	}
	// The disconnected side.
	fettle("ci:secret\n", exitOK, "secret", "set", "--site", at("s"), "registry-push")
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	done := make(chan int, 1)
	go func() {
		e := &env{stdin: strings.NewReader(""), stdout: pw, stderr: io.Discard, getenv: func(k string) string {
			return map[string]string{"XDG_CONFIG_HOME": at("config")}[k]
		}}
		done <- run(ctx, e, []string{"fettle", "mirror", "serve", "--site", at("s"), "--store", at("b"), "--listen", "127.0.0.1:0"})
		pw.Close()
	}()
	defer func() {
		cancel()
		<-done
	}()
	line := make([]byte, 200)
	n, err := pr.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(line[:n]), "http://")
	server, _, _ := strings.Cut(rest, "/")
	if _, _, err := net.SplitHostPort(server); err != nil {
		t.Fatalf("mirror serve says %q", line[:n])
	}
	r, err := name.ParseReference(fmt.Sprintf("%s/%s/lib/app:1.0", server, strings.ReplaceAll(host, ":", "_")))
	if err != nil {
		t.Fatal(err)
	}
	deadline, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	img, err := remote.Image(r, remote.WithContext(deadline))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := img.Digest(); err != nil || d.String() != digest {
		t.Errorf("digest behind the gap = %s, %v; want %s", d, err, digest)
	}
	if _, err := push(server+"/team/own:1", authn.Anonymous); err == nil {
		t.Error("somebody without a password pushed")
	}
	if _, err := push(server+"/team/own:1", &authn.Basic{Username: "ci", Password: "secret"}); err != nil {
		t.Errorf("pushing with the secret: %v", err)
	}
}
