package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// docExcludes are paths that dpkg does not unpack into an image; the image
// keeps the rule for later upgrades. Hardware that no server has goes, too.
var docExcludes = []string{
	"/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*", "/usr/share/bug/*",
	"/lib/modules/*/kernel/sound/*", "/lib/modules/*/kernel/drivers/media/*", "/lib/modules/*/kernel/drivers/iio/*",
	"/lib/modules/*/kernel/drivers/staging/*", "/lib/modules/*/kernel/drivers/comedi/*", "/lib/modules/*/kernel/drivers/bluetooth/*",
	"/lib/modules/*/kernel/drivers/net/wireless/*", "/lib/modules/*/kernel/net/wireless/*", "/lib/modules/*/kernel/net/mac80211/*",
	"/lib/modules/*/kernel/net/bluetooth/*", "/lib/modules/*/kernel/drivers/gpu/drm/amd/*", "/lib/modules/*/kernel/drivers/gpu/drm/i915/*",
	"/lib/modules/*/kernel/drivers/gpu/drm/nouveau/*", "/lib/modules/*/kernel/drivers/gpu/drm/radeon/*",
	"/lib/modules/*/kernel/drivers/isdn/*", "/lib/modules/*/kernel/drivers/pcmcia/*", "/lib/modules/*/kernel/drivers/nfc/*",
}

// bootstrap runs mmdebstrap and returns the path of a tarball of the installed
// system. The packages come from debs, which are verified; apt inside finds
// them in its cache and verifies them again.
func (b *Builder) bootstrap(ctx context.Context, a *apt, spec DiskSpec, dir string, ids diskIDs, debs map[string]string) (out string, err error) {
	seed := filepath.Join(dir, "seed")
	if err := b.writeSeed(seed, spec.Arch, ids, debs); err != nil {
		return "", err
	}
	tmp, err := newMappedDir("/var/tmp")
	if err != nil {
		return "", err
	}
	defer func() {
		if rerr := tmp.remove(context.WithoutCancel(ctx), b); rerr != nil && err == nil {
			err = rerr
		}
	}()
	keys := filepath.Join(tmp.outer, "keys")
	if err := os.Mkdir(keys, 0o755); err != nil {
		return "", err
	}
	lines, err := a.sourceLines(keys)
	if err != nil {
		return "", err
	}
	mode := "root"
	if os.Geteuid() != 0 {
		mode = "unshare"
	}
	out = filepath.Join(dir, "root.tar")
	args := []string{"mmdebstrap", "--mode=" + mode, "--variant=apt", "--format=tar", "--architectures=" + spec.Arch,
		"--include=" + strings.Join(spec.include(), ","), "--skip=essential/unlink",
		"--aptopt=APT::Install-Recommends false", "--aptopt=APT::Get::Always-Include-Phased-Updates true", "--aptopt=APT::Sandbox::User root"}
	if spec.Arch != runtime.GOARCH {
		args = append(args, "--skip=check/qemu") // checkArch has run a program of it
	}
	for _, o := range a.acquire {
		args = append(args, "--aptopt="+strings.TrimSuffix(o, ";"))
	}
	for _, x := range spec.excludes() {
		args = append(args, "--dpkgopt=path-exclude="+x)
	}
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io",
		`--setup-hook=mkdir -p "$1"/var/cache/apt/archives "$1"/etc`,
		"--setup-hook=sync-in "+shellWord(seed)+" /", spec.Suite, out)
	args = append(args, lines...)
	err = b.run(ctx, tool{args: args, pkg: "mmdebstrap", env: []string{"TMPDIR=" + tmp.path}, grace: time.Minute,
		lines: func(line string) {
			if text, ok := strings.CutPrefix(line, "I: "); ok && len(text) < 60 {
				b.progress(Progress{Name: spec.Name, Stage: StageBootstrap, Text: text})
			}
		}})
	return out, err
}

