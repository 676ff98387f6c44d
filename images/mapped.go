package images

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
// it is below /var/tmp, and open to the user and the first of the user's
// subordinate ids alone, by access control lists.
type mappedDir struct {
	outer string // the user's
	path  string // the mapped root's too
	root  uint32 // the mapped root's uid; 0 when we are root ourselves
}

// newMappedDir makes the folder; root's is in base.
func newMappedDir(base string) (m mappedDir, err error) {
	mapped := os.Geteuid() != 0
	if mapped {
		base = "/var/tmp"
		if m.root, err = subordinate("/etc/subuid"); err != nil {
			return mappedDir{}, err
		}
	}
	if m.outer, err = os.MkdirTemp(base, "fettle-image-"); err != nil {
		return mappedDir{}, err
	}
	m.path = filepath.Join(m.outer, "tree")
	if err := os.Mkdir(m.path, 0o755); err != nil {
		return mappedDir{}, err
	}
	if mapped {
		return m, errors.Join(m.allow(m.outer, aclExecute), m.allow(m.path, aclRead|aclWrite|aclExecute))
	}
	return m, os.Chmod(m.outer, 0o711) // programs that gave up being root must be able to enter
}

// subordinate is the first of this user's subordinate user ids, which mmdebstrap
// maps to root (subuid(5)).
func subordinate(file string) (uint32, error) {
	who, err := user.Current()
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != who.Username {
			continue
		}
		id, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s: line %q of user %s: the second field is no user id", file, strings.TrimSpace(line), who.Username)
		}
		return uint32(id), nil
	}
	return 0, fmt.Errorf("%s has no range for user %s: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %[2]s", file, who.Username)
}

// Entries of an access control list as the kernel takes them
// (linux/posix_acl_xattr.h), and their rights.
const (
	aclVersion                                          = 2
	aclUserObj, aclUser, aclGroupObj, aclMask, aclOther = 0x01, 0x02, 0x04, 0x10, 0x20
	aclNobody                                           = ^uint32(0)
	aclRead, aclWrite, aclExecute                       = 4, 2, 1
)

// allow opens a file or folder of the user's to the mapped root, and to nobody
// else.
func (m mappedDir) allow(path string, rights uint16) error {
	if m.root == 0 {
		return nil
	}
	acl := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range []struct {
		tag, rights uint16
		id          uint32
	}{
		{aclUserObj, rights | aclRead | aclWrite, aclNobody}, {aclUser, rights, m.root},
		{aclGroupObj, 0, aclNobody}, {aclMask, rights, aclNobody}, {aclOther, 0, aclNobody},
	} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.rights)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		return fmt.Errorf("opening %s to user id %d, who is root while the image is built: %w: its file system must have access control lists; or build the image as root", path, m.root, err)
	}
	return nil
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
