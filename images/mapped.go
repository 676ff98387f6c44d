package images

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// mapped is the beginning of the argument list of a program that must appear
// as root to the files that it makes: nothing for root, else a user namespace
// with the user's subordinate ids alone (subuid(5)), whose root is the first of
// them. It is mmdebstrap that makes it, as it makes its own: Ubuntu from 24.04
// on gives such a namespace its rights only in programs that an AppArmor
// profile names, of which mmdebstrap is one and unshare is not; and 22.04's
// unshare cannot map these ids at all.
func mapped(args ...string) []string {
	if os.Geteuid() == 0 {
		return args
	}
	return append([]string{"mmdebstrap", "--unshare-helper"}, args...)
}

// ErrNoNamespace says that an ordinary user cannot build OS images here.
var ErrNoNamespace = errors.New("no user namespace")

// CheckMapped tells whether this user may be root of a user namespace, as
// building an OS image needs.
func CheckMapped(ctx context.Context) error {
	return (&Builder{}).checkMapped(ctx)
}

func (b *Builder) checkMapped(ctx context.Context) error {
	if os.Geteuid() == 0 {
		return nil
	}
	// To become another of its users takes what a restricted namespace refuses.
	err := b.run(ctx, tool{args: mapped("chroot", "--userspec=1:1", "/", "true"), pkg: "mmdebstrap"})
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrMissingTool) {
		return err
	}
	hint := "see that the package uidmap is installed and that /etc/subuid and /etc/subgid have a range of this user's (sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER)"
	if data, rerr := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); rerr == nil && strings.TrimSpace(string(data)) == "1" {
		hint += ", and that AppArmor lets mmdebstrap make one (/etc/apparmor.d/mmdebstrap, of the package apparmor; or sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
	}
	return fmt.Errorf("%w of this user's own, which installing packages into an image takes: %s; or build the image as root: %w", ErrNoNamespace, hint, err)
}

// mappedDir is a folder that mapped programs can write to. For them an ordinary
// user's files are somebody else's, and Ubuntu's homes are closed to others: so
// it is below /var/tmp, open to all, behind a name that nobody can list or
// guess; but programs that are given it show it to ps while they run
// (IMAGES.md).
type mappedDir struct {
	outer string // the user's
	path  string // everybody's
}

// newMappedDir makes the folder; root's is in base.
func newMappedDir(base string) (mappedDir, error) {
	user := os.Geteuid() != 0
	if user {
		base = "/var/tmp"
	}
	outer, err := os.MkdirTemp(base, "fettle-image-")
	if err != nil {
		return mappedDir{}, err
	}
	m := mappedDir{outer: outer, path: filepath.Join(outer, rand.Text())}
	if err := os.Mkdir(m.path, 0o755); err != nil {
		return mappedDir{}, err
	}
	// mmdebstrap's mapped root must be able to enter.
	if err := os.Chmod(outer, 0o711); err != nil {
		return mappedDir{}, err
	}
	if user {
		return m, os.Chmod(m.path, 0o777) // whatever the umask
	}
	return m, nil
}

// remove removes the folder with the files of mapped users that are in it. It
// refuses while anything is mounted there.
func (m mappedDir) remove(ctx context.Context, b *Builder) error {
	mounts, err := mountsBelow(m.outer)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is kept because %s is still mounted in it; unmount it, then remove the folder", m.outer, strings.Join(mounts, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	entries, err := os.ReadDir(m.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", m.outer, err)
	}
	args := []string{"rm", "-rf", "--one-file-system", "--"}
	for _, e := range entries {
		args = append(args, filepath.Join(m.path, e.Name()))
	}
	if len(entries) > 0 {
		if err := b.run(ctx, tool{args: mapped(args...), pkg: "mmdebstrap"}); err != nil {
			return fmt.Errorf("removing %s: %w", m.outer, err)
		}
	}
	return removeTree(m.outer)
}
