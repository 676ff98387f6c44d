package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fettle-dev/fettle/airgap"
)

// needs skips a test when a program is lacking; in CI it fails.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not here: .ci/setup installs it", p)
			}
			t.Skipf("%s is not here", p)
		}
	}
}

// command runs a client; its environment has no home of a person's.
func command(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "TMPDIR=" + dir, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "auth.json")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := command(t, dir, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// child is a program that a test starts and ends.
func child(t *testing.T, dir string, ready func() bool, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-done
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.NewTicker(50 * time.Millisecond); !ready(); {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v\n%s", args[0], err, log.String())
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready after 30 seconds", args[0])
		}
	}
}

// dockerRegistry is Debian's docker-registry, as a child; its host.
func dockerRegistry(t *testing.T) string {
	t.Helper()
	needs(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), host)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	child(t, dir, func() bool {
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	return host
}

// rootfs is an image that could run: a tar with files, gzipped.
func rootfs(t *testing.T, arch string, files map[string]string) v1.Image {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for name, text := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromReader(&buf, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	conf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, conf); err != nil {
		t.Fatal(err)
	}
	return img
}

// mirrored is a site with an index of two platforms, of which it mirrors amd64,
// served by our registry.
type mirrored struct {
	upstream, server string
	digest           string // of the index
	store            *airgap.Store
	snap             airgap.Snapshot
}

func newMirrored(t *testing.T) *mirrored {
	t.Helper()
	up := dockerRegistry(t)
	var idx v1.ImageIndex = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img := rootfs(t, arch, map[string]string{"bin/hello": "hello from " + arch + strings.Repeat(".", 100_000)})
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(parseRef(t, up+"/lib/app:1.0"), idx); err != nil {
		t.Fatal(err)
	}
	d, err := partial.Descriptor(idx)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	_, snap, err := r.sync(t, airgap.Mirror{Images: []string{up + "/lib/app:1.0"}, Archs: []string{"amd64"}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	_, srv := newRegistry(t, r.store, Options{})
	return &mirrored{up, strings.TrimPrefix(srv.URL, "http://"), d.Digest.String(), r.store, snap}
}

// install writes what a client needs below dir.
func (m *mirrored) install(t *testing.T, dir, client string) {
	t.Helper()
	files, err := (&Format{}).ClientConfig(t.Context(), client, airgap.ClientRequest{HTTP: "http://" + m.server, Store: m.store, Snapshot: m.snap})
	if err != nil || len(files) == 0 {
		t.Fatalf("ClientConfig(%s) = %v, %v; want files", client, files, err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Content, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSkopeo pulls what was mirrored, pushes what the site has, and copies on
// to a registry of others.
func TestSkopeo(t *testing.T) {
	needs(t, "skopeo")
	m := newMirrored(t)
	dir := t.TempDir()
	local := "docker://" + m.server + "/" + localName(m.upstream, "lib/app")
	out := run(t, dir, "skopeo", "inspect", "--tls-verify=false", local+":1.0")
	if !strings.Contains(out, `"Architecture": "amd64"`) || !strings.Contains(out, `"1.0"`) {
		t.Errorf("skopeo inspect = %s; want amd64 and its tags", out)
	}
	run(t, dir, "skopeo", "copy", "--src-tls-verify=false", local+"@"+m.digest, "dir:"+filepath.Join(dir, "pulled"))
	if out := run(t, dir, "skopeo", "list-tags", "--tls-verify=false", local); !strings.Contains(out, "1.0") {
		t.Errorf("skopeo list-tags = %s", out)
	}
	// by the configuration that podman, buildah and skopeo read
	m.install(t, dir, "podman")
	raw := run(t, dir, "skopeo", "--registries-conf", filepath.Join(dir, podmanConf), "inspect", "--raw", "docker://"+m.upstream+"/lib/app:1.0")
	if string(canonical([]byte(raw))) != m.digest {
		t.Errorf("skopeo inspect by the original name = %s; want the index %s", raw, m.digest)
	}
	// as a rehearsal tries it
	lm, _ := m.snap.Lock.Mirror("images")
	tried := 0
	for _, tr := range (&Format{}).Trials(lm, airgap.ClientRequest{HTTP: "http://" + m.server}) {
		if tr.Needs == "curl" {
			tried++
			run(t, dir, "sh", "-ec", tr.Command)
		}
		if tr.Needs == "skopeo" {
			tried++
			run(t, dir, "sh", "-ec", strings.Replace(tr.Command, "skopeo copy", "skopeo --registries-conf "+filepath.Join(dir, podmanConf)+" copy", 1))
		}
	}
	if tried != 2 {
		t.Errorf("%d trials with skopeo and curl; want one of each", tried)
	}
	// pushing
	own := "docker://" + m.server + "/team/app:dev"
	run(t, dir, "skopeo", "copy", "--dest-tls-verify=false", "dir:"+filepath.Join(dir, "pulled"), own)
	run(t, dir, "skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", own, "docker://"+m.server+"/team/other:1")
	if out, err := command(t, dir, "skopeo", "copy", "--dest-tls-verify=false", "dir:"+filepath.Join(dir, "pulled"), local+":2"); err == nil || !strings.Contains(out, "push to a name of your own") {
		t.Errorf("skopeo copy to a mirrored name = %v, %s; want a refusal", err, out)
	}
	peer := dockerRegistry(t)
	run(t, dir, "skopeo", "sync", "--src", "docker", "--dest", "docker", "--src-tls-verify=false", "--dest-tls-verify=false", m.server+"/team/app", peer+"/copies")
	if out := run(t, dir, "skopeo", "list-tags", "--tls-verify=false", "docker://"+peer+"/copies/app"); !strings.Contains(out, "dev") {
		t.Errorf("tags at docker-registry after skopeo sync = %s; want dev", out)
	}
	// deleting
	run(t, dir, "skopeo", "delete", "--tls-verify=false", own)
	if _, err := command(t, dir, "skopeo", "inspect", "--tls-verify=false", own); err == nil {
		t.Error("skopeo inspect after delete works; want nothing")
	}
	// A collection leaves what is pushed.
	if _, err := m.store.Collect(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "skopeo", "copy", "--src-tls-verify=false", "docker://"+m.server+"/team/other:1", "dir:"+filepath.Join(dir, "again"))
}

// TestSkopeoLogsIn pushes with a name and a password.
func TestSkopeoLogsIn(t *testing.T) {
	needs(t, "skopeo")
	_, srv := newRegistry(t, openStore(t), Options{Push: &Pushers{Users: map[string]string{"ci": "right"}}})
	host, dir := strings.TrimPrefix(srv.URL, "http://"), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "img"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "img.tar"), parseRef(t, host+"/x/y:1"), rootfs(t, "amd64", map[string]string{"a": "b"})); err != nil {
		t.Fatal(err)
	}
	push := []string{"skopeo", "copy", "--dest-tls-verify=false", "docker-archive:" + filepath.Join(dir, "img.tar"), "docker://" + host + "/x/y:1"}
	if out, err := command(t, dir, push...); err == nil {
		t.Errorf("push without a password works: %s", out)
	}
	if out, err := command(t, dir, "skopeo", "login", "--tls-verify=false", "-u", "ci", "-p", "wrong", host); err == nil {
		t.Errorf("login with a wrong password works: %s", out)
	}
	run(t, dir, "skopeo", "login", "--tls-verify=false", "-u", "ci", "-p", "right", host)
	run(t, dir, push...)
	// Who is not logged in pulls.
	run(t, t.TempDir(), "skopeo", "inspect", "--tls-verify=false", "docker://"+host+"/x/y:1")
}

// TestContainerd pulls by the original name through a hosts.toml.
func TestContainerd(t *testing.T) {
	needs(t, "containerd", "ctr")
	if os.Getuid() != 0 {
		t.Skip("containerd runs as root")
	}
	m := newMirrored(t)
	dir := t.TempDir()
	m.install(t, dir, "containerd")
	sock := filepath.Join(dir, "s")
	conf := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"), sock)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	child(t, dir, func() bool { _, err := command(t, dir, "ctr", "-a", sock, "version"); return err == nil }, "containerd", "-c", filepath.Join(dir, "config.toml"), "-l", "error")
	// content fetch needs no mounts
	ref := m.upstream + "/lib/app:1.0"
	out := run(t, dir, "ctr", "-a", sock, "content", "fetch", "--platform", "linux/amd64", "--hosts-dir", filepath.Join(dir, "etc/containerd/certs.d"), ref)
	if !strings.Contains(out, m.digest) {
		t.Errorf("ctr content fetch = %s; want index %s", out, m.digest)
	}
	out = run(t, dir, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", "--platform", "linux/amd64", "--hosts-dir", filepath.Join(dir, "etc/containerd/certs.d"), ref)
	if !strings.Contains(out, "done") {
		t.Errorf("ctr images pull = %s", out)
	}
	// and pushes
	own := m.server + "/team/containerd:1"
	run(t, dir, "ctr", "-a", sock, "images", "tag", ref, own)
	run(t, dir, "ctr", "-a", sock, "images", "push", "--plain-http", "--platform", "linux/amd64", own)
	if out := run(t, dir, "skopeo", "inspect", "--tls-verify=false", "docker://"+own); !strings.Contains(out, "amd64") {
		t.Errorf("what ctr pushed = %s", out)
	}
}

// TestBuildah builds on a mirrored image and pushes what it built.
func TestBuildah(t *testing.T) {
	if _, err := exec.LookPath("buildah"); err != nil {
		t.Skip("buildah is not here") // not in CI either: it wants mounts
	}
	m := newMirrored(t)
	dir := t.TempDir()
	m.install(t, dir, "podman")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(dir, podmanConf))
	buildah := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "buildah", append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "BUILDAH_ISOLATION=chroot")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := buildah("info"); err != nil {
		t.Skipf("buildah does not run here: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "Containerfile"), []byte("FROM "+m.upstream+"/lib/app:1.0\nCOPY Containerfile /etc/made-of\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := m.server + "/team/built:1"
	if out, err := buildah("build", "--signature-policy", policy(t, dir), "-t", own, dir); err != nil {
		t.Fatalf("buildah build: %v\n%s", err, out)
	}
	if out, err := buildah("push", "--signature-policy", policy(t, dir), "--tls-verify=false", own); err != nil {
		t.Fatalf("buildah push: %v\n%s", err, out)
	}
	img, err := remote.Image(parseRef(t, own))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := img.Layers(); err != nil || len(l) != 2 {
		t.Errorf("the built image has %d layers, %v; want 2", len(l), err)
	}
}

// TestPodman pulls by the original name and pushes.
func TestPodman(t *testing.T) {
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is not here") // not in CI either: it wants mounts
	}
	m := newMirrored(t)
	dir := t.TempDir()
	m.install(t, dir, "podman")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(dir, podmanConf))
	podman := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "podman", append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := podman("info"); err != nil {
		t.Skipf("podman does not run here: %v\n%s", err, out)
	}
	own := m.server + "/team/podman:1"
	for _, args := range [][]string{
		{"pull", "--signature-policy", policy(t, dir), m.upstream + "/lib/app:1.0"},
		{"tag", m.upstream + "/lib/app:1.0", own},
		{"push", "--signature-policy", policy(t, dir), "--tls-verify=false", own},
	} {
		if out, err := podman(args...); err != nil {
			t.Fatalf("podman %s: %v\n%s", args[0], err, out)
		}
	}
	if _, err := remote.Image(parseRef(t, own)); err != nil {
		t.Error(err)
	}
}

func policy(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(path, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
