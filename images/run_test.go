package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

func TestRunTool(t *testing.T) {
	b := testBuilder(t)
	err := b.run(t.Context(), tool{args: []string{"sh", "-c", "echo one >&2; echo two >&2; exit 3"}})
	var ee *exec.ExitError
	if !errors.As(err, &ee) || ee.ExitCode() != 3 || !strings.HasSuffix(err.Error(), "one; two") {
		t.Errorf("run = %v; want status 3 and the last lines", err)
	}
	if err := b.run(t.Context(), tool{args: []string{"no-such-program"}, pkg: "nosuch"}); !errors.Is(err, ErrMissingTool) || !strings.Contains(err.Error(), "apt-get install nosuch") {
		t.Errorf("run of a missing program = %v; want ErrMissingTool with its package", err)
	}
	// Cancelled: the whole group ends, soon, though it ignores SIGTERM.
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		done <- b.run(ctx, tool{args: []string{"sh", "-c", "trap '' TERM; sleep 600 & echo started; wait; wait"}, out: w, grace: 100 * time.Millisecond})
		w.Close()
	}()
	buf := make([]byte, 8)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "started\n" {
		t.Fatalf("Read = %q, %v", buf[:n], err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("run after cancel = %v; want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("run goes on 30 s after cancel")
	}
}

func TestRunToolOnAFullDisk(t *testing.T) {
	b := &Builder{}
	err := b.run(t.Context(), tool{args: []string{"sh", "-c", "cat /proc/self/status > /dev/full"}})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("run that writes to a full disk = %v; want ENOSPC", err)
	}
}

func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	info := "22 1 0:20 / / rw - ext4 /dev/vda rw\n31 22 0:5 / " + dir + "/root/dev rw - devtmpfs udev rw\n32 22 0:5 / " + dir + `/a\040b rw - tmpfs t rw` + "\n33 22 0:5 / " + dir + "x rw - tmpfs t rw\n"
	got, err := parseMounts(strings.NewReader(info), dir)
	if want := []string{dir + "/root/dev", dir + "/a b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("parseMounts = %v, %v; want %v", got, err, want)
	}
	mustWrite(t, dir+"/w/x", "")
	if err := removeTree(dir + "/w"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/w"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat after removeTree = %v; want none", err)
	}
	if err := removeTree("/proc"); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("removeTree of a mount point = %v; want a refusal", err)
	}
}

func TestRewriteTar(t *testing.T) {
	needTool(t, "tar")
	dir := t.TempDir()
	for _, f := range []string{"etc/ssh/ssh_host_rsa_key", "etc/machine-id", "etc/hostname", "dev/null2", "usr/bin/x", "var/log/apt/term.log", "etc/apt/apt.conf.d/99mmdebstrap", "etc/keep"} {
		mustWrite(t, filepath.Join(dir, "in", f), "old "+f)
	}
	tarball, err := exec.Command("tar", "-c", "--format=posix", "-C", dir+"/in", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var x []byte
	files := []Entry{{Path: "etc/machine-id", Mode: 0o444}, {Path: "etc/new/deep", Mode: 0o644, Data: []byte("new")}, {Path: "etc/link", Link: "keep"}}
	if err := rewriteTar(&out, bytes.NewReader(tarball), files, time.Time{}, map[string]*[]byte{"usr/bin/x": &x}); err != nil {
		t.Fatal(err)
	}
	mustMkdir(t, dir+"/out")
	cmd := exec.Command("tar", "-x", "-p", "-C", dir+"/out")
	cmd.Stdin = bytes.NewReader(out.Bytes())
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, text)
	}
	var got []string
	err = filepath.Walk(dir+"/out", func(p string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			got = append(got, strings.TrimPrefix(p, dir+"/out/"))
			if fi.Mode().IsRegular() && fi.ModTime().Unix() != ramdiskTime {
				t.Errorf("%s has the time %v; want the constant one", p, fi.ModTime())
			}
		}
		return err
	})
	if want := []string{"etc/keep", "etc/link", "etc/machine-id", "etc/new/deep", "usr/bin/x"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the tree has %v, %v; want %v", got, err, want)
	}
	if string(x) != "old usr/bin/x" || mustRead(t, dir+"/out/etc/machine-id") != "" || mustRead(t, dir+"/out/etc/link") != "old etc/keep" {
		t.Error("captured, replaced or linked content is wrong")
	}
}

func TestSpecFor(t *testing.T) {
	s := &site.Site{Images: []site.Image{{Name: "debian-12", OS: "debian", Suite: "bookworm", Packages: []string{"htop", "curl"}}, {Name: "win", OS: "windows", Suite: "11"}}}
	plain, err := SpecFor(s, site.Profile{Name: "p", Image: "debian-12"})
	if err != nil || plain.Name != "debian-12" || plain.Size != DefaultDiskSize || plain.Arch != "amd64" || !slices.Equal(plain.Packages, []string{"curl", "htop"}) {
		t.Errorf("SpecFor(plain) = %+v, %v", plain, err)
	}
	if same, err := SpecFor(s, site.Profile{Name: "p", Image: "debian-12", Packages: []string{"curl"}}); err != nil || same.Name != plain.Name {
		t.Errorf("SpecFor with a package that the image has = %s, %v; want %s", same.Name, err, plain.Name)
	}
	a, err := SpecFor(s, site.Profile{Name: "a", Image: "debian-12", Packages: []string{"mdadm", "lvm2"}})
	if err != nil || !strings.HasPrefix(a.Name, "debian-12+") || CheckName(a.Name) != nil {
		t.Errorf("SpecFor with packages = %+v, %v; want debian-12+HASH", a, err)
	}
	if m, err := SpecFor(s, site.Profile{Name: "m", Image: "debian-12", Packages: []string{"lvm2"}, Layout: site.Layout{RAID: 1}}); err != nil || m.Name != a.Name {
		t.Errorf("SpecFor with a mirror = %s, %v; want %s, which has mdadm", m.Name, err, a.Name)
	}
	if b, err := SpecFor(s, site.Profile{Name: "b", Image: "debian-12", Packages: []string{"lvm2", "mdadm"}}); err != nil || b.Name != a.Name {
		t.Errorf("SpecFor in another order = %s, %v; want %s", b.Name, err, a.Name)
	}
	for _, p := range []site.Profile{{Image: "none"}, {Image: "win"}, {Image: "debian-12", Packages: []string{"--allow-unauthenticated"}}, {Image: "debian-12", Packages: []string{"a,b"}}} {
		if spec, err := SpecFor(s, p); err == nil {
			t.Errorf("SpecFor(%+v) = %+v; want an error", p, spec)
		}
	}
}

func TestInitramfsHook(t *testing.T) {
	for _, arch := range []string{amd64, arm64} {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(initramfsHook(arch))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sh -n of %s's: %v: %s", arch, err, out)
		}
	}
}