// shellWord quotes a path for mmdebstrap's special hooks, which split words as
// a shell does.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeSeed writes the folder that is copied into the root before anything is
// installed: the packages, and what the kernel's ramdisk is made by.
func (b *Builder) writeSeed(seed, arch string, ids diskIDs, debs map[string]string) error {
	archives := filepath.Join(seed, "var/cache/apt/archives")
	if err := os.MkdirAll(archives, 0o755); err != nil {
		return err
	}
	for _, path := range debs {
		to := filepath.Join(archives, filepath.Base(path))
		if err := os.Link(path, to); err != nil {
			if err := copyFile(to, path); err != nil {
				return err
			}
		}
	}
	type seedFile struct {
		name, text string
		mode       os.FileMode
	}
	files := []seedFile{
		{"etc/fstab", fstab(ids), 0o644},
		{"etc/initramfs-tools/conf.d/fettle", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=6\nRESUME=none\n", 0o644},
		{"etc/initramfs-tools/hooks/fettle", initramfsHook(arch), 0o755},
	}
	if debs["mdadm"] != "" {
		files = append(files, seedFile{"etc/mdadm/mdadm.conf", mdadmConfig, 0o644})
	}
	for _, f := range files {
		path := filepath.Join(seed, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// mdadmConfig keeps mdadm's own from being made, which would list the arrays of
// the machine that builds. Arrays are put together by their members' metadata,
// whatever the host's name.
const mdadmConfig = "# Written by fettle image build: mdadm.conf(5).\nHOMEHOST <ignore>\nMAILADDR root\n"

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// bootFiles are the boot loaders that an image brings for itself.
type bootFiles struct{ shim, mokManager, grub []byte }

// unpackRoot writes the tree of an image: the tarball, without what belongs to
// one machine, with the image's own files.
func (b *Builder) unpackRoot(ctx context.Context, a *apt, spec DiskSpec, tarball, root string, ids diskIDs) (bootFiles, error) {
	var boot bootFiles
	in, err := os.Open(tarball)
	if err != nil {
		return boot, err
	}
	defer in.Close()
	fi, err := os.Stat(filepath.Join(filepath.Dir(tarball), "seed"))
	if err != nil {
		return boot, err
	}
	if err := b.run(ctx, tool{args: mapped("mkdir", "-m", "755", root), pkg: "coreutils"}); err != nil {
		return boot, err
	}
	own, err := machineFiles(a, spec, ids)
	if err != nil {
		return boot, err
	}
	files := append(imageFiles(spec.Arch), own...)
	of, capture := archs[spec.Arch], map[string]*[]byte{}
	want := func(paths []string) [][]byte {
		found := make([][]byte, len(paths))
		for i, p := range paths {
			capture[p] = &found[i]
		}
		return found
	}
	shims, moks, grubs := want(of.shims), want(of.moks), want(of.grubs)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := rewriteTar(pw, in, files, fi.ModTime(), capture)
		pw.CloseWithError(err)
		done <- err
	}()
	err = b.run(ctx, tool{args: mapped("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", root, "-f", "-"), pkg: "tar", stdin: pr})
	pr.CloseWithError(errors.New("tar has ended"))
	if werr := <-done; err == nil {
		err = werr
	}
	boot.shim, boot.mokManager, boot.grub = firstOf(shims), firstOf(moks), firstOf(grubs)
	if err == nil && (boot.shim == nil || boot.grub == nil) {
		err = errors.New("the image has no shim or no signed GRUB")
	}
	return boot, err
}

func firstOf(files [][]byte) []byte {
	for _, f := range files {
		if f != nil {
			return f
		}
	}
	return nil
}

// dropped tells which paths of an installed system belong to one machine, or
// to the build, and not into an image. Folders below var stay.
func dropped(p string, dir bool) bool {
	for _, prefix := range []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/tmp/"} {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	for _, prefix := range []string{"var/log/", "var/cache/apt/", "var/lib/apt/lists/", "var/cache/debconf/", "var/lib/systemd/"} {
		if strings.HasPrefix(p, prefix) && !dir {
			return true
		}
	}
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf",
		"etc/apt/apt.conf.d/99mmdebstrap", "etc/systemd/system/timers.target.wants/apt-daily*", "etc/systemd/system/timers.target.wants/e2scrub*",
		"etc/systemd/system/multi-user.target.wants/e2scrub*", "etc/systemd/system/timers.target.wants/dpkg-db-backup*",
		"etc/systemd/system/cloud-init.target.wants/cloud-init-hotplugd*", "var/lib/dpkg/*-old", "vmlinuz.old", "initrd.img.old", "boot/vmlinuz.old", "boot/initrd.img.old"} {
		if ok, _ := path.Match(pattern, p); ok {
			return true
		}
	}
	return false
}

// rewriteTar copies a root tarball without what is dropped and with files,
// which replace those of the same path. It captures the content of some. What
// was made after since, so by the build and not by a package, gets one
// constant time.
func rewriteTar(w io.Writer, r io.Reader, files []Entry, since time.Time, capture map[string]*[]byte) error {
	replaced := map[string]bool{}
	for _, f := range files {
		replaced[f.Path] = !f.Dir
	}
	have := map[string]bool{}
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if dropped(p, h.Typeflag == tar.TypeDir) || replaced[p] {
			continue
		}
		have[p] = true
		if h.ModTime.After(since) {
			h.ModTime = time.Unix(ramdiskTime, 0)
		}
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		for _, k := range []string{"mtime", "atime", "ctime"} {
			delete(h.PAXRecords, k) // or the writer would keep them
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		var body io.Reader = tr
		if to := capture[p]; to != nil && h.Typeflag == tar.TypeReg {
			if *to, err = io.ReadAll(tr); err != nil {
				return err
			}
			body = strings.NewReader(string(*to))
		}
		if _, err := io.Copy(tw, body); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	all, err := withParents(files)
	if err != nil {
		return err
	}
	for _, f := range slices.DeleteFunc(all, func(e Entry) bool { return e.Dir && have[e.Path] }) {
		h := &tar.Header{Name: "./" + f.Path, Mode: int64(f.Mode), Size: int64(len(f.Data)), Typeflag: tar.TypeReg, ModTime: time.Unix(ramdiskTime, 0), Uname: "root", Gname: "root"}
		switch {
		case f.Dir:
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Size, h.Mode = tar.TypeSymlink, f.Link, 0, 0o777
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if h.Size > 0 {
			if _, err := tw.Write(f.Data); err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
		}
	}
	return tw.Close()
}
