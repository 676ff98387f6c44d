package images

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSubordinate(t *testing.T) {
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, text, err string
		want            uint32
	}{
		{"one", who.Username + ":165536:65536\n", "", 165536},
		{"the first counts", "other:100000:65536\n" + who.Username + ":300000:65536\n" + who.Username + ":500000:65536\n", "", 300000},
		{"nobody's", "other:100000:65536\n", "has no range for user " + who.Username, 0},
		{"no number", who.Username + ":many:65536\n", "is no user id", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "subuid")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := subordinate(file)
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("subordinate(%q) = %d, %v; want %d, %q", tc.text, got, err, tc.want, tc.err)
			}
		})
	}
}

// TestMappedDirIsClosed: what an image is made in is open to the user's mapped
// root, and to no other user.
func TestMappedDirIsClosed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becomes other users: needs root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "fettle-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := mappedDir{outer: dir, path: filepath.Join(dir, "tree"), root: 100000}
	disk := filepath.Join(m.path, "disk.raw")
	if err := os.Mkdir(m.path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, []byte("disk"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, rights := range map[string]uint16{m.outer: aclExecute, m.path: aclRead | aclWrite | aclExecute, disk: aclRead | aclWrite} {
		if err := m.allow(path, rights); err != nil {
			t.Fatal(err)
		}
	}
	as := func(id uint32, script string) error {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", m.path, disk)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		return cmd.Run()
	}
	if err := as(m.root, `cat "$2" >/dev/null && echo more >>"$2" && touch "$1/new"`); err != nil {
		t.Errorf("the mapped root cannot write: %v", err)
	}
	for _, script := range []string{`ls "$1"`, `cat "$2"`, `echo worse >"$2"`, `touch "$1/worse"`} {
		if err := as(65534, script); err == nil {
			t.Errorf("another user can %s", script)
		}
	}
}
